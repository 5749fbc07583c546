"""Where a shell is opened, and what it says where it cannot be."""

from pathlib import Path

import pytest

from everest.errors import UsageError
from orchestration.cli import main
from orchestration.cluster.shell import PodFolder, become_shell, exec_command
from orchestration.job import Unreachable
from orchestration.settings import PlatformSettings

SETTINGS = PlatformSettings(namespace="lab", context="far")


def test_a_command_keeps_its_words_and_has_no_terminal_where_there_is_none() -> None:
    words = exec_command(SETTINGS, "mine-worker-0", ["sh", "-c", "echo 'a b' --tty"], terminal=False)
    assert words[:4] == ["kubectl", "--context", "far", "exec"]
    assert words[words.index("--") + 1 :] == ["sh", "-c", "echo 'a b' --tty"]
    assert "--tty" not in words[: words.index("--")]
    assert "--tty" in exec_command(SETTINGS, "mine-worker-0", [], terminal=True)


@pytest.mark.parametrize(
    ("given", "rank", "command"),
    [
        ([], 0, []),
        (["--rank", "1"], 1, []),
        (["--rank", "1", "--", "sh", "-c", "echo $X"], 1, ["sh", "-c", "echo $X"]),
        (["--", "nvidia-smi", "--rank", "5"], 0, ["nvidia-smi", "--rank", "5"]),
    ],
)
def test_what_comes_after_two_dashes_is_the_command(
    given: list[str], rank: int, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    class Known:
        def __init__(self, _: PlatformSettings) -> None: ...

        def pod_of(self, job: str, rank: int) -> str:
            return f"{job} {rank}"

    monkeypatch.setattr("orchestration.cluster.launcher.KubernetesLauncher", Known)
    monkeypatch.setattr("orchestration.cluster.shell.become_shell", lambda _, *more: asked.extend(more))
    with pytest.raises(SystemExit) as ended:
        main(["shell", "mine", *given])
    assert not ended.value.code
    assert asked == [f"mine {rank}", command]


def test_without_kubectl_a_line_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="kubectl, which reaches into pods, is not on this machine"):
        become_shell(SETTINGS, "mine-worker-0", [])


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kubectl that does here what it is to do in the pod ``here``; where that works."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "pod").mkdir()
    kubectl = tmp_path / "bin/kubectl"
    kubectl.write_text(
        "#!/bin/sh\n"
        'case "$*" in *" here -- "*) ;; *) echo "Error: no pod" >&2; exit 1;; esac\n'
        f'while [ "$1" != -- ]; do shift; done; shift; cd {tmp_path}/pod && exec "$@"\n'
    )
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    return tmp_path / "pod"


def test_files_go_into_a_pods_folder_and_come_out_as_they_are(pod: Path) -> None:
    folder, content = PodFolder(SETTINGS, "here", Path("work/it's mine")), bytes(range(256)) * 999
    assert folder.read("profile/$(a) b") is None
    folder.write("profile/$(a) b", content)
    assert [path.name for path in (pod / "work/it's mine/profile").iterdir()] == ["$(a) b"]
    assert folder.read("profile/$(a) b") == content
    for _ in range(2):
        folder.remove("profile/$(a) b")
        assert folder.read("profile/$(a) b") is None


def test_a_pod_that_is_gone_is_a_line(pod: Path) -> None:
    with pytest.raises(Unreachable, match="gone: Error: no pod"):
        PodFolder(SETTINGS, "gone", Path("work/mine")).read("x")
