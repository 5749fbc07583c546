"""What a user, a file or a disk causes is one line of everest-jobs and everest-sweep, and names what it is about."""

import json
from pathlib import Path

import pytest

from orchestration import cli as jobs
from orchestration.settings import PlatformSettings
from sweeps import cli as sweeps

BYTES = bytes([0xE8, 0xFF, 0x00, 0x9B]) * 40 + b"\n"
KUBECONFIGS = {
    "empty": b"",
    "binary": BYTES,
    "a list": b"- a\n",
    "a word": b"hello",
    "broken": b"clusters: [",
    "of no context": b"clusters: []",
    "without its certificates": json.dumps({
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}], "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"client-certificate": "/nowhere/c.crt", "client-key": "/nowhere/c.key"}}],
    }).encode(),
}  # fmt: skip


def line(capsys: pytest.CaptureFixture[str], code: int) -> str:
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert "Traceback" not in said
    assert code in {1, 2}
    return said


@pytest.mark.parametrize("kind", [*KUBECONFIGS, "a folder", "absent"])
def test_a_kubeconfig_that_is_none_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    file = tmp_path / "kubeconfig"
    if kind in KUBECONFIGS:
        file.write_bytes(KUBECONFIGS[kind])
    elif kind == "a folder":
        file.mkdir()
    monkeypatch.setenv("KUBECONFIG", str(file))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))
    with pytest.raises(SystemExit) as ended:
        jobs.main(["status", "any"])
    said = line(capsys, int(str(ended.value)))
    assert said.startswith("everest-jobs: no cluster: ")
    assert "KUBECONFIG" in said


@pytest.mark.parametrize("program", ["submit", "launch"])
@pytest.mark.parametrize("kind", ["a folder", "binary", "broken", "a list", "absent", "nested"])
def test_a_recipe_or_space_that_is_none_is_one_line_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: str, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"binary": BYTES, "broken": b"a: [", "a list": b"- a", "nested": b"[" * 5000}
    if kind == "a folder":
        Path("mine.yaml").mkdir()
    elif kind in content:
        Path("mine.yaml").write_bytes(content[kind])
    main, more = (jobs.main, ["--dry-run"]) if program == "submit" else (sweeps.main, ["--trials", "1"])
    with pytest.raises(SystemExit) as ended:
        main([program, "mine.yaml", *more])
    said = line(capsys, int(str(ended.value)))
    assert "mine.yaml " in said
    assert ended.value.code == 2


@pytest.mark.parametrize("kind", ["binary", "another journal", "a folder", "no database", "a folder for one"])
def test_studies_that_are_none_are_one_line_with_their_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    file = tmp_path / "studies"
    if "folder" in kind:
        file.mkdir()
    else:
        file.write_bytes(b'{"op_code": 99}\n' if kind == "another journal" else BYTES)
    scheme = "sqlite:///" if kind in {"no database", "a folder for one"} else "journal:"
    with pytest.raises(SystemExit) as ended:
        sweeps.main(["status", "any", "--studies", f"{scheme}{file}"])
    assert str(file) in line(capsys, int(str(ended.value)))


@pytest.mark.parametrize("command", [["report"], ["status"], ["stop"], ["resume"], ["best", "--out", "x.yaml"]])
def test_a_sweep_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        sweeps.main([command[0], "nobody", *command[1:], "--work", str(tmp_path)])
    assert "no sweep 'nobody'; there are: none" in line(capsys, int(str(ended.value)))


def test_an_env_file_that_is_no_text_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PlatformSettings.model_config, "env_file", ".env")
    Path(".env").write_bytes(BYTES)
    with pytest.raises(SystemExit) as ended:
        sweeps.main(["status", "any"])
    assert ".env" in line(capsys, int(str(ended.value)))
