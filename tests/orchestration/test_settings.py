"""Settings of the platform: flags before environment before ``.env``, and mistakes in a line."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import ValidationError
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
    assert (settings.namespace, settings.gpus, settings.nodes) == ("file", 3, "5")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("gpu_resource", "gpu", r"EVEREST_GPU_RESOURCE \(--gpu-resource\) = 'gpu': must be a resource"),
        ("gpus", "eight", r"EVEREST_GPUS \(--gpus\) = 'eight': input should be a valid integer"),
        ("memory", "lots", r"EVEREST_MEMORY \(--memory\) = 'lots': must be a number"),
        ("namespace", "No Such", r"EVEREST_NAMESPACE \(--namespace\) = 'No Such'"),
        ("nodes", "0", r"EVEREST_NODES \(--nodes\) = '0': must be a number, or two as 2\.\.4"),
        ("nodes", "2-4", r"EVEREST_NODES \(--nodes\) = '2-4': must be a number, or two as 2\.\.4"),
        ("nodes", "4..2", r"EVEREST_NODES \(--nodes\) = '4..2': must be the smaller number first, as 2\.\.4"),
        ("grace_s", "5", r"EVEREST_GRACE_S \(--grace-s\) = '5': input should be greater than or equal to 30"),
        ("model_alias", "v12", r"EVEREST_MODEL_ALIAS \(--model-alias\) = 'v12': must be 1 to 255 letters"),
        ("s3_prefix", "../other", r"EVEREST_S3_PREFIX \(--s3-prefix\) = '../other'"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_setting_both_ways(name: str, value: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        PlatformSettings.load(**{name: value})
    assert "\n" not in str(error.value)


WITH_A_SECRET = [
    ("mlflow_uri", "https://me:hunter2@mlflow.example.org"),
    ("mlflow_uri", "https://hunter2@mlflow.example.org"),
    ("mlflow_uri", "https://mlflow.example.org/?token=hunter2"),
    ("mlflow_uri", "https://mlflow.example.org/#hunter2"),
    ("mlflow_uri", "postgresql://me:hunter2@db/mlflow"),
    ("pod_mlflow_uri", "http://me:hunter2@mlflow"),
    ("s3_endpoint", "https://s3.example.org?X-Amz-Signature=hunter2"),
    ("s3_endpoint", "http://me:12/hunter2@s3"),
    ("s3_endpoint", "http://me:a#hunter2@s3"),
    ("s3_endpoint", "http://me:a?hunter2@s3"),
    ("s3_endpoint", "http://me:hunter2"),
    ("s3_endpoint", "me:hunter2@s3:9000"),
    ("s3_endpoint", "http://me%3Ahunter2%40s3:9000"),
    ("pod_s3_endpoint", "http://s3?secret=hunter2@x"),
    ("s3_bucket", "s3://me:hunter2@videos"),
    ("studies", "postgresql://me:12/hunter2@db/x"),
    ("studies", "postgresql://me@db/x?password=hunter2"),
    ("studies", "postgresql://me@db/x?sslmode=require&p%61ssword=hunter2"),
    ("studies", "postgresql://me@db/x?sslpassword=hunter2"),
    ("studies", "mysql://me:hunter2@db/x"),
    ("studies", "sqlite:///x.db?password=hunter2"),
    ("pod_studies", "postgresql://me:hunter2@db/x"),
]


@pytest.mark.parametrize(("name", "address"), WITH_A_SECRET)
def test_a_secret_in_an_address_is_refused_without_repeating_it(name: str, address: str) -> None:
    with pytest.raises(UsageError, match=rf"^EVEREST_{name.upper()} \(--{name.replace('_', '-')}\) = '.*…") as error:
        PlatformSettings.load(**{name: address})
    assert "hunter2" not in str(error.value)
    with pytest.raises(ValidationError) as raw:
        PlatformSettings(**{name: address})
    assert "hunter2" not in str(raw.value)


@pytest.mark.parametrize(
    ("name", "address", "said"),
    [
        (
            "s3_endpoint",
            "s3.example.org:9000",
            "= 's3.example.org:9000': must be http://HOST:PORT or https://HOST:PORT",
        ),
        ("s3_endpoint", "s3://videos", "must be http"),
        ("s3_endpoint", "http:///videos", "must have a host"),
        ("s3_endpoint", "http://:9000", "must have a host"),
        ("s3_endpoint", "http://s3..example.org", "must have a host"),
        ("s3_endpoint", "http://10.0.0.300:9000", "must have a host"),
        ("s3_endpoint", "http://[::1:9000", "must have a host"),
        ("s3_endpoint", "http://s3:99999", "a port from 1 to 65535"),
        ("s3_endpoint", "http://s3:0", "a port from 1 to 65535"),
        ("s3_endpoint", "http://s3:nine", "a port from 1 to 65535"),
        ("s3_endpoint", "http://s3 .example.org", "no blanks"),
        ("s3_endpoint", "http://s3.example.org\n", "no blanks"),
        ("s3_endpoint", "http://s3\u200b.example.org", "no blanks"),
        ("mlflow_uri", "./mlruns", "must be http.*sqlite:///FILE"),
        ("mlflow_uri", "file:///mlruns", "must be http.*sqlite:///FILE"),
        ("mlflow_uri", "sqlite:///", "must be http.*sqlite:///FILE"),
        ("pod_mlflow_uri", "sqlite:///mlflow.db", "must be http://HOST:PORT or https://HOST:PORT"),
        ("studies", "postgresql://db", "must name a database"),
        ("studies", "postgresql:///x", "must have a host"),
        ("studies", "sqlite://x.db", "must be postgresql://"),
        ("studies", "journal:", "must be postgresql://"),
        ("pod_studies", "journal:/x", "must be postgresql://USER@HOST/DATABASE"),
        ("s3_bucket", "s3://videos", "must be a bucket's name"),
        ("s3_bucket", "Videos", "must be a bucket's name"),
        ("s3_bucket", "my_videos", "must be a bucket's name"),
        ("s3_bucket", "10.0.0.1", "must be a bucket's name"),
        ("s3_bucket", "my..videos", "must be a bucket's name"),
        ("s3_region", "us east", "must be a region"),
    ],
)
def test_an_address_that_is_none_is_refused(name: str, address: str, said: str) -> None:
    with pytest.raises(UsageError, match=rf"EVEREST_{name.upper()} \(.*{said}") as error:
        PlatformSettings.load(**{name: address})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("s3_endpoint", "http://[fd00::1]:9000"),
        ("s3_endpoint", "https://project.example.org/storage/v1/s3"),
        ("s3_endpoint", "http://127.0.0.1:7070"),
        ("s3_bucket", "my.videos-2"),
        ("mlflow_uri", "https://mlflow.example.org/team/"),
        ("mlflow_uri", "http://everest_mlflow:5000"),
        ("mlflow_uri", "sqlite:////home/my name/@work/mlflow.db"),
        ("mlflow_uri", "postgresql://me@db:5432/mlflow"),
        ("studies", "postgresql://me@db/x?sslmode=verify-full&sslkey=/keys/x&passfile=/keys/y"),
        ("studies", "postgresql://me@/x?host=/run/postgresql"),
        ("studies", "journal:/home/my name/studies.log"),
    ],
)
def test_an_address_that_is_one_is_taken_as_it_is(name: str, address: str) -> None:
    assert getattr(PlatformSettings.load(**{name: address}), name) == address


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
