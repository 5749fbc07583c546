"""Videos whose pixels tell the number of each frame, as those of the field cases do."""

from collections.abc import Mapping
from pathlib import Path

import av
import numpy as np

BITS = 8


def picture(number: int, width: int = 128, height: int = 96) -> np.ndarray:
    """uint8 (H, W, 3): the number's bits, lowest first, in the top quarter, and something that moves below."""
    image = np.zeros((height, width, 3), np.uint8)
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        image[: height // 4, left:right] = 235 if number >> bit & 1 else 16
    image[height // 2 :, (7 * number) % (width - 16) :][:, :16] = 160
    return image


def write(
    path: Path,
    codec: str,
    numbers: range,
    options: Mapping[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    rate: int = 25,
) -> Path:
    """A file of these frames, so many a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=dict(options or {}))
        stream.width, stream.height, stream.pix_fmt = 128, 96, pix_fmt
        for number in numbers:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode())
    return path


def read(frames: np.ndarray, bits: int = BITS) -> list[int]:
    """The numbers that frames show, uint8 (n, H, W, 3)."""
    _, H, W, _ = frames.shape
    blocks = frames[:, H // 8, [int((bit + 0.5) * W / bits) for bit in range(bits)]].mean(axis=-1) > 125
    return [int(number) for number in blocks @ (1 << np.arange(bits))]
