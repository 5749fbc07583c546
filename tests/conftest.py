"""What tests share: where real clips and golden numbers are, and small experiments."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from everest.config import Experiment
from everest.data.workers import start_early
from orchestration.settings import PlatformSettings
from tests.s3_proxy import S3Proxy
from tests.services import HANGS_S, S3, nothing_left_running

pytest_plugins = ["tests.platform"]

SHARED = Path(__file__).resolve().parents[2] / "shared"
CASES = Path(os.environ.get("EVEREST_TEST_CASES", SHARED / "cases"))


#: Folders of tests with processes of their own, the slowest last.
SLOW = ("contracts", "integration", "browser", "cluster")


def pytest_configure() -> None:
    """Who ends the tests ends what they have started: SIGTERM is as Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    torch.set_num_threads(1)  # for small networks more of them only wait for each other


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast ones first."""
    items.sort(key=lambda item: max((SLOW.index(part) + 1 for part in item.path.parts if part in SLOW), default=0))


@pytest.fixture(autouse=True)
def _processes_end_with_their_test(request: pytest.FixtureRequest) -> Iterator[None]:
    if not {*SLOW} & {*request.path.parts}:
        yield
        return
    start_early(Experiment())  # what serves all tests of this process is no test's own
    with nothing_left_running():
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_settings_of_this_checkout() -> None:
    """Where a developer's own runs go is nothing for tests."""
    PlatformSettings.model_config["env_file"] = None
    for name in [name for name in os.environ if name.startswith("EVEREST_") and not name.startswith("EVEREST_TEST_")]:
        del os.environ[name]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def proxy() -> Iterator[S3Proxy]:
    """Stands before the S3 server."""
    proxy = S3Proxy(S3)
    yield proxy
    proxy.close()


@pytest.fixture(scope="session")
def clips() -> Path:
    folder = Path(os.environ.get("EVEREST_TEST_CLIPS", SHARED / "clips"))
    if not folder.is_dir():
        pytest.skip(f"no real clips at {folder}; EVEREST_TEST_CLIPS names a folder of them")
    return folder


@pytest.fixture(scope="session")
def cases() -> Path:
    if not CASES.is_dir():
        pytest.skip(f"no field cases at {CASES}; EVEREST_TEST_CASES names a folder of them")
    return CASES


@pytest.fixture(scope="session")
def golden() -> Path:
    folder = Path(os.environ.get("EVEREST_TEST_GOLDEN", SHARED / "golden"))
    if not folder.is_dir():
        pytest.skip(f"no golden numbers at {folder}; EVEREST_TEST_GOLDEN names a folder of them")
    return folder


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small labelled set: 16 training and 8 validation videos."""
    from everest.data.synthetic import synthesize

    folder = tmp_path_factory.mktemp("synthetic")
    synthesize(folder, train=16, val=8, size=32, frames=8, seed=0, progress=lambda done, total: None)
    return folder


def tiny(stage: str, data: Path, **changes: object) -> Experiment:
    """An experiment of 12 steps that takes a second or two."""
    settings = {
        "name": f"tiny-{stage}", "stage": stage, "data.train": data / "train.csv", "data.val": data / "val.csv",
        "model.image_size": 32, "model.patch_size": 8, "model.num_frames": 4, "model.embed_dim": 48, "model.depth": 2,
        "model.num_heads": 3, "model.decoder_embed_dim": 24, "model.decoder_depth": 1, "model.decoder_num_heads": 2,
        "model.drop_path": 0.1, "data.rate": 2, "data.workers": 0, "optim.epochs": 3, "optim.warmup_epochs": 1,
        "optim.batch_size": 4, "optim.lr": 0.01, "optim.precision": "float32", "keep.log_steps": 1,
        "keep.checkpoint_steps": 3,
        "evaluate.segments": 2, "evaluate.crops": 1, "evaluate.every_epochs": 1,
        "keep.picture_epochs": 0,
    }  # fmt: skip
    return Experiment().override({**settings, **changes})


def pack(listed: str | Path, out: str | Path, short_side: int = 32) -> str | Path:
    """A packed set of these videos; none of them may be broken."""
    from everest.data.packed.pack import Packing, Part, how_to_pack
    from everest.data.packed.place import place_at
    from everest.data.packed.source import source_at

    with source_at(str(listed), None) as source:
        how = how_to_pack(source.index, short_side)
        packing = Packing(source, how, place_at(out), Part(), max_bad=0, time_limit=HANGS_S)
        packing.begin()
        packing.pack(workers=2)
        assert packing.finish()
    return out
