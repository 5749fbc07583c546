"""The linear classifier against scikit-learn's, and its search for a penalty."""

import logging

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from everest.errors import UsageError
from everest.probe.features import Features
from everest.probe.linear import PENALTIES, linear_probe, stratified


def some(count: int, dims: int = 12, noise: float = 1.0, seed: int = 0) -> Features:
    """Clouds of 4 classes of different sizes, on scales far apart; the last feature never changes."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(4, count, p=[0.4, 0.3, 0.2, 0.1])
    centres = np.random.default_rng(99).normal(size=(4, dims))
    values = (centres[labels] + noise * generator.normal(size=(count, dims))) * np.logspace(-3, 3, dims)
    values[:, -1] = 0.1
    return Features(torch.from_numpy(values.astype(np.float32)), torch.from_numpy(labels))


@pytest.mark.parametrize("l2", [1.0, 0.01, 1e-4])
def test_the_fit_is_that_of_another_optimiser(l2: float) -> None:
    train, others = some(300), some(50, seed=1)
    scaler = StandardScaler().fit(train.values[:, :-1].double())
    theirs = LogisticRegression(C=1 / (l2 * 300), solver="newton-cg", tol=1e-10, max_iter=1000)
    theirs.fit(scaler.transform(train.values[:, :-1].double()), train.labels)
    expected = theirs.predict_proba(scaler.transform(others.values[:, :-1].double()))
    found = linear_probe(train, 4, 0, l2)(others.values).softmax(dim=1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_classes_without_training_videos_are_never_answered() -> None:
    train = some(100)
    spread = Features(train.values, torch.tensor([1, 2, 4, 6])[train.labels])
    scores = linear_probe(spread, 8, 0, 0.1)(train.values)
    assert scores.shape == (100, 8)
    assert torch.equal(scores[:, [0, 3, 5, 7]], torch.full((100, 4), -torch.inf, dtype=torch.float64))
    torch.testing.assert_close(scores[:, [1, 2, 4, 6]], linear_probe(train, 4, 0, 0.1)(train.values))


def test_the_penalty_is_the_one_that_is_best_on_what_is_held_out() -> None:
    train = some(120, dims=30, noise=4.0)
    held_out = stratified(train.labels, seed=3)
    scores = []
    for l2 in PENALTIES:
        scaler = StandardScaler().fit(train.values[~held_out].double())
        theirs = LogisticRegression(C=1 / (l2 * int((~held_out).sum())), solver="newton-cg", tol=1e-10, max_iter=1000)
        theirs.fit(scaler.transform(train.values[~held_out].double()), train.labels[~held_out])
        scores.append(theirs.score(scaler.transform(train.values[held_out].double()), train.labels[held_out]))
    assert len({*scores}) > 1
    assert linear_probe(train, 4, seed=3).l2 == PENALTIES[int(np.argmax(scores))]


def test_a_fifth_of_each_class_is_held_out_and_the_seed_decides_which() -> None:
    labels = torch.tensor([0] * 50 + [1] * 10 + [2] * 3 + [3])
    held_out = stratified(labels, seed=0)
    assert torch.bincount(labels[held_out], minlength=4).tolist() == [10, 2, 1, 0]
    assert torch.equal(held_out, stratified(labels, seed=0))
    assert not torch.equal(held_out, stratified(labels, seed=1))


def test_without_two_videos_of_a_class_there_is_nothing_to_search_with() -> None:
    with pytest.raises(UsageError, match=r"none to search probe\.l2 with; set probe\.l2"):
        linear_probe(Features(torch.randn(4, 3), torch.arange(4)), 4, 0)


def test_an_answer_at_the_end_of_what_is_tried_is_said(caplog: pytest.LogCaptureFixture) -> None:
    noise = Features(torch.randn(40, 3), torch.arange(40) % 2)
    with caplog.at_level(logging.WARNING):
        fits = {linear_probe(noise, 2, seed).l2 for seed in range(6)}
    assert fits & {PENALTIES[0], PENALTIES[-1]}
    assert "at an end of what is tried" in caplog.text
