"""How programs end: for what comes from outside one line and no traceback, in every locale."""

import errno
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from everest.config import Experiment, ModelConfig
from everest.data.index import read_index
from everest.errors import AgreedError, UsageError
from everest.files import whole_file, write_text
from everest.model.weights import read_weights
from everest.program import doing, exit_code, printable
from everest.training.run import Result
from orchestration.settings import PlatformSettings
from tests.services import HANGS_S


def ended(work: Callable[[], object], capsys: pytest.CaptureFixture[str], **more: bool) -> tuple[int, str]:
    code = exit_code("everest", lambda: work() and None, **more)  # type: ignore[arg-type]
    return code, capsys.readouterr().err


def fail(error: Exception) -> Callable[[], object]:
    def work() -> None:
        with doing("predict"), doing("reading the model"):
            raise error

    return work


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (fail(OSError(errno.ENOSPC, "No space left on device", "/full/a")), "/full/a: No space left on device"),
        (fail(OSError(errno.EXDEV, "Cross-device", "a", None, "b")), "a -> b: Cross-device"),
        (
            fail(OSError("Caught OSError in worker 0.\nTraceback (most recent):\n  line\nOSError: gone")),
            "OSError: gone",
        ),
        (fail(RecursionError("maximum recursion depth exceeded")), "nested too deeply, or redirected without end"),
        (fail(MemoryError()), "not enough memory"),
        (fail(ConnectionResetError()), "ConnectionResetError"),
    ],
)
def test_what_comes_from_outside_is_one_line_that_says_what_was_done(
    work: Callable[[], object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(work, capsys) == (1, f"everest: predict: reading the model: {said}\n")


@pytest.mark.parametrize(
    "work",
    [
        lambda: json.loads("{"),
        lambda: json.loads("[" * 100_000),
        lambda: yaml.safe_load("a: ["),
        b"\xff".decode,
        lambda: Path("/nowhere/at/all").read_text(),
        lambda: ModelConfig.model_validate({"depth": 0}),
    ],
)
def test_files_that_are_not_what_they_should_be_leave_no_traceback(
    work: Callable[[], object], capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = ended(work, capsys)
    assert code == 1
    assert said.startswith("everest: ")
    assert len(said.splitlines()) == 1


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    def work() -> None:
        raise AssertionError("ours")

    with pytest.raises(AssertionError, match="ours"):
        exit_code("everest", work)


def test_wrong_usage_and_what_all_processes_agree_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(fail(UsageError("wrong")), capsys) == (2, "everest: wrong\n")
    assert ended(fail(AgreedError("all")), capsys, main=False) == (1, "")
    assert ended(fail(OSError("mine alone")), capsys, main=False)[1].endswith("mine alone\n")


def shell(code: str, **more: object) -> subprocess.CompletedProcess[str]:
    program = f"import sys\nfrom everest.program import exit_code\nsys.exit(exit_code('everest', lambda: {code}))"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, text=True, stderr=subprocess.PIPE, check=False,
        timeout=HANGS_S, **more,  # type: ignore[call-overload]
    )  # fmt: skip


def test_names_of_every_kind_are_printed_where_only_ascii_is() -> None:
    done = shell(r"print('caf\udce9', '\u00e9', '\u2588')", stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "caf\\udce9 \\xe9 \\u2588\n", "")
    assert printable(os.fsdecode(b"caf\xe9")) == "caf\\udce9"


def test_output_that_nobody_reads_ends_quietly_and_a_full_disk_is_said() -> None:
    read, write = os.pipe()
    os.close(read)
    done = shell("print('x' * 100_000)", stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")
    with Path("/dev/full").open("w") as full:
        done = shell("print('x')", stdout=full)
    assert done.returncode == 1
    assert done.stderr.startswith("everest: No space left on device\n")


def test_a_full_disk_names_the_file_and_leaves_what_was_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "experiment.yaml"
    write_text(file, "before")

    def work() -> None:
        with whole_file(file) as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_text("after")

    code, said = ended(work, capsys)
    assert (code, said) == (1, f"everest: {file}: No space left on device\n")
    assert [path.name for path in tmp_path.iterdir()] == ["experiment.yaml"]
    assert file.read_text() == "before"


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder that all may enter, as a user who is not root."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        us = os.geteuid()
        yield Path(folder)
        os.seteuid(us)
        for path in Path(folder).iterdir():
            path.chmod(0o700)


READING: dict[str, Callable[[Path], object]] = {
    "recipe.yaml": Experiment.load,
    "list.csv": lambda path: read_index(path, None),
    "videos": lambda path: read_index(path, None),
    "model.safetensors": read_weights,
    "model.pth": read_weights,
    "model": read_weights,
    ".env": lambda path: PlatformSettings(_env_file=path),  # type: ignore[call-arg]
    "run": Result.read,
}


@pytest.mark.parametrize("name", READING)
def test_what_may_not_be_read_is_one_line_that_names_it(
    closed: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = closed / name
    path.write_text("closed") if "." in name else path.mkdir()
    path.chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)
    code, said = ended(lambda: READING[name](path), capsys)
    assert code in {1, 2}
    assert re.fullmatch(rf"everest: .*{path}\b.*Permission denied.*\n", said), said
