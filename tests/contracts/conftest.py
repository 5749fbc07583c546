"""A store in S3 as a worker opens it, where a test's ``settings`` say."""

from collections.abc import Iterator

import pytest

from orchestration.outbox import Outbox
from orchestration.s3 import S3Store
from orchestration.settings import PlatformSettings


@pytest.fixture
def store(settings: PlatformSettings) -> Iterator[S3Store]:
    store = S3Store(settings, "run")
    yield store
    store.close()


@pytest.fixture
def uploads(store: S3Store) -> Iterator[Outbox]:
    uploads = store.uploads()
    yield uploads
    uploads.close()
