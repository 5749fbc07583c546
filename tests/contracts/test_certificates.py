"""Real servers over TLS that nobody here vouches for, and servers that send one on: said at once, with what to set."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from everest.config import Experiment
from everest.errors import EverestError, UsageError
from everest.training.local import FolderStore
from orchestration.doctor import Verdict, examine
from orchestration.s3 import S3Store
from orchestration.s3_errors import RIGHTS
from orchestration.settings import PlatformSettings
from tests.services import KEYS, Answer, Gate, until
from tests.tls import certificate, tls_server

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow warns of itself

REASONS = {"nobody vouches for it": "self-signed certificate", "it has expired": "certificate has expired"}


@pytest.fixture(params=REASONS)
def why(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """An address, and what is wrong with its certificate."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    for name in ("KUBECONFIG", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "MLFLOW_TRACKING_SERVER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    expired = request.param == "it has expired"
    pem = certificate(tmp_path, days=-1 if expired else 1)
    if expired:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(pem))
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(pem))
    with tls_server(pem) as address:
        yield address, REASONS[request.param]


def settings_of(address: str, work: Path) -> PlatformSettings:
    return PlatformSettings(s3_endpoint=address, s3_bucket="bucket", mlflow_uri=address, work=work, patience_s=900)


def at_once(action: Callable[[], object], kind: type[EverestError], said: str) -> None:
    began = time.monotonic()
    with pytest.raises(kind, match=said) as error:
        action()
    assert time.monotonic() - began < 450, "it was waited for"
    assert "\n" not in str(error.value)


def start_tracking(settings: PlatformSettings, folder: Path) -> None:
    from orchestration.tracking.connection import connect
    from orchestration.tracking.tracker import MLflowTracker

    config = Experiment().override({"name": "tracked"})
    MLflowTracker(config, folder, FolderStore(folder), connect(settings)).start({}, 0)


def test_s3_over_a_certificate_that_is_not_good(why: tuple[str, str], tmp_path: Path) -> None:
    address, reason = why
    store = S3Store(settings_of(address, tmp_path), "run")
    at_once(lambda: store.read("starts.json"), UsageError, rf"S3 bucket bucket at {address}: .*{reason}.*AWS_CA_BUNDLE")
    store.close()


def test_a_run_that_s3_let_in_before_says_it_at_once_and_goes_on_trying(
    why: tuple[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A certificate that expires in mid-run is renewed; the run's checkpoints are kept until then."""
    address, reason = why
    store = S3Store(settings_of(address, tmp_path), "run", RIGHTS.values())
    said = re.compile(rf"waiting for S3 at {address}: .*{reason}.*AWS_CA_BUNDLE")

    def end_when_said() -> None:
        until(lambda: said.search(caplog.text), "a line", every=0.01)
        store.close()

    ending = threading.Thread(target=end_when_said)
    ending.start()
    with pytest.raises(EverestError, match=f"was not reached in .*{reason}.*AWS_CA_BUNDLE"):
        store.read("starts.json")
    ending.join()


def test_mlflow_over_a_certificate_that_is_not_good(why: tuple[str, str], tmp_path: Path) -> None:
    from orchestration.tracking.runs import Runs

    address, reason = why
    said = rf"^MLflow at {address}: .*{reason} \(set MLFLOW_TRACKING_SERVER_CERT_PATH, or REQUESTS_CA_BUNDLE"
    settings = settings_of(address, tmp_path)
    at_once(lambda: start_tracking(settings, tmp_path), EverestError, said)
    at_once(lambda: Runs(settings).latest("tracked"), EverestError, said)


def test_doctor_says_of_both_what_to_set(why: tuple[str, str], tmp_path: Path) -> None:
    address, reason = why
    found = {finding.what: finding for finding in examine(settings_of(address, tmp_path))}
    for what, variable in (("S3", "AWS_CA_BUNDLE"), ("MLflow", "MLFLOW_TRACKING_SERVER_CERT_PATH")):
        assert found[what].verdict is Verdict.BAD
        assert re.search(f"{reason}.*set {variable}", found[what].said)


def test_a_file_of_authorities_that_is_not_there_is_named(
    why: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(tmp_path / "absent.pem"))
    said = r"invalid path: .*absent.pem \(set MLFLOW_TRACKING_SERVER_CERT_PATH"
    at_once(lambda: start_tracking(settings_of(why[0], tmp_path), tmp_path), EverestError, said)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_an_mlflow_that_sends_one_on_says_where_to_set_its_address(tmp_path: Path, status: int) -> None:
    gate = Gate("http://127.0.0.1:9")
    gate.instead = lambda _method, _path: Answer(status, location="https://mlflow.example.org/")
    said = rf"^MLflow at {gate.address}: it sends one on to another address \({status}\): set EVEREST_MLFLOW_URI"
    at_once(lambda: start_tracking(settings_of(gate.address, tmp_path), tmp_path), EverestError, said)
    gate.close()
