"""Nearest neighbours against each similarity computed by hand."""

from collections import defaultdict

import numpy as np
import pytest
import torch

from everest.errors import UsageError
from everest.probe.features import Features
from everest.probe.knn import knn, top


def by_hand(train: np.ndarray, labels: np.ndarray, query: np.ndarray, neighbours: int, temperature: float) -> list[int]:
    """Classes, the best first, of those that have votes."""
    cosines = [float(one @ query / np.sqrt((one @ one) * (query @ query))) for one in train]
    votes: defaultdict[int, float] = defaultdict(float)
    for at in sorted(range(len(train)), key=lambda at: -cosines[at])[:neighbours]:
        votes[int(labels[at])] += np.exp(cosines[at] / temperature)
    return sorted(votes, key=lambda label: -votes[label])


@pytest.mark.parametrize(("neighbours", "temperature"), [(1, 0.07), (7, 0.07), (7, 1.0), (60, 0.5)])
def test_the_nearest_vote_by_how_near_they_are(neighbours: int, temperature: float) -> None:
    generator = np.random.default_rng(0)
    train, queries = (generator.normal(size=(count, 5)).astype(np.float32) for count in (60, 1500))
    labels = generator.integers(0, 9, 60)
    known = Features(torch.from_numpy(train), torch.from_numpy(labels))
    votes = knn(known, torch.from_numpy(queries), 9, neighbours, temperature)
    for at in range(0, 1500, 7):
        expected = by_hand(train.astype(np.float64), labels, queries[at].astype(np.float64), neighbours, temperature)
        found = votes[at].argsort(descending=True)[: len(expected)].tolist()
        assert found == expected
        assert int((votes[at] > 0).sum()) == len(expected)


def test_a_query_that_is_a_training_video_finds_it_whatever_its_length() -> None:
    values = torch.randn(30, 6)
    labels = torch.arange(30)
    votes = knn(Features(values, labels), values * torch.rand(30, 1).add(0.1), 30, 1, 0.07)
    assert top(votes, labels, 1) == 1


def test_shares_are_of_those_whose_class_is_among_the_best() -> None:
    scores = torch.tensor([[3.0, 2, 1, 0], [0, 1, 2, 3], [1, 3, 2, 0], [2, 0, 1, 3]])
    labels = torch.tensor([0, 2, 0, 1])
    assert [top(scores, labels, count) for count in (1, 2, 3, 5)] == [0.25, 0.5, 0.75, 1]


def test_more_neighbours_than_videos_are_refused() -> None:
    with pytest.raises(UsageError, match=r"probe\.neighbours 5 is more than the 4 training videos"):
        knn(Features(torch.randn(4, 3), torch.zeros(4, dtype=torch.int64)), torch.randn(1, 3), 1, 5, 0.07)
