"""What packets tell about the frames of a video, before one is decoded."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import NamedTuple

from av.packet import Packet
from av.video.stream import VideoStream

from everest.data.reader.units import kind

#: Of these, a packet is a frame, and nothing before a key frame is needed for what is shown after it.
_CODECS = {"h264", "hevc", "vp9", "av1", "libdav1d"}
_PROGRESSIVE = (0, 1)  # of AVFieldOrder: unknown, and one picture at a time


@dataclass(frozen=True)
class Index:
    """Frames in the order they are shown, with the packets that hold them and those where decoding can begin."""

    times: tuple[int, ...]  # in units of the time base
    time_base: Fraction  # seconds
    packets: tuple[int, ...]
    keys: tuple[int, ...]  # numbers of frames that can be decoded without earlier ones, rising
    spare: frozenset[int]  # numbers of frames that no other refers to

    def __len__(self) -> int:
        return len(self.times)

    def key_before(self, number: int) -> int:
        """The last frame at which decoding can begin in order to see this one; 0 stands for the start of the file."""
        at = bisect_right(self.keys, number) - 1
        while at >= 0 and self.packets[self.keys[at]] > self.packets[number]:
            at -= 1
        return self.keys[at] if at >= 0 else 0

    def start(self, key: int) -> int:
        """The packet to begin with for that key frame."""
        return self.packets[key] if key else 0


class _Fact(NamedTuple):
    """What is known of a packet."""

    pts: int | None
    dts: int | None
    key: bool
    discard: bool
    corrupt: bool
    picture: bool
    spare: bool


def index(stream: VideoStream, packets: Iterable[Packet[VideoStream]]) -> Index | None:
    """None where only decoding from the start can tell: times missing, or out of order, or a codec whose packets
    are not its frames."""
    if stream.time_base is None or stream.codec.name not in _CODECS:
        return None
    if stream.codec_context.field_order not in _PROGRESSIVE:
        return None
    facts = [_Fact(p.pts, p.dts, p.is_keyframe, p.is_discard, p.is_corrupt, *kind(stream, p)) for p in packets]
    if not facts or not facts[0].key or any(f.pts is None or f.corrupt or not f.picture for f in facts):
        return None
    if any(before >= after for before, after in pairwise(fact.dts for fact in facts if fact.dts is not None)):
        return None
    shown = sorted((fact.pts or 0, place) for place, fact in enumerate(facts) if not fact.discard)
    times = tuple(pts for pts, _ in shown)
    if not shown or len(set(times)) < len(times) or times[0] < (facts[0].pts or 0):
        return None
    places = tuple(place for _, place in shown)
    keys = tuple(number for number, place in enumerate(places) if facts[place].key)
    return Index(times, stream.time_base, places, keys, _spare(facts, times, places))


def _spare(facts: list[_Fact], times: tuple[int, ...], places: tuple[int, ...]) -> frozenset[int]:
    """Frames that may be left out: those that are shown before what was decoded earlier, where no frame is missing.

    Elsewhere all are decoded, since only they can show that times are wrong or what a gap did.
    """
    gaps = [after - before for before, after in pairwise(times)]
    if not gaps or max(gaps) >= 1.5 * min(gaps):
        return frozenset()
    latest = list(accumulate((fact.pts or 0 for fact in facts), max))
    return frozenset(n for n, place in enumerate(places) if facts[place].spare and times[n] < latest[place])
