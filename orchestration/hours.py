"""What runs take of GPUs: for each start of a pod how many it had for how long. In S3, where it outlives them."""

import re
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from everest.errors import EverestError
from orchestration.s3 import S3Store
from orchestration.settings import PlatformSettings

FOLDER = "_hours"  # where runs are in S3, and no name of one
_KEY = re.compile(r"\d{8}T\d{6}\.\d{6}Z-(.+)-\d+\.json")
_AT_ONCE = 16  # requests
_PATIENCE_S = 15  # of a person who asks


class Stay(BaseModel):
    """Of one start of a pod: from when its process began until the last time that it noted itself."""

    model_config = ConfigDict(frozen=True)

    run: str
    user: str
    experiment: str
    sweep: str
    pod: int
    node: str
    gpus: int
    price: float | None  # of an hour of a GPU, then
    began: datetime
    until: datetime

    @property
    def key(self) -> str:
        return f"{self.began.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}-{self.run}-{self.pod}.json"

    def gpu_hours(self, since: datetime | None = None) -> float:
        """Of the part that is not before ``since``."""
        began = max(self.began, since) if since else self.began
        return max(0.0, (self.until - began).total_seconds()) / 3600 * self.gpus


@dataclass
class Spent:
    runs: set[str]
    starts: int = 0
    gpu_hours: float = 0.0
    money: float | None = 0.0  # None: of some of it no price is known


def sums(
    stays: Iterable[Stay], of: Callable[[Stay], str], price: float | None, since: datetime | None = None
) -> dict[str, Spent]:
    """By what ``of`` says of each; ``price`` of a GPU's hour for those that had none of their own."""
    found: dict[str, Spent] = {}
    for stay in stays:
        if since and stay.until < since:
            continue
        spent, hours = found.setdefault(of(stay), Spent(set())), stay.gpu_hours(since)
        paid = price if stay.price is None else stay.price
        spent.runs.add(stay.run)
        spent.starts += 1
        spent.gpu_hours += hours
        spent.money = None if spent.money is None or paid is None else spent.money + hours * paid
    return found


def stays_of(
    settings: PlatformSettings, runs: Container[str] | None = None, since: datetime | None = None
) -> list[Stay]:
    """All that were noted, of some runs or of all, and have not ended before ``since``. Raises EverestError."""
    here = settings.model_copy(update={"patience_s": min(settings.patience_s, _PATIENCE_S)})
    with closing(S3Store(here, FOLDER)) as store, ThreadPoolExecutor(_AT_ONCE) as pool:
        entries = [entry for entry in store.entries() if since is None or entry.modified >= since]
        named = [(entry.key, found[1]) for entry in entries if (found := _KEY.fullmatch(entry.key))]
        keys = [key for key, run in named if runs is None or run in runs]
        return list(_parsed(store, zip(keys, pool.map(store.content, keys), strict=True)))


def _parsed(store: S3Store, found: Iterable[tuple[str, bytes]]) -> Iterator[Stay]:
    for key, content in found:
        try:
            yield Stay.model_validate_json(content)
        except ValidationError:
            raise EverestError(f"{store.address}{key} says nothing of a pod's hours; remove it") from None
