"""Copies of what training goes on to change."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Path = tuple[Any, ...]  # the keys that lead to a tensor


class Snapshot:
    """A copy of tensors in the memory of this machine, in the same place each time.

    What is on a GPU is copied to pinned memory, in its turn after what has been given to the GPU; nobody waits for it
    but ``complete``.
    """

    def __init__(self) -> None:
        self._copies: dict[Path, Tensor] = {}
        self._copied: torch.cuda.Event | None = None

    def take(self, tree: Any) -> Any:
        """``tree``, of containers, with copies in place of its tensors; they are overwritten by the next call."""
        taken = map_tensors(tree, self._copy)
        if torch.cuda.is_initialized():
            self._copied = torch.cuda.Event()
            self._copied.record()
        return taken

    def complete(self) -> None:
        """Waits until the copies hold what they are to hold."""
        if self._copied:
            self._copied.synchronize()

    def _copy(self, path: Path, tensor: Tensor) -> Tensor:
        copy = self._copies.get(path)
        if copy is None or (copy.shape, copy.dtype) != (tensor.shape, tensor.dtype):
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._copies[path] = copy
        return copy.copy_(tensor.detach(), non_blocking=True)


def map_tensors(tree: Any, change: Callable[[Path, Tensor], Any], path: Path = ()) -> Any:
    """``tree``, of dictionaries, lists and tuples, with every tensor replaced by what ``change`` makes of it."""
    if isinstance(tree, Tensor):
        return change(path, tree)
    if isinstance(tree, dict):
        return {key: map_tensors(value, change, (*path, key)) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(map_tensors(value, change, (*path, at)) for at, value in enumerate(tree))
    return tree
