"""One platform for all tests that need one; without a cluster they skip, and say so."""

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from everest.data.synthetic import synthesize
from tests.cluster.platform import HOST, S3_FOR_PODS, Platform, host_pod_patch
from tests.services import BUCKET, KEYS, S3, MlflowServer, answers, postgres

OPERATOR = os.environ.get("EVEREST_TEST_OPERATOR", "")  # pytorchjob or trainjob; else as the platform chooses


@pytest.fixture(scope="session")
def kubeconfig() -> str:
    """Of a cluster with the training operator."""
    file = os.environ.get("KUBECONFIG", "")
    if not file:
        pytest.skip("KUBECONFIG is not set: no cluster to test on")
    asked = ["kubectl", "get", "crd", "pytorchjobs.kubeflow.org", "--request-timeout", "5s"]
    if subprocess.run(asked, capture_output=True, check=False).returncode:
        pytest.skip(f"no cluster with the training operator answers for KUBECONFIG {file}")
    if not answers(S3):
        pytest.skip(f"no S3 server at {S3} (EVEREST_TEST_S3)")
    return file


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    synthesize(folder, train=64, val=16, size=32, frames=8, seed=0, progress=lambda done, total: None)
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def platform(kubeconfig: str, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("platform")
    namespace = f"everest-{uuid.uuid4().hex[:8]}"
    prefix = f"tests/{namespace}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EVEREST_")}
    environment |= {name: os.environ.get(name, value) for name, value in KEYS.items()}
    environment |= {"MLFLOW_S3_ENDPOINT_URL": S3, "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1", "COLUMNS": "160"}
    with postgres() as database, pytest.MonkeyPatch.context() as patch:
        mlflow = MlflowServer(database, f"s3://{BUCKET}/{prefix}/unused", environment, folder / "mlflow.log", HOST)
        mlflow.start()
        for name in (*KEYS, "MLFLOW_S3_ENDPOINT_URL"):
            patch.setenv(name, environment[name])
        environment = environment | {
            "KUBECONFIG": kubeconfig,
            "EVEREST_NAMESPACE": namespace,
            "EVEREST_IMAGE": os.environ.get("EVEREST_TEST_IMAGE", "localhost/host:1"),
            "EVEREST_POD_PATCH": os.environ.get("EVEREST_TEST_POD_PATCH", str(host_pod_patch(folder / "patch.yaml"))),
            "EVEREST_DATA": str(videos),
            "EVEREST_CPU": "100m",
            "EVEREST_MEMORY": "8Gi",
            "EVEREST_SHM": "1Gi",
            "EVEREST_GRACE_S": "60",
            "EVEREST_S3_ENDPOINT": S3_FOR_PODS,
            "EVEREST_S3_BUCKET": BUCKET,
            "EVEREST_S3_PREFIX": prefix,
            "EVEREST_S3_SECRET": "s3",
            "EVEREST_MLFLOW_URI": mlflow.address,
            "EVEREST_WORK": str(folder / "work"),
            **({"EVEREST_OPERATOR": OPERATOR} if OPERATOR else {}),
        }
        made = Platform(environment, namespace, mlflow, prefix)
        subprocess.run(["kubectl", "create", "namespace", namespace], env=environment, check=True, capture_output=True)
        literals = [f"--from-literal={name}={environment[name]}" for name in KEYS]
        made.kubectl("create", "secret", "generic", "s3", *literals)
        try:
            yield made
        finally:
            subprocess.run(["kubectl", "delete", "namespace", namespace], env=environment, check=False)
            mlflow.stop()


@pytest.fixture(scope="session")
def work(platform: Platform) -> Path:
    return Path(platform.environment["EVEREST_WORK"])
