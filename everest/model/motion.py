"""How a camera moved from one frame to another: an affine map fitted to brightness, whatever else moves before it.

A coarse search over shifts and sizes, then iteratively reweighted least squares from coarse to fine (Odobez and
Bouthemy 1995): pixels that do not follow the map weigh little. Shapes and numbers of iterations are fixed, nothing
waits for the device and nothing is drawn.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_FINEST, _COARSEST = 64, 16  # pixels of a side that frames are averaged to, at least
_ITERATIONS = (4, 3, 2)  # from coarse to fine
_REACH = 5  # of the search, in pixels of the coarsest level
_SIZES = (0.8, 1.25)  # that are tried beside the frame's own
_STILL = 0.25  # pixels: no place moved further
_LESS = 0.9  # of the difference that a map must leave, or there is none


def camera_motion(after: Tensor, before: Tensor) -> Tensor:
    """Where each place of ``after`` was in ``before``, both brightness (n, H, W): (n, 2, 3), as F.affine_grid takes it.

    The identity where nothing moved, or where the map found explains the frame no better.
    """
    levels = list(zip(_pyramid(after), _pyramid(before), strict=True))
    motion = _search(*levels[0])
    for (here, there), iterations in zip(levels, _ITERATIONS, strict=False):
        for _ in range(iterations):
            motion = _refine(motion, here, there)
    none = _sized(torch.ones_like(motion[:, 0, 0]))
    pixels = motion.new_empty(2, 1)
    pixels[0], pixels[1] = after.shape[2] / 2, after.shape[1] / 2
    furthest = ((motion - none).abs() * pixels).sum(dim=2).amax(dim=1)
    found = (furthest > _STILL) & _explains(motion, *levels[-1])
    return torch.where(found[:, None, None], motion, none)


def moved(frames: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """``frames`` (n, C, H, W) as the camera would see them after ``motion``, and where it saw them at all (n, H, W)."""
    grid = F.affine_grid(motion, [len(frames), 1, *frames.shape[2:]], align_corners=False)
    return F.grid_sample(frames, grid, "bilinear", "border", align_corners=False), (grid.abs() < 1).all(dim=-1)


def _pyramid(frames: Tensor) -> list[Tensor]:
    """Averages of (n, H, W), coarsest first."""
    levels = [F.avg_pool2d(frames, max(1, min(frames.shape[1:]) // _FINEST))]
    while len(levels) < len(_ITERATIONS) and min(levels[0].shape[1:]) >= 2 * _COARSEST:
        levels.insert(0, F.avg_pool2d(levels[0], 2))
    return levels


def _sized(factor: Tensor, x: Tensor | float = 0.0, y: Tensor | float = 0.0) -> Tensor:
    """Maps that shift and scale: (n) -> (n, 2, 3)."""
    none = torch.zeros_like(factor)
    rows = [torch.stack([factor, none, none + x], dim=-1), torch.stack([none, factor, none + y], dim=-1)]
    return torch.stack(rows, dim=-2)


def _spread(frames: Tensor) -> Tensor:
    """(n, H, W) -> (n, 1, 1)"""
    return frames.flatten(1).std(dim=1).clamp(min=1e-3)[:, None, None]


def _search(after: Tensor, before: Tensor) -> Tensor:
    """The best of all whole shifts within reach and all sizes; a difference counts up to the frame's deviation."""
    h, w = after.shape[1:]
    side = 2 * _REACH + 1
    scale = _spread(after)
    smaller, larger = (moved(before[:, None], _sized(torch.full_like(after[:, 0, 0], size)))[0] for size in _SIZES)
    sizes = F.pad(torch.cat([before[:, None], smaller, larger], dim=1) / scale[:, None], (_REACH,) * 4)
    known = F.pad(torch.ones_like(after[0]), (_REACH,) * 4)
    target = (after / scale)[:, None, :, None]
    errors = []
    for row in range(side):
        shifted = sizes[:, :, row : row + h].unfold(3, w, 1)  # (n, 3, h, side, w)
        inside = known[row : row + h].unfold(1, w, 1)
        differences = (shifted - target).abs().clamp(max=1) * inside
        errors.append(differences.sum(dim=(2, 4)) / inside.sum(dim=(0, 2)))
    best = torch.stack(errors, dim=2).flatten(1).argmin(dim=1)  # of 3 * side * side
    size = best // side**2
    factor = torch.where(size == 1, _SIZES[0], torch.where(size == 2, _SIZES[1], 1.0)).to(after.dtype)
    x, y = best % side - _REACH, best // side % side - _REACH
    return _sized(factor, x * factor * 2 / w, y * factor * 2 / h)


def _refine(motion: Tensor, after: Tensor, before: Tensor) -> Tensor:
    """One step of Gauss-Newton; residuals beyond their mean weigh ever less (Geman and McClure)."""
    n, h, w = after.shape
    across = F.pad(before[:, :, 2:] - before[:, :, :-2], (1, 1)) * (w / 4)
    down = F.pad(before[:, 2:] - before[:, :-2], (0, 0, 1, 1)) * (h / 4)
    seen, inside = moved(torch.stack([before, across, down], dim=1), motion)
    residual = (after - seen[:, 0]) * inside
    scale = residual.abs().sum(dim=(1, 2)) / inside.sum(dim=(1, 2)).clamp(min=1)
    scale = scale.clamp(min=1e-2)[:, None, None]
    weight = inside / (1 + (residual / scale) ** 2) ** 2
    place = F.affine_grid(_sized(torch.ones_like(after[:1, 0, 0])), [1, 1, h, w], align_corners=False)
    place = F.pad(place, (0, 1), value=1.0).permute(0, 3, 1, 2)  # (1, 3, h, w): x, y, 1
    slopes = torch.cat([seen[:, 1:2] * place, seen[:, 2:3] * place], dim=1).flatten(2)  # (n, 6, h*w)
    weighted = slopes * weight.flatten(1)[:, None]
    normal, wanted = weighted @ slopes.mT, weighted @ residual.flatten(1)[..., None]
    damping = 1e-3 * normal.diagonal(dim1=1, dim2=2).mean(dim=1) + 1e-6
    damped = normal + damping[:, None, None] * torch.eye(6, device=after.device)
    step = torch.linalg.solve_ex(damped, wanted, check_errors=False).result
    return motion + step.clamp(-0.5, 0.5).view(n, 2, 3)


def _explains(motion: Tensor, after: Tensor, before: Tensor) -> Tensor:
    """Whether what is seen both times differs less than it does if nothing moved: (n)."""
    seen, inside = moved(before[:, None], motion)
    left, unmoved = (((after - each) / _spread(after)).abs().clamp(max=1) * inside for each in (seen[:, 0], before))
    return left.sum(dim=(1, 2)) < _LESS * unmoved.sum(dim=(1, 2))
