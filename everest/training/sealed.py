"""Files that are summed up while they are written, and known again by it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from everest.files import naming
from everest.training.manifest import Seal

#: What safetensors files call them, in the order in which they come there.
_TYPES = {
    torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32",
    torch.bfloat16: "BF16", torch.float16: "F16", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class SealedFile:
    """A file that is being written. It is never read for its sum."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._sum, self._bytes = file, sha256(), 0

    def write(self, content: bytes | memoryview) -> int:
        self._sum.update(content)
        self._bytes += len(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()

    @property
    def seal(self) -> Seal:
        return Seal(bytes=self._bytes, sha256=self._sum.hexdigest())


@contextmanager
def sealed(path: Path) -> Iterator[SealedFile]:
    """Opens it for writing. Raises OSError, which names it."""
    with naming(path), path.open("wb") as file:
        yield SealedFile(file)


def write_weights(weights: Mapping[str, Tensor], file: SealedFile) -> None:
    """What ``safetensors.torch.save`` makes of contiguous tensors on the CPU, without a second copy of them.

    https://huggingface.co/docs/safetensors/index#format
    """
    ordered = dict(sorted(weights.items(), key=lambda item: ([*_TYPES].index(item[1].dtype), item[0])))
    header, end = {}, 0
    for name, tensor in ordered.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in ordered.values():
        file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
