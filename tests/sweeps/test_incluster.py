"""A controller in the cluster, before it is there."""

from typing import Any

import pytest
import yaml

from everest.errors import UsageError
from orchestration.settings import PlatformSettings
from sweeps.cli import main
from sweeps.incluster import manifests
from sweeps.space import Space

THERE = {
    "studies": "postgresql://me@db/x", "mlflow_uri": "http://mlflow", "s3_endpoint": "http://s3", "s3_bucket": "videos",
}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"s3_bucket": None}, r"EVEREST_S3_BUCKET \(--s3-bucket\) is not set"),
        ({"s3_endpoint": "http://localhost:7070"}, "EVEREST_S3_ENDPOINT .*the pod itself; EVEREST_POD_S3_ENDPOINT"),
        ({"mlflow_uri": None}, r"EVEREST_MLFLOW_URI \(--mlflow-uri\) is not set"),
        ({"mlflow_uri": "sqlite:///mlflow.db"}, "EVEREST_MLFLOW_URI .*must begin with http"),
        ({"studies": None}, r"EVEREST_STUDIES \(--studies\) is not set"),
        ({"studies": "sqlite:///x.db"}, "EVEREST_STUDIES .*must begin with postgresql://"),
        ({"studies": "postgresql://me@127.0.0.1:5432/x"}, "EVEREST_STUDIES .*the pod itself; EVEREST_POD_STUDIES"),
        ({"studies": "postgresql://me@/x?host=/run/postgresql"}, "EVEREST_STUDIES .*the pod itself"),
        ({"pod_studies": "postgresql://me@localhost/x"}, "EVEREST_POD_STUDIES .*the pod itself"),
    ],
)
def test_what_a_controller_could_do_nothing_with_is_refused_before_it_starts(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        manifests(Space.load("smoke"), PlatformSettings(**THERE | given), [])
    assert "\n" not in str(error.value)


def test_a_controller_says_what_its_trials_will_begin_from_and_their_code() -> None:
    """As long as there is no trial nothing else does."""
    space = Space.load("finetune").changed({}, {"init": "work/mine"})
    *_, job = manifests(space, PlatformSettings(**THERE), [], "ab12")
    assert job["metadata"]["annotations"] == {"everest/inits": "work/mine", "everest/code": "ab12"}
    command = job["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command[-2:] == ["--code", "ab12"]


@pytest.mark.parametrize(
    ("flags", "handed_on"), [(["--code", "ab12"], ["--code", "ab12"]), (["--code", "ab12", "--no-code"], ["--no-code"])]
)
def test_code_that_was_sent_before_is_what_a_controllers_jobs_run(
    flags: list[str], handed_on: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in THERE.items():
        monkeypatch.setenv(f"EVEREST_{name.upper()}", value)
    with pytest.raises(SystemExit) as ended:
        main(["launch", "smoke", "--trials", "1", "--in-cluster", "--dry-run", *flags])
    assert ended.value.code in {0, None}
    *_, job = yaml.safe_load_all(capsys.readouterr().out)
    assert job["spec"]["template"]["spec"]["containers"][0]["command"][-len(handed_on) :] == handed_on


def test_what_begins_from_nothing_or_from_another_stage_needs_no_run() -> None:
    assert Space.load("masking").inits == set()
    assert Space.load("finetune").changed({}, {"init": None}).inits == set()


def test_a_controller_is_told_the_addresses_that_pods_reach() -> None:
    here = {"studies": "postgresql://me@127.0.0.1/x", "pod_studies": THERE["studies"]}
    *_, job = manifests(Space.load("smoke"), PlatformSettings(**THERE | here), [])
    environment = {each["name"]: each.get("value") for each in job["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert environment["EVEREST_STUDIES"] == THERE["studies"]
