"""How much decoding workers make at a time, and how far ahead."""

from dataclasses import dataclass

from everest.config import Experiment
from everest.data.workers import worker_count

_CLIPS = 8  # of a unit, at most, unless one video has more
_BATCHES_AHEAD = 2  # of all workers together


@dataclass(frozen=True)
class Portions:
    """How much is made at a time: batches of so many videos, with so many clips each, by so many workers."""

    videos: int
    clips: int
    workers: int

    @property
    def unit(self) -> int:
        """Videos of a unit: units are few clips each, and where it can be every worker has one of the next batch."""
        most = min(_CLIPS // self.clips, self.videos // max(1, self.workers))
        return next(size for size in range(max(1, most), 0, -1) if self.videos % size == 0)

    @property
    def units(self) -> int:
        """Of a batch."""
        return self.videos // self.unit

    @property
    def ahead(self) -> int:
        """Units that each worker makes before they are asked for."""
        return -(-_BATCHES_AHEAD * self.units // max(1, self.workers))

    @property
    def handed_over(self) -> int:
        """Clips in shared memory, at most: those made ahead, and the units of a batch that is being joined."""
        return (self.ahead * self.workers + self.units) * self.unit * self.clips if self.workers else 0


def training_portions(config: Experiment) -> Portions:
    repeats = config.data.repeats
    return Portions(config.optim.micro_batch // repeats, repeats, worker_count(config.data.workers))


def testing_portions(config: Experiment, segments: int, crops: int) -> Portions:
    """Whole videos, so many at a time that about ``evaluate.batch_size`` views make a batch."""
    views = segments * crops
    return Portions(max(1, config.evaluate.batch_size // views), views, worker_count(config.data.workers))
