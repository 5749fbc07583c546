"""The places where jobs run, by name."""

from orchestration.job import Launcher
from orchestration.settings import PlatformSettings

LAUNCHERS = ("kubernetes", "local")


def open_launcher(name: str, settings: PlatformSettings) -> Launcher:
    if name == "local":
        from orchestration.local import LocalLauncher

        return LocalLauncher(settings)
    from orchestration.cluster.launcher import KubernetesLauncher

    return KubernetesLauncher(settings)
