"""How a camera moved from one frame to another: an affine map fitted to brightness, whatever else moves before it.

A coarse search over shifts and sizes, then iteratively reweighted least squares from coarse to fine (Odobez and
Bouthemy 1995). What is fitted is normal flow, in pixels: every place with any texture counts about as much, so that
few bright edges do not outvote a faint background, and places that do not follow the map weigh little. Shapes and
numbers of iterations are fixed, nothing waits for the device and nothing is drawn.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_FINEST, _COARSEST = 64, 14  # pixels of a side that frames are averaged to, about and at least
_ITERATIONS = (5, 4, 1)  # from coarse to fine
_REACH = 5  # of the search, in pixels of the coarsest level
_SIZES = (1.0, 0.84, 1.19, 0.71, 1.41)  # that are tried
_ALIKE = 0.2  # deviations of the clip's brightness: in the search, all that differs more differs the same
_FAINT = 0.02  # deviations: slopes of a pixel, and what is gained by a map, are noise below
_STILL = 0.25  # pixels: no place moved further
_MOST = 1.5  # times as many places look more alike as look less so


def camera_motion(frames: Tensor, apart: int) -> Tensor:
    """Where each place of a frame was in the one ``apart`` before, as ``moved`` takes it.

    Brightness (B, T, H, W) -> (B, T - apart, 2, 3): the identity where nothing moved, or where the map found does not
    clearly explain most of the frame better.
    """
    B, T, H, W = frames.shape
    levels = [(each[:, apart:].flatten(0, 1), each[:, :-apart].flatten(0, 1)) for each in _pyramid(frames)]
    motion = _search(*levels[0])
    for (after, before), iterations in zip(levels, _ITERATIONS, strict=False):
        motion = _fit(motion, after, before, iterations)
    none = _sized(torch.ones_like(motion[:, 0, 0]))
    furthest = torch.stack([W / 2 * (motion - none)[:, 0], H / 2 * (motion - none)[:, 1]]).abs().sum(dim=2).amax(dim=0)
    found = (furthest > _STILL) & _explains(motion, *levels[-1])
    return torch.where(found[:, None, None], motion, none).unflatten(0, (B, T - apart))


def moved(frames: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """``frames`` (n, C, H, W) as the camera would see them after ``motion``, and where it saw them at all (n, H, W).

    ``motion`` (n, 2, 3) maps places (x, y, 1), each -1 to 1 from edge to edge.
    """
    x, y = _places(frames)
    columns = motion[:, :, 0, None, None] * x
    rows = motion[:, :, 1, None, None] * y + motion[:, :, 2, None, None]
    places = columns + rows  # (n, 2, H, W)
    seen = F.grid_sample(frames, places.permute(0, 2, 3, 1), "bilinear", "border", align_corners=False)
    return seen, (places.abs() < 1).all(dim=1)


def _places(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Of pixels' centres: x (1, W) and y (H, 1)."""
    y, x = ((torch.arange(side, device=frames.device) * 2 + 1) / side - 1 for side in frames.shape[-2:])
    return x[None], y[:, None]


def _pyramid(frames: Tensor) -> list[Tensor]:
    """Averages of (B, T, H, W) in deviations of each clip, coarsest first."""
    side = round(min(frames.shape[2:]) / _FINEST)
    finest = F.avg_pool2d(frames, side) if side > 1 else frames
    levels = [finest / finest.flatten(1).std(dim=1).clamp(min=1e-3)[:, None, None, None]]
    while len(levels) < len(_ITERATIONS) and min(levels[0].shape[2:]) >= 2 * _COARSEST:
        levels.insert(0, F.avg_pool2d(levels[0], 2))
    return levels


def _sized(factor: Tensor, x: Tensor | float = 0.0, y: Tensor | float = 0.0) -> Tensor:
    """Maps that shift and scale: (n) -> (n, 2, 3)."""
    none = torch.zeros_like(factor)
    rows = [torch.stack([factor, none, none + x], dim=-1), torch.stack([none, factor, none + y], dim=-1)]
    return torch.stack(rows, dim=-2)


def _search(after: Tensor, before: Tensor) -> Tensor:
    """The best of all whole shifts within reach and all sizes: that by which most of the frame looks alike."""
    h, w = after.shape[1:]
    side = 2 * _REACH + 1
    sizes = [moved(before[:, None], _sized(torch.full_like(after[:, 0, 0], size)))[0] for size in _SIZES]
    wide = F.pad(torch.cat(sizes, dim=1) / _ALIKE, (_REACH,) * 4, value=torch.inf)
    wide = wide.permute(1, 2, 3, 0).contiguous()  # pairs of frames last: what is computed is in one piece
    target = (after / _ALIKE).permute(1, 2, 0).contiguous()[:, None]
    differences = [  # of a row of shifts, (sizes, h, side, w, n)
        (wide[:, row : row + h].unfold(2, w, 1).mT - target).abs_().clamp_(max=1).sum(dim=(1, 3)) for row in range(side)
    ]
    shift = torch.arange(-_REACH, _REACH + 1, device=after.device)
    seen = (h - shift.abs())[:, None] * (w - shift.abs())
    errors = 1 - (h * w - torch.stack(differences, dim=1)) / seen[..., None]
    best = errors.flatten(0, 2).argmin(dim=0)
    factor = after.new_tensor(_SIZES)[best // side**2]
    x, y = shift[best % side], shift[best // side % side]
    return _sized(factor, x * factor * 2 / w, y * factor * 2 / h)


def _fit(motion: Tensor, after: Tensor, before: Tensor, iterations: int) -> Tensor:
    """Steps of Gauss-Newton; places that are pixels off weigh ever less (Geman and McClure)."""
    h, w = after.shape[1:]
    x, y = (each.expand(h, w).flatten() for each in _places(after))
    place = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    places = torch.stack([x * x, x * y, x, y * y, y, torch.ones_like(x)], dim=-1)
    across = F.pad(after[:, :, 2:] - after[:, :, :-2], (1, 1)) / 2
    down = F.pad(after[:, 2:] - after[:, :-2], (0, 0, 1, 1)) / 2
    steep = (across.square() + down.square() + _FAINT**2).rsqrt()
    slope = torch.stack([across, down], dim=1) * steep[:, None]
    slopes = torch.stack([slope[:, 0].square(), slope.prod(dim=1), slope[:, 1].square()], dim=1)
    scale = after.new_tensor([[2 / w], [2 / h]])
    for _ in range(iterations):
        seen, inside = moved(before[:, None], motion)
        off = (after - seen[:, 0]) * steep  # pixels, along the slope
        weight = inside / (1 + off.square()).square()
        normal = (slopes * weight[:, None]).flatten(2) @ places
        wanted = (slope * (weight * off)[:, None]).flatten(2) @ place
        motion = motion + (_solve(normal, wanted) * scale).clamp(-0.5, 0.5)
    return motion


def _solve(normal: Tensor, wanted: Tensor) -> Tensor:
    """A step in pixels, (n, 2, 3), from sums over a frame.

    ``normal`` (n, 3, 6): of xx, xy, yy of the slope times xx, xy, x, yy, y, 1 of the place. ``wanted`` (n, 2, 3).
    """
    slopes = torch.tensor([[0, 1], [1, 2]], device=normal.device)[:, None, :, None]
    places = torch.tensor([[0, 1, 2], [1, 3, 4], [2, 4, 5]], device=normal.device)[:, None]
    matrix = normal[:, slopes, places].flatten(3).flatten(1, 2)
    damping = 1e-3 * matrix.diagonal(dim1=1, dim2=2).mean(dim=1) + 1e-6
    damped = matrix + damping[:, None, None] * torch.eye(6, device=normal.device)
    return torch.linalg.solve_ex(damped, wanted.flatten(1), check_errors=False).result.view_as(wanted)


def _explains(motion: Tensor, after: Tensor, before: Tensor) -> Tensor:
    """Whether of the places that are seen both times most look more alike by ``motion`` than without: (n)."""
    seen, inside = moved(before[:, None], motion)
    gained = ((after - before).abs() - (after - seen[:, 0]).abs()) * inside
    more, less = ((sign * gained > _FAINT).sum(dim=(1, 2)) for sign in (1, -1))
    return more > _MOST * less
