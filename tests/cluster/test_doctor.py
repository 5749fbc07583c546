"""What is there, what is not, and what to do about it."""

import re

import pytest

from tests.cluster.platform import Platform

EVERYTHING = ("processor", "cluster", "rights", "operator", "GPUs", "image", "S3", "MLflow", "sweeps")


def findings(platform: Platform, *arguments: str, **settings: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Exit code, and verdict and line of each check."""
    done = platform.everest("doctor", *arguments, **settings)
    assert done.err == ""
    found = [re.fullmatch(r"(ok|-|!!) +(\w+) +(.+)", line) for line in done.out.splitlines()]
    return done.code, {line[2]: (line[1], line[3]) for line in found if line}


def test_all_that_a_platform_has_is_found(platform: Platform) -> None:
    code, found = findings(platform, "--pull")
    assert code == 0, found
    assert tuple(found) == EVERYTHING
    assert {what for what, (verdict, _) in found.items() if verdict != "ok"} == {"sweeps"}
    assert found["operator"][1] == "Kubeflow's training operator, v1.9.3"
    assert found["GPUs"][1] == "node0 has 16"
    assert "is pulled on node0" in found["image"][1]
    assert not [name for name in platform.names("pods") if name.startswith("everest-doctor")]


@pytest.mark.parametrize(
    ("settings", "what", "said"),
    [
        ({"KUBECONFIG": "/nowhere/config"}, "cluster", "no cluster: .*KUBECONFIG"),
        ({"EVEREST_GPUS": "64"}, "GPUs", "asks for 64 .*no node has more than 16"),
        ({"EVEREST_IMAGE": "localhost/nowhere:1"}, "image", "localhost/nowhere:1 .*cannot be pulled: ErrImagePull"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "S3", "SignatureDoesNotMatch"),
        ({"EVEREST_S3_ENDPOINT": "http://127.0.0.1:9"}, "S3", "was not reached"),
        ({"EVEREST_MLFLOW_URI": "http://127.0.0.1:9"}, "MLflow", "MLflow at http://127.0.0.1:9: .*EVEREST_MLFLOW_URI"),
        ({"EVEREST_STUDIES": "postgresql://nobody@127.0.0.1:9/x"}, "sweeps", "EVEREST_STUDIES = .*PGPASSWORD"),
    ],
)
def test_what_does_not_work_is_one_line_that_says_what_to_do(
    platform: Platform, settings: dict[str, str], what: str, said: str
) -> None:
    code, found = findings(platform, *(["--pull"] if what == "image" else []), **settings)
    assert code == 1
    verdict, line = found[what]
    assert verdict == "!!"
    assert re.search(said, line)
    assert "wrong" not in line
