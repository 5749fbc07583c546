"""What a packet is made of, as far as can be seen without decoding: whether it can be a picture that others need."""

from __future__ import annotations

import re
from typing import NamedTuple

from av.packet import Packet
from av.video.stream import VideoStream

_START_CODE = re.compile(b"\\x00\\x00\\x01(.)", re.DOTALL)


class Kind(NamedTuple):
    picture: bool  # False for a packet that holds none, or was spoiled where that shows
    spare: bool  # no other picture refers to this one


def kind(stream: VideoStream, packet: Packet[VideoStream]) -> Kind:
    first = memoryview(packet)[0]
    match stream.codec.name:
        case "h264":
            pictures = [head for head in _heads(stream, packet) if 1 <= head & 31 <= 5]
            return Kind(bool(pictures), all(head >> 5 == 0 for head in pictures))
        case "hevc":
            return Kind(any(head >> 1 & 63 < 32 for head in _heads(stream, packet)), False)
        case "vp9":
            return Kind(first >> 6 == 2, False)
        case _:  # AV1
            return Kind(first >> 7 == 0 and 1 <= first >> 3 & 15 <= 8, False)


def begins_anew(stream: VideoStream, packet: Packet[VideoStream]) -> bool:
    """An instantaneous refresh (IDR) of H.264."""
    return any(head & 31 == 5 for head in _heads(stream, packet))


def _heads(stream: VideoStream, packet: Packet[VideoStream]) -> list[int]:
    """First bytes of the H.264 or HEVC units in a packet; none where they do not add up to it."""
    data, head = memoryview(packet), stream.codec_context.extradata or b""
    at = 21 if stream.codec.name == "hevc" else 4
    if head[:1] != b"\1" or len(head) <= at:
        return [match[1][0] for match in _START_CODE.finditer(data)]
    return _counted(data, 1 + (head[at] & 3))


def _counted(data: memoryview, size: int) -> list[int]:
    """First bytes of units that each follow their length, in ``size`` bytes."""
    at, found = 0, []
    while at + size < len(data):
        found.append(data[at + size])
        length = int.from_bytes(data[at : at + size], "big")
        at += size + length
        if not length:
            return []
    return found if at == len(data) else []
