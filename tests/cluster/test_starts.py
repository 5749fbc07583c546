"""Pods that are ended while they start, and pods that S3 does not let in any more."""

import re
import time
from collections.abc import Iterator

import pytest

from tests.cluster.platform import HOST, Platform
from tests.cluster.runs import checkpoints, tiny, wait_for_step
from tests.s3_proxy import EXPIRED, S3Proxy
from tests.services import S3, until


@pytest.fixture
def proxy() -> Iterator[S3Proxy]:
    proxy = S3Proxy(S3, HOST)
    yield proxy
    proxy.close()


def test_a_pod_killed_for_its_memory_while_it_starts_ends_the_job_in_the_end(platform: Platform) -> None:
    """Too little for torch, enough for counting."""
    small = {"EVEREST_MEMORY": "120Mi", "EVEREST_SHM": "16Mi", "EVEREST_GPUS": "1", "EVEREST_BACKOFF_LIMIT": "1"}
    done = platform.jobs("submit", "demo-finetune", "--name", "starved", *tiny(10), "--wait", **small)
    assert done.code == 1, done.err
    assert "everest: started 2 times without getting further than the beginning (EVEREST_BACKOFF_LIMIT 1)" in done.err
    assert "starved failed" in done.err
    assert "starved" in platform.names(platform.kind)


def test_a_pod_replaced_while_the_credentials_have_expired_waits_for_fresh_ones(
    platform: Platform, proxy: S3Proxy
) -> None:
    behind = {"EVEREST_S3_ENDPOINT": proxy.address, "EVEREST_GPUS": "1"}
    arguments = tiny(400, **{"keep.checkpoint_steps": 20})
    waiting = platform.start("submit", "demo-finetune", "--name", "expired", *arguments, "--wait", **behind)
    wait_for_step(platform, "expired", 60)
    proxy.refused["*"] = EXPIRED
    platform.kubectl("delete", "pod", platform.pod("expired"), "--grace-period=1")
    until(
        lambda: "the job has run before, so that may pass" in platform.jobs("logs", "expired").out, "its line", every=2
    )
    time.sleep(3)
    assert waiting.poll() is None
    proxy.refused.clear()
    _, err = waiting.communicate(timeout=300)
    assert waiting.returncode == 0, err
    assert checkpoints(platform, "expired")[-1].startswith("step-00000400")
    before_its_code = platform.kubectl("logs", platform.pod("expired"))
    assert re.search(r"waiting for S3 at \S+: \d+ s of 900 \(ExpiredToken: ", before_its_code)
    log = platform.jobs("logs", "expired", "--rank", "0").out
    assert re.search(r"expired continues at step \d+", log)
