"""Which tokens are kept, and which of these are visible or hidden. Everything is an index of what is *kept*."""

from torch import Tensor


def keep_important(importance: Tensor, kept: int) -> Tensor:
    """The ``kept`` most important tokens of the whole clip, over all steps together.

    (B, S, N) -> (B, K) indices into S*N, most important first. Tokens that tie (the first two steps
    always do, in pairs) keep their order, so that the cut does not depend on the sorting algorithm.
    """
    return importance.flatten(1).sort(dim=1, descending=True, stable=True).indices[:, :kept]


def split_kept(kept_BK: Tensor, visible: int, noise_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Draws the visible ones among the kept tokens; the others are hidden, to be reconstructed.

    ``noise_BK`` is uniform; its argsort shuffles ``kept_BK``. Returns (B, V) and (B, M), both ascending.
    """
    shuffled = kept_BK.gather(1, noise_BK.argsort(dim=1))
    return shuffled[:, :visible].sort(dim=1).values, shuffled[:, visible:].sort(dim=1).values


def split_at(order_BSN: Tensor, visible: int, hidden: int) -> tuple[Tensor, Tensor]:
    """The first tokens by an order of all, and those that come next: (B, V) and (B, M), both ascending."""
    index = order_BSN.flatten(1).argsort(dim=1, stable=True)
    return index[:, :visible].sort(dim=1).values, index[:, visible : visible + hidden].sort(dim=1).values


def take(x_BLD: Tensor, index_BK: Tensor) -> Tensor:
    """The rows ``index_BK`` of (B, L, D): (B, K, D)."""
    return x_BLD.gather(1, index_BK[..., None].expand(-1, -1, x_BLD.shape[-1]))
