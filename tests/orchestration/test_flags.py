"""What a user causes is one line of the programs of jobs and sweeps too."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("program", "arguments"),
    [("orchestration", ("submit", "folder.yaml")), ("sweeps", ("launch", "folder.yaml", "--trials", "1"))],
)
def test_a_folder_in_place_of_a_file_is_one_line(tmp_path: Path, program: str, arguments: tuple[str, ...]) -> None:
    (tmp_path / "folder.yaml").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", program, *arguments],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode in {1, 2}, done.stderr
    assert done.stderr.startswith("everest-")
    assert "folder.yaml" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
