"""Errors by which a GPU, or what connects it, says that it is broken: not those of a program, nor of a peer lost."""

import re

_DEVICE = re.compile(
    r"CUDA error|CUDA driver error|CUDA-capable device|cuDNN error|CUBLAS_STATUS_(INTERNAL|EXECUTION)|"
    r"NCCL.*unhandled (cuda|system) error|uncorrectable ECC|Xid",
    re.IGNORECASE | re.DOTALL,
)
_PROGRAM = re.compile(r"out of memory|device-side assert|invalid argument|no kernel image", re.IGNORECASE)


def is_fault(error: BaseException) -> bool:
    """Whether PyTorch's error is one of those."""
    said = str(error)
    return isinstance(error, RuntimeError) and bool(_DEVICE.search(said)) and not _PROGRAM.search(said)
