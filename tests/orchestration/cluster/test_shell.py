"""Where a shell is opened, and what it says where it cannot be."""

from pathlib import Path

import pytest

from everest.errors import UsageError
from orchestration.cli import main
from orchestration.cluster.shell import become_shell, exec_command
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
    with pytest.raises(UsageError, match="kubectl, which opens shells, is not on this machine"):
        become_shell(SETTINGS, "mine-worker-0", [])
