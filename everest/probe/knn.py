"""Classes of the nearest training videos, weighted by how near they are (Wu et al. 2018, instance discrimination)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from everest.errors import UsageError
from everest.probe.features import Features

_AT_ONCE = 1024


def knn(train: Features, queries_MD: Tensor, classes: int, neighbours: int, temperature: float) -> Tensor:
    """Votes of each query's ``neighbours`` most similar training videos: (M, D) -> (M, classes), float64.

    Similarity is the cosine; a vote weighs exp((cosine - 1) / temperature). Raises UsageError where there are not so
    many training videos.
    """
    if neighbours > len(train.labels):
        raise UsageError(
            f"probe.neighbours {neighbours} is more than the {len(train.labels)} training videos; take fewer"
        )
    known_ND = F.normalize(train.values.double())
    votes = []
    for some_MD in F.normalize(queries_MD.double()).split(_AT_ONCE):
        near = (some_MD @ known_ND.T).topk(neighbours, dim=1)
        weights = ((near.values - 1) / temperature).exp()
        votes.append(weights.new_zeros(len(some_MD), classes).scatter_add_(1, train.labels[near.indices], weights))
    return torch.cat(votes)


def top(scores_MC: Tensor, labels_M: Tensor, count: int) -> float:
    """Share of the queries whose label is among the ``count`` best scores, (M, classes)."""
    best = scores_MC.topk(min(count, scores_MC.shape[1]), dim=1).indices
    return float((best == labels_M[:, None]).any(dim=1).double().mean())
