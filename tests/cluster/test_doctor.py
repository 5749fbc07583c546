"""What is there, what is not, and what to do about it."""

import re
from collections.abc import Iterator

import pytest

from orchestration.doctor import Verdict, examine
from orchestration.settings import PlatformSettings
from tests.cluster.platform import Platform


@pytest.fixture
def environment(platform: Platform) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in platform.environment.items():
            patch.setenv(name, value)
        yield patch


def test_all_that_a_platform_has_is_found(platform: Platform) -> None:
    done = platform.everest("doctor", "--pull")
    assert (done.code, done.err) == (0, "")
    found = dict(re.findall(r"^(?:ok|- ) +(\w+) +(.+)$", done.out, re.M))
    assert list(found) == [
        "processor",
        "cluster",
        "rights",
        "operator",
        "GPUs",
        "image",
        "S3",
        "MLflow",
        "sweeps",
        "news",
    ]
    operators = {"pytorchjobs": "Kubeflow's training operator, v1.9.3", "trainjobs": "Kubeflow Trainer, 1"}
    assert found["operator"].split(";")[0] == operators[platform.kind]
    assert found["GPUs"] == "node0 has 16"
    assert "is pulled on node0" in found["image"]
    assert re.fullmatch(r"\S+ answers, MLflow 3\.\d+\.\d+", found["MLflow"])
    assert not [name for name in platform.names("pods") if name.startswith("everest-doctor")]


def test_a_cluster_that_is_not_there_ends_with_1(platform: Platform) -> None:
    done = platform.everest("doctor", KUBECONFIG="/nowhere/config")
    assert done.code == 1
    assert re.search(r"^!!  cluster +no cluster: .*KUBECONFIG", done.out, re.M)


@pytest.mark.parametrize(
    ("settings", "what", "said"),
    [
        ({"EVEREST_NAMESPACE": "nowhere"}, "rights", r"^there is no namespace nowhere \(EVEREST_NAMESPACE\)$"),
        ({"EVEREST_GPUS": "64"}, "GPUs", "asks for 64 .*no node has more than 16"),
        ({"EVEREST_IMAGE": "localhost/nowhere:1"}, "image", "localhost/nowhere:1 .*cannot be pulled: ErrImagePull"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "S3", "SignatureDoesNotMatch"),
        ({"EVEREST_S3_ENDPOINT": "http://127.0.0.1:9"}, "S3", "was not reached"),
        ({"EVEREST_MLFLOW_URI": "http://127.0.0.1:9"}, "MLflow", "MLflow at http://127.0.0.1:9: .*EVEREST_MLFLOW_URI"),
        ({"EVEREST_STUDIES": "postgresql://nobody@127.0.0.1:9/x"}, "sweeps", "EVEREST_STUDIES = .*PGPASSWORD"),
    ],
)
def test_what_does_not_work_is_one_line_that_says_what_to_do(
    environment: pytest.MonkeyPatch, settings: dict[str, str], what: str, said: str
) -> None:
    for name, value in settings.items():
        environment.setenv(name, value)
    (found,) = [each for each in examine(PlatformSettings.load(), pull=what == "image") if each.what == what]
    assert found.verdict == Verdict.BAD
    assert re.search(said, found.said)
    assert "wrong" not in found.said
    assert "\n" not in found.said
