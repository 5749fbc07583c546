"""A linear classifier on frozen features: multinomial logistic regression, its penalty searched."""

import logging
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from everest.errors import UsageError
from everest.probe.features import Features
from everest.probe.knn import top
from everest.seeding import derived_seed

log = logging.getLogger(__name__)

#: What is tried, the strongest first: each fit starts from the one before.
PENALTIES = (10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5)

_HELD_OUT = 0.2
_FLAT = 1e-6  # the largest slope at which a fit is done
_ITERATIONS = 2000


@dataclass(frozen=True)
class LinearProbe:
    """Scores classes by features, standardised as those of the training."""

    mean_D: Tensor
    deviation_D: Tensor
    weight_CD: Tensor
    bias_C: Tensor  # -inf for classes without training videos
    l2: float

    def __call__(self, values_MD: Tensor) -> Tensor:
        """(M, D) -> logits (M, classes), float64."""
        return F.linear((values_MD.double() - self.mean_D) / self.deviation_D, self.weight_CD, self.bias_C)


def linear_probe(train: Features, classes: int, seed: int, l2: float | None = None) -> LinearProbe:
    """The minimum of mean cross entropy + l2 / 2 * sum of squared weights (the bias is free).

    ``l2`` None: of PENALTIES the one that is best on a fifth of each class's videos, drawn by ``seed``, when fitted on
    the others; the stronger of equal ones. Raises UsageError where no class has two videos to search with.
    """
    return _fit(train, classes, [_search(train, classes, seed) if l2 is None else l2])[0]


def _search(train: Features, classes: int, seed: int) -> float:
    held_out = stratified(train.labels, seed)
    if not held_out.any():
        raise UsageError("every class has one training video, none to search probe.l2 with; set probe.l2")
    values, labels = train.values[held_out], train.labels[held_out]
    fits = _fit(Features(train.values[~held_out], train.labels[~held_out]), classes, PENALTIES)
    best = max(fits, key=lambda fit: top(fit(values), labels, 1))
    if best.l2 in (PENALTIES[0], PENALTIES[-1]):
        log.warning("the best probe.l2 is %g, at an end of what is tried; one beyond it may be better", best.l2)
    return best.l2


def stratified(labels_N: Tensor, seed: int) -> Tensor:
    """Which are held out, bool (N,): a fifth of each class, one at least, none of a class of one."""
    generator = np.random.default_rng(derived_seed(seed, "held out"))
    held_out = torch.zeros(len(labels_N), dtype=torch.bool)
    for label in labels_N.unique().tolist():
        of_class = generator.permutation(torch.nonzero(labels_N == label)[:, 0].numpy())
        count = max(1, round(_HELD_OUT * len(of_class))) if len(of_class) > 1 else 0
        held_out[torch.from_numpy(of_class[:count])] = True
    return held_out


def _fit(train: Features, classes: int, penalties: list[float] | tuple[float, ...]) -> list[LinearProbe]:
    """One for each penalty, by L-BFGS on all videos at once."""
    values_ND = train.values.double()
    mean_D, deviation_D = values_ND.mean(dim=0), values_ND.std(dim=0, correction=0)
    deviation_D[deviation_D <= 1e-12 * values_ND.abs().amax(dim=0)] = 1  # what never changes stays 0
    values_ND = (values_ND - mean_D) / deviation_D
    present, labels_N = train.labels.unique(return_inverse=True)
    weight = torch.zeros(len(present), values_ND.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(present), dtype=torch.float64, requires_grad=True)
    fits = []
    for l2 in penalties:
        _minimize(values_ND, labels_N, weight, bias, l2)
        all_weights = weight.new_zeros(classes, values_ND.shape[1]).index_copy(0, present, weight.detach())
        all_biases = bias.new_full((classes,), -torch.inf).index_copy(0, present, bias.detach())
        fits.append(LinearProbe(mean_D, deviation_D, all_weights, all_biases, l2))
    return fits


def _minimize(values_ND: Tensor, labels_N: Tensor, weight: Tensor, bias: Tensor, l2: float) -> None:
    """Moves ``weight`` and ``bias`` to the minimum, in place."""
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_ITERATIONS, tolerance_grad=_FLAT, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(values_ND, weight, bias), labels_N) + l2 / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
        loss()
    slope = max(float(tensor.grad.abs().max()) for tensor in (weight, bias) if tensor.grad is not None)
    if slope > 10 * _FLAT:
        log.warning("the linear probe with l2 %g is not at its minimum: its slope is %.1g, not %g", l2, slope, _FLAT)
