"""Settings of the platform: flags before environment before ``.env``, and mistakes in a line."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from everest.errors import UsageError
from orchestration.settings import PlatformSettings
from sweeps.storage import open_storage


def test_flags_come_before_the_environment_and_that_before_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PlatformSettings.model_config, "env_file", ".env")
    (tmp_path / ".env").write_text("EVEREST_NAMESPACE=file\nEVEREST_GPUS=1\nEVEREST_NODES=2\nOTHER=1\n")
    monkeypatch.setenv("EVEREST_GPUS", "3")
    monkeypatch.setenv("EVEREST_NODES", "4")
    settings = PlatformSettings.load(nodes="5")
    assert (settings.namespace, settings.gpus, settings.nodes) == ("file", 3, 5)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("gpu_resource", "gpu", r"EVEREST_GPU_RESOURCE \(--gpu-resource\) = 'gpu': must be a resource"),
        ("gpus", "eight", r"EVEREST_GPUS \(--gpus\) = 'eight': input should be a valid integer"),
        ("memory", "lots", r"EVEREST_MEMORY \(--memory\) = 'lots': must be a number"),
        ("namespace", "No Such", r"EVEREST_NAMESPACE \(--namespace\) = 'No Such'"),
        ("grace_s", "5", r"EVEREST_GRACE_S \(--grace-s\) = '5': input should be greater than or equal to 30"),
        ("model_alias", "v12", r"EVEREST_MODEL_ALIAS \(--model-alias\) = 'v12': must be 1 to 255 letters"),
        ("s3_prefix", "../other", r"EVEREST_S3_PREFIX \(--s3-prefix\) = '../other'"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_setting_both_ways(name: str, value: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        PlatformSettings.load(**{name: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("who", ["me:hunter2", "hunter2"])
def test_a_password_or_token_in_an_address_is_refused_without_repeating_it(who: str) -> None:
    with pytest.raises(UsageError, match=r"holds a name or a password.*belongs into a Secret") as error:
        PlatformSettings.load(mlflow_uri=f"https://{who}@mlflow.example.org")
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("name", ["50%", "a%20b", "what?", "#1 é [x]*"])
def test_a_work_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    work = tmp_path / name
    settings = PlatformSettings(work=work)
    open_storage(settings)
    with closing(sqlite3.connect(work / "optuna.db")) as database:
        assert database.execute("select count(*) from studies").fetchone() == (0,)
    engine = create_engine(settings.tracking_uri)
    with engine.connect() as connection:
        connection.execute(text("create table here (x int)"))
    engine.dispose()
    assert sorted(path.name for path in work.iterdir() if path.suffix == ".db") == ["mlflow.db", "optuna.db"]
    assert [path.name for path in tmp_path.iterdir()] == [name]
