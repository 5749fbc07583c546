"""What a pod's worker does before and after its processes: counts, waits, and ends with a code that tells."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from everest.config import Experiment
from everest.errors import EverestError, Unfit, UsageError
from everest.protocols import LATEST
from orchestration.job import AGAIN, FAULTY, UNFIT
from orchestration.pod import starts, worker
from orchestration.s3 import S3Store
from orchestration.settings import PlatformSettings
from tests.s3_proxy import EXPIRED, S3Proxy
from tests.services import s3_settings


@pytest.fixture
def settings(proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> PlatformSettings:
    monkeypatch.setenv("EVEREST_SUBMISSION", "first")
    return s3_settings(monkeypatch, proxy.address, backoff_limit=2)


@pytest.fixture
def pod(settings: PlatformSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[PlatformSettings]:
    """Where the worker finds what is mounted in a pod."""
    (tmp_path / "experiment.yaml").write_text(Experiment().override({"name": "run"}).to_yaml())
    monkeypatch.setattr(worker, "EXPERIMENT_FILE", str(tmp_path / "experiment.yaml"))
    monkeypatch.setattr(PlatformSettings, "load", classmethod(lambda _: settings))
    monkeypatch.setattr(worker, "start_logging", lambda **_: None)
    monkeypatch.setattr("time.sleep", lambda _: None)
    handler = signal.getsignal(signal.SIGTERM)
    yield settings
    signal.signal(signal.SIGTERM, handler)


def ends_with(monkeypatch: pytest.MonkeyPatch, *codes: int) -> int:
    """The worker's exit code where its processes end with these."""
    left = list(codes)
    monkeypatch.setattr(worker, "torchrun", lambda *_, **__: left.pop(0))
    with pytest.raises(SystemExit) as ended:
        worker.main()
    assert not left
    return int(ended.value.code or 0)


def point_to(settings: PlatformSettings, checkpoint: str) -> None:
    store = S3Store(settings, "run")
    store.read(LATEST)
    store.point(LATEST, f'{{"checkpoint": "{checkpoint}"}}')
    store.close()


def test_the_worker_counts_before_anything_heavy_is_imported() -> None:
    """What is killed for its memory while torch is imported has been counted."""
    code = "import sys, orchestration.pod.worker; sys.exit(bool({'torch', 'numpy', 'mlflow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_pod_that_never_gets_further_is_started_so_often_and_no_more(settings: PlatformSettings) -> None:
    """Each is ended before it can say anything."""
    assert [starts.count_start(settings, "run").again for _ in range(3)] == [False, True, True]
    said = r"started 3 times without getting further than the beginning \(EVEREST_BACKOFF_LIMIT 2\).*submit to go on"
    for _ in range(2):
        with pytest.raises(EverestError, match=said):
            starts.count_start(settings, "run")


def test_a_new_checkpoint_and_a_new_submission_are_counted_anew(
    settings: PlatformSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for checkpoint in ("step-00000001-00000000", "step-00000002-00000000"):
        point_to(settings, checkpoint)
        for _ in range(3):
            starts.count_start(settings, "run")
    with pytest.raises(EverestError, match="further than step-00000002-00000000"):
        starts.count_start(settings, "run")
    monkeypatch.setenv("EVEREST_SUBMISSION", "second")
    assert not starts.count_start(settings, "run").again


def test_pods_of_one_job_count_for_themselves(settings: PlatformSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three starts of a job of four pods are three, also where they all count at once."""
    for _ in range(3):
        for rank in range(4):
            monkeypatch.setenv("PET_NODE_RANK", str(rank))
            starts.count_start(settings, "run")
    with pytest.raises(EverestError, match="started 3 times"):
        starts.count_start(settings, "run")


def test_what_is_kept_of_starts_may_be_anything(settings: PlatformSettings) -> None:
    store = S3Store(settings, "run")
    for key in ("starts/0.json", LATEST):
        store.point(key, "<html>")
    store.close()
    assert not starts.count_start(settings, "run").again


def test_where_it_ends_for_good_the_first_process_says_so(
    pod: PlatformSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PET_NODE_RANK", "1")
    monkeypatch.setenv("PET_NPROC_PER_NODE", "8")
    assert ends_with(monkeypatch, AGAIN, AGAIN, AGAIN) == 1
    assert "[rank 8] everest: started 3 times without getting further" in capsys.readouterr().err


def test_only_what_has_never_run_was_started_wrongly(pod: PlatformSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ends_with(monkeypatch, 2) == 2
    assert ends_with(monkeypatch, 2) == 1
    monkeypatch.setenv("EVEREST_SUBMISSION", "second")
    assert ends_with(monkeypatch, AGAIN, 2) == 1
    assert ends_with(monkeypatch, 143) == 143


def test_a_pod_on_a_node_that_is_unfit_ends_so_that_another_takes_its_place(
    pod: PlatformSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ends_with(monkeypatch, Unfit.exit_code) == UNFIT >= 128


def test_a_pod_whose_gpus_break_down_twice_leaves_its_node_too(
    pod: PlatformSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("EVEREST_NODE", "node7")
    assert ends_with(monkeypatch, FAULTY, AGAIN, FAULTY) == UNFIT
    assert "node7 has broken down 2 times by its GPUs; use another machine" in caplog.text


def test_a_start_that_was_handed_on_is_counted_once(pod: PlatformSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where code is fetched first, that counts; what breaks down later is counted by the worker."""
    for _ in range(2):
        starts.hand_on(starts.count_start(pod, "run"))
        assert ends_with(monkeypatch, 143) == 143
    starts.hand_on(starts.count_start(pod, "run"))
    assert ends_with(monkeypatch, AGAIN) == 1


@pytest.mark.filterwarnings("ignore")  # MLflow warns of itself
def test_a_pod_that_was_replaced_waits_for_its_credentials_and_a_new_job_does_not(
    proxy: S3Proxy, settings: PlatformSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 lets neither in; MLflow has a run of the one."""
    import mlflow

    settings = settings.model_copy(update={"mlflow_uri": f"sqlite:///{tmp_path / 'mlflow.db'}"})
    client = mlflow.MlflowClient(settings.tracking_uri)
    experiment = client.create_experiment("everest/data/pretrain", tmp_path.as_uri())
    client.create_run(experiment, tags={"everest.submission": "first"})
    proxy.refused["*"] = EXPIRED
    monkeypatch.setenv("EVEREST_SUBMISSION", "second")
    with pytest.raises(UsageError, match=r"S3 bucket .*: ExpiredToken: "):
        starts.count_start(settings, "run")
    monkeypatch.setenv("EVEREST_SUBMISSION", "first")
    timer = threading.Timer(1, proxy.refused.clear)
    timer.start()
    assert starts.count_start(settings, "run").let_in
    timer.join()
