"""From checkpoints in a real S3 server to versions in a real MLflow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from everest.errors import EverestError, UsageError
from everest.training.interrupt import StopRequest
from everest.training.local import METRICS, JsonLinesTracker, Trackers
from everest.training.run import run
from orchestration.cli import main
from orchestration.s3 import S3Store
from orchestration.settings import Alias, ModelName, PlatformSettings, check_argument
from tests.conftest import tiny
from tests.services import experiments, s3_settings
from tests.training.test_run import ALONE

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and boto3 warn of themselves


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformSettings]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("work")
        yield s3_settings(patch, work=folder)


@pytest.fixture(scope="module")
def trained(settings: PlatformSettings, synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> PlatformSettings:
    """Two classifiers and an autoencoder, as workers leave them."""
    from orchestration.tracking.connection import connect
    from orchestration.tracking.tracker import MLflowTracker

    connect(settings)
    for name, stage in (("first", "finetune"), ("second", "finetune"), ("auto", "pretrain")):
        config = tiny(stage, synthetic, name=name, seed=len(name), **{"keep.checkpoints": 2})
        folder = tmp_path_factory.mktemp(name)
        store = S3Store(settings, name)
        tracker = Trackers(JsonLinesTracker(folder / METRICS), MLflowTracker(config, folder, store, settings))
        run(config, folder, store, tracker, ALONE, StopRequest())
        store.point("result.json", "{}")
        store.close()
    return settings


def register(settings: PlatformSettings, run_name: str, /, **options: Any) -> Any:
    from orchestration.tracking import registry

    given = {"name": None, "alias": None, "promote_if": None, "best": False, **options}
    return registry.register(settings, run_name, **given)


def set_metric(settings: PlatformSettings, name: str, metric: str, value: float) -> Any:
    """As if that had been measured at the end; returns an MLflow client."""
    import mlflow

    client = mlflow.MlflowClient()
    (found,) = client.search_runs(experiments(client), f"tags.`everest.run` = '{name}'")
    client.log_metric(found.info.run_id, metric, value, step=1000)
    return client


def test_registering_twice_makes_one_version_with_what_the_checkpoint_holds(trained: PlatformSettings) -> None:
    import mlflow

    made, again = register(trained, "first"), register(trained, "first")
    assert made == again
    assert made.address == "models:/first@candidate"
    client = mlflow.MlflowClient()
    (version,) = client.search_model_versions("name='first'")
    store = S3Store(trained, "first")
    newest = max(key.partition("/")[0] for key in store.list() if key.startswith("step-"))
    assert version.tags["everest.address"] == f"{store.address}{newest}"
    folder = Path(trained.work)
    store.get(f"{newest}/model.safetensors", folder / "expected")
    store.close()
    got = Path(mlflow.artifacts.download_artifacts("models:/first@candidate", dst_path=str(folder / "got")))
    (weights,) = got.rglob("model.safetensors")
    expected, found = load_file(folder / "expected"), load_file(weights)
    assert all((found[name] == tensor).all() for name, tensor in expected.items())
    assert not [file for file in got.rglob("*") if file.suffix in {".pt", ".pkl", ".bin"}]


def test_an_alias_moves_only_to_a_better_version(trained: PlatformSettings) -> None:
    for name, top1 in (("first", 0.5), ("second", 0.4)):
        client = set_metric(trained, name, "test/top1", top1)
        set_metric(trained, name, "test/loss", 1 - top1)
    first = register(trained, "first", name="shared", promote_if="top1")
    assert first.address == "models:/shared@candidate"
    worse = register(trained, "second", name="shared", promote_if="top1")
    assert worse.address == "models:/shared/2"
    assert worse.said == "version 1 keeps 'candidate': test/top1 0.5 against 0.4"
    assert "version 1 keeps" in register(trained, "second", name="shared", promote_if="test/loss").said
    assert int(client.get_model_version_by_alias("shared", "candidate").version) == 1

    client.set_model_version_tag("shared", "1", "metric.test/top1", "0.3")
    better = register(trained, "second", name="shared", promote_if="top1")
    assert better.said == "version 2 is 'candidate'"
    assert int(client.get_model_version_by_alias("shared", "candidate").version) == 2


def test_without_a_number_to_compare_nothing_moves(trained: PlatformSettings) -> None:
    client = set_metric(trained, "first", "test/top5", 0.9)
    register(trained, "first", name="numberless")
    client.delete_model_version_tag("numberless", "1", "metric.test/top1")
    kept = register(trained, "second", name="numberless", promote_if="top1")
    assert kept.said == "version 1 keeps 'candidate': it has no test/top1 to compare with"
    with pytest.raises(UsageError, match=r"--promote-if f1: the run has no such metric; it has: test/loss, "):
        register(trained, "second", promote_if="f1")


def test_the_best_checkpoint_can_be_registered_instead(trained: PlatformSettings) -> None:
    import json

    import mlflow

    store = S3Store(trained, "first")
    best = json.loads(store.read("best.json") or "")
    set_metric(trained, "first", "val/top1", 0.125)  # of the last weights, which are others
    register(trained, "first", name="bests", best=True)
    (version,) = mlflow.MlflowClient().search_model_versions("name='bests'")
    assert version.tags["everest.address"] == f"{store.address}{best['checkpoint']}"
    if best["checkpoint"] != json.loads(store.read("latest.json") or "")["checkpoint"]:
        assert version.tags["metric.val/top1"] == f"{best['value']:.6g}"
        assert "metric.test/top1" not in version.tags
    store.close()


def test_what_cannot_be_registered_is_one_line(trained: PlatformSettings) -> None:
    with pytest.raises(UsageError, match="the run is a pre-training; fine-tune from it"):
        register(trained, "auto")
    with pytest.raises(UsageError, match=r"s3://.*/nobody/ holds no checkpoint that verifies"):
        register(trained, "nobody")
    with pytest.raises(UsageError, match=r"s3://.*/auto/ has no best checkpoint; .*keep.best was never measured"):
        register(trained, "auto", best=True)


def test_a_damaged_checkpoint_is_never_registered(trained: PlatformSettings, caplog: pytest.LogCaptureFixture) -> None:
    import mlflow

    store = S3Store(trained, "second")
    older, newest = sorted({key.partition("/")[0] for key in store.list() if key.startswith("step-")})[-2:]
    store.client.put_object(Bucket=store.bucket, Key=f"{store.prefix}{newest}/model.safetensors", Body=b"damaged")
    register(trained, "second", name="careful")
    assert f"checkpoint {newest} is damaged and passed over" in caplog.text
    (version,) = mlflow.MlflowClient().search_model_versions("name='careful'")
    assert version.tags["everest.address"] == f"{store.address}{older}"
    store.read("best.json")
    store.point("best.json", f'{{"checkpoint": "{newest}"}}')
    store.close()
    with pytest.raises(EverestError, match=rf"{newest} is damaged: model.safetensors is not what its manifest says"):
        register(trained, "second", name="careful", best=True)


@pytest.fixture
def unfinished(trained: PlatformSettings) -> Iterator[None]:
    """The run ``first`` as it was before its end."""
    store = S3Store(trained, "first")
    said = store.read("result.json")
    assert said
    store.delete("result.json")
    yield
    assert store.read("result.json") is None
    store.point("result.json", said)
    store.close()


@pytest.mark.usefixtures("unfinished")
def test_an_unfinished_run_gets_an_alias_only_when_told(trained: PlatformSettings) -> None:
    import mlflow

    made = register(trained, "first", name="early", promote_if="top1")
    assert made.address == "models:/early/1"
    assert made.said == "version 1 gets no alias: its run is not finished; --alias NAME gives it one"
    assert not mlflow.MlflowClient().get_registered_model("early").aliases
    assert register(trained, "first", name="early", alias="trial").address == "models:/early@trial"


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "a/b", "a:b", "../a", " a", "a\n", "it's", "a@b", "a#b", "a" * 257]
)
def test_a_name_that_mlflow_or_an_address_cannot_have_is_refused_before_anything(
    settings: PlatformSettings, name: str
) -> None:
    with pytest.raises(UsageError, match=r"--model '?.*: must be 1 to 256 letters, digits"):
        register(settings, "nobody", name=name)


@pytest.mark.parametrize(
    "alias", ["", "latest", "LATEST", "v1", "V12", "a b", "a/b", "a:b", "a.b", "a@b", "a\n", "v1\n", "a" * 256]
)
def test_an_alias_that_mlflow_refuses_is_refused_before_anything(settings: PlatformSettings, alias: str) -> None:
    with pytest.raises(UsageError, match=r"--alias '?.*: must be 1 to 255 letters, digits"):
        register(settings, "nobody", alias=alias)


def test_the_name_of_a_prompt_is_refused_before_anything_is_uploaded(trained: PlatformSettings) -> None:
    import mlflow

    client = mlflow.MlflowClient()
    client.register_prompt("prompt", "a template")
    before = set(Path(trained.work).rglob("MLmodel"))
    with pytest.raises(EverestError, match=r"MLflow at .*'prompt', but the name is already taken by a prompt"):
        register(trained, "first", name="prompt")
    assert not client.search_model_versions("name='prompt'")
    assert set(Path(trained.work).rglob("MLmodel")) == before


@pytest.mark.parametrize(("flag", "value"), [("--model", "a/b"), ("--alias", "latest"), ("--model-alias", "v1")])
def test_a_refused_name_is_one_line_and_exit_2(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["register", "nobody", flag, value])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("everest-jobs: ")
    assert flag in line
    assert repr(value) in line


@pytest.mark.parametrize("name", ["a", "my model", "Gebärden_2", "v1.0-b", "a" * 256])
@pytest.mark.parametrize("alias", ["a", "vital", "v1a", "latest-1", "1", "_x-", "a" * 255])
def test_what_mlflow_takes_is_taken(name: str, alias: str) -> None:
    from mlflow.utils import validation

    validation._validate_model_name(name)
    validation._validate_model_alias_name(alias)
    validation._validate_model_alias_name_reserved(alias)
    check_argument("--model", name, ModelName)
    check_argument("--alias", alias, Alias)
