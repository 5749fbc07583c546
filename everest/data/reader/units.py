"""What a packet is made of, as far as can be seen without decoding: enough to tell that it cannot be a picture."""

from __future__ import annotations

import re

from av.packet import Packet
from av.video.stream import VideoStream

IDR = 5  # type of an H.264 unit: a picture at which everything begins anew

_START_CODE = re.compile(b"\\x00\\x00\\x01(.)", re.DOTALL)


def unit_types(stream: VideoStream, packet: Packet[VideoStream]) -> list[int]:
    """Types of the H.264 or HEVC units in a packet; none where they do not add up to it."""
    data, head = memoryview(packet), stream.codec_context.extradata or b""
    hevc = stream.codec.name == "hevc"
    at = 21 if hevc else 4
    first_bytes = (
        _after_start_codes(data) if head[:1] != b"\1" or len(head) <= at else _counted(data, 1 + (head[at] & 3))
    )
    return [byte >> 1 & 63 if hevc else byte & 31 for byte in first_bytes]


def can_be_picture(stream: VideoStream, packet: Packet[VideoStream]) -> bool:
    """False for a packet that holds none, or was spoiled where that shows."""
    first = memoryview(packet)[0]
    match stream.codec.name:
        case "h264":
            return any(1 <= kind <= 5 for kind in unit_types(stream, packet))
        case "hevc":
            return any(kind < 32 for kind in unit_types(stream, packet))
        case "vp9":
            return first >> 6 == 2
        case _:  # AV1
            return first >> 7 == 0 and 1 <= first >> 3 & 15 <= 8


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


def _after_start_codes(data: memoryview) -> list[int]:
    return [match[1][0] for match in _START_CODE.finditer(data)]
