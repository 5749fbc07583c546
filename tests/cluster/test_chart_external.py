"""The chart as it is for real use: PostgreSQL and S3 are somebody else's, named by Secrets."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from tests.cluster.platform import HOST, S3_FOR_PODS, Platform
from tests.cluster.release import NAME, Release, host_values
from tests.helm.chart import CHART
from tests.services import BUCKET, KEYS, postgres


@pytest.fixture
def release(platform: Platform, tmp_path: Path) -> Iterator[Release]:
    namespace = f"{platform.namespace}-external"
    with postgres(HOST, more=("studies", "auth")) as mlflow:
        names = ("mlflow", "studies", "auth")
        addresses = {f"{name.upper()}_URI": mlflow.replace("/mlflow", f"/{name}") for name in names}
        database = {"PGPASSWORD": "unused", **addresses}
        who = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "a-long-password"}
        secrets = {
            "s3": {name: platform.environment[name] for name in KEYS},
            "database": database,
            "mlflow": {**who, "MLFLOW_FLASK_SERVER_SECRET_KEY": "key"},
        }
        made = Release(Platform(platform.environment, namespace, platform.mlflow, ""), tmp_path / "values.yaml")
        made.values.write_text(yaml.safe_dump(values(platform.prefix, urlsplit(mlflow).port)))
        platform.kubectl("create", "namespace", namespace)
        try:
            for name, entries in secrets.items():
                literals = [f"--from-literal={key}={value}" for key, value in entries.items()]
                made.admin.kubectl("create", "secret", "generic", name, *literals)
            yield made
        finally:
            platform.kubectl("delete", "namespace", namespace, "--wait=false")


def values(prefix: str, port: int | None) -> dict[str, object]:
    scenario, ours = yaml.safe_load((CHART / "ci/external.yaml").read_text()), host_values()
    return {
        **{name: ours[name] for name in ("image", "extraVolumes", "extraVolumeMounts", "extraEnv")},
        **scenario,
        "s3": {**scenario["s3"], "endpoint": S3_FOR_PODS, "bucket": BUCKET, "prefix": f"{prefix}/external"},
        "postgresql": {"enabled": False, "external": {"secret": "database", "port": port}},
        "mlflow": {**scenario["mlflow"], "workers": 1},
        "data": {"enabled": False},  # no volume here would bind it
    }


def test_it_runs_on_others_servers_migrates_their_databases_and_leaves_nothing(release: Release) -> None:
    release.install()
    assert release.admin.names("statefulsets") == []
    assert set(release.admin.names("secrets")) >= {"s3", "database", "mlflow"}
    ready = "jsonpath={.status.readyReplicas}"
    assert release.admin.kubectl("get", "deployment", f"{NAME}-mlflow", "-o", ready) == "2"
    assert "Succeeded" in release("test", NAME)
    release.install("--set", "dashboard.enabled=false")  # migrates first
    assert "Succeeded" in release("test", NAME)
    assert not [name for name in release.admin.names("deployments") if "dashboard" in name]
    release("uninstall", NAME, "--wait")
    assert set(release.admin.names("secrets")) == {"s3", "database", "mlflow"}
    assert release.admin.names("persistentvolumeclaims") == []
