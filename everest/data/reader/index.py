"""What packets tell about the frames of a video, before one is decoded."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from av.packet import Packet
from av.video.stream import VideoStream

from everest.data.reader.units import can_be_picture

#: Of these, a packet is a frame, and nothing before a key frame is needed for what is shown after it.
_CODECS = {"h264", "hevc", "vp9", "av1", "libdav1d"}
_PROGRESSIVE = (0, 1)  # of AVFieldOrder: unknown, and one picture at a time


@dataclass(frozen=True)
class Index:
    """Frames in the order they are shown, with the packets that hold them and those where decoding can begin."""

    times: tuple[int, ...]
    packets: tuple[int, ...]
    keys: tuple[int, ...]  # numbers of frames that can be decoded without earlier ones, rising

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


def index(stream: VideoStream, packets: Iterable[Packet[VideoStream]]) -> Index | None:
    """None where only decoding from the start can tell: times missing, or out of order, or a codec whose packets
    are not its frames."""
    if stream.codec.name not in _CODECS or stream.codec_context.field_order not in _PROGRESSIVE:
        return None
    facts = [
        (p.pts, p.dts, p.is_keyframe, p.is_discard, p.is_corrupt or not can_be_picture(stream, p)) for p in packets
    ]
    if not facts or not facts[0][2] or any(pts is None or spoiled for pts, _, _, _, spoiled in facts):
        return None
    if any(before >= after for before, after in pairwise(dts for _, dts, *_ in facts if dts is not None)):
        return None
    shown = sorted((pts or 0, place) for place, (pts, _, _, discard, _) in enumerate(facts) if not discard)
    times = tuple(pts for pts, _ in shown)
    if not shown or len(set(times)) < len(times) or times[0] < (facts[0][0] or 0):
        return None
    places = tuple(place for _, place in shown)
    keys = tuple(number for number, place in enumerate(places) if facts[place][2])
    return Index(times, places, keys)
