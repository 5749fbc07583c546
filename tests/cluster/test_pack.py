"""A set packed by pods that share the work, into S3 or onto the data volume, and jobs that learn from it."""

import shutil
from pathlib import Path

import pytest

from everest.data.index import read_packed
from tests.cluster.platform import Platform
from tests.cluster.runs import logged_steps, tiny
from tests.services import BUCKET, HANGS_S, until

pytestmark = pytest.mark.filterwarnings("ignore")  # boto3 warns of itself


@pytest.fixture(scope="module")
def here(platform: Platform, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set as one process makes it here."""
    out = tmp_path_factory.mktemp("packed") / "here"
    done = platform.everest("data", "pack", videos / "train.csv", out, "--short-side", 32)
    assert done.code == 0, done.err
    return out


def test_pods_share_the_packing_one_is_killed_and_a_job_learns_from_the_set(
    platform: Platform, here: Path, tmp_path: Path
) -> None:
    """Its bytes are those of a packing by one process here."""
    address = f"s3://{BUCKET}/{platform.prefix}/sets/train"
    command = ("pack", "/data/train.csv", address, "--parts", 3, "--short-side", 32, "--workers", 1)
    packing = platform.start(*command, "--wait")
    name = until(lambda: next(iter(platform.names("pods")), None), "a pod of the packing", HANGS_S)
    platform.kubectl("delete", "pod", name, "--grace-period=0", "--force")
    _, said = packing.communicate(timeout=HANGS_S)
    assert packing.returncode == 0, said
    assert f"pack-train is submitted; kubectl -n {platform.namespace} logs -f job/pack-train shows" in said
    assert f"{address} is packed" in said

    checked = platform.everest("data", "check", address)
    assert checked.out.startswith("64 videos, 0 left out, 8 classes, 512 frames")
    assert "0 of" in checked.out
    with pytest.MonkeyPatch.context() as patch:
        for setting in ("EVEREST_S3_ENDPOINT", "EVEREST_S3_BUCKET"):
            patch.setenv(setting, platform.environment[setting])
        patch.setenv("EVEREST_CACHE", str(tmp_path / "cache"))
        assert read_packed(address).digest() == read_packed(here).digest()

    again = platform.jobs(*command, "--wait")
    assert again.code == 0, again.err
    done = platform.jobs(
        "submit", "demo-pretrain", "--name", "on-packed", *tiny(20), "--data.train", address, "--wait",
        EVEREST_GPUS="2",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert logged_steps(platform, "on-packed") == list(range(2, 21, 2))


def test_pods_pack_onto_the_volume_that_they_read_from_and_a_job_learns_from_it(
    platform: Platform, here: Path, videos: Path, tmp_path: Path
) -> None:
    volume = tmp_path / "volume"
    shutil.copytree(videos, volume)
    volume.chmod(0o777)  # pods are not root
    command = ("pack", "/data/train.csv", "/data/sets/volume", "--parts", 2, "--short-side", 32, "--workers", 1)
    packed = platform.jobs(*command, "--wait", EVEREST_DATA=str(volume))
    assert packed.code == 0, packed.err
    assert "/data/sets/volume is packed" in packed.err
    assert read_packed(volume / "sets/volume").digest() == read_packed(here).digest()
    checked = platform.everest("data", "check", volume / "sets/volume")
    assert (checked.code, "0 of" in checked.out) == (0, True)
    done = platform.jobs(
        "submit", "demo-pretrain", "--name", "on-volume", *tiny(4), "--data.train", "/data/sets/volume", "--wait",
        EVEREST_GPUS="1", EVEREST_DATA=str(volume),
    )  # fmt: skip
    assert done.code == 0, done.err
    assert logged_steps(platform, "on-volume") == [2, 4]


def test_a_packing_that_cannot_succeed_says_why(platform: Platform) -> None:
    address = f"s3://{BUCKET}/{platform.prefix}/sets/none"
    done = platform.jobs("pack", "/data/absent.csv", address, "--name", "pack-none", "--parts", 2, "--wait")
    assert done.code == 1
    assert "pack-none failed: " in done.err
    assert "said last: everest: /data/absent.csv does not exist; give a list file or a folder of videos" in done.err
    nowhere = platform.jobs("pack", "/data/train.csv", address, "--data", "")
    assert nowhere.code == 2
