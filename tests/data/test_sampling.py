"""Frames of a clip."""

import numpy as np
import pytest

from everest.data.sampling import dense, dense_view, segments


def test_pretraining_takes_every_fourth_frame() -> None:
    assert dense(1000, 16, 4, where=0.0).tolist() == list(range(0, 64, 4))
    assert dense(1000, 16, 4, where=1.0).tolist() == list(range(936, 1000, 4))


def test_finetuning_spreads_sixteen_frames_over_sixty_four() -> None:
    found = dense(1000, 16, 4, where=0.0, spread=True)
    assert found[0] == 0
    assert found[-1] == 63
    assert np.diff(found)[:-1].mean() == pytest.approx(64 / 15, abs=0.1)


@pytest.mark.parametrize("spread", [True, False])
@pytest.mark.parametrize("total", [1, 3, 20, 63, 64, 65, 300])
@pytest.mark.parametrize("where", [0.0, 0.3, 1.0])
def test_frames_exist_and_are_in_order_however_short_the_video(spread: bool, total: int, where: float) -> None:
    for found in (dense(total, 16, 4, where, spread), segments(total, 16, where)):
        assert len(found) == 16
        assert found.min() >= 0
        assert found.max() < total
        assert (np.diff(found) >= 0).all()


def test_a_short_video_repeats_its_last_frame() -> None:
    assert dense(6, 4, 2, where=0.7).tolist() == [0, 2, 4, 5]
    assert dense(3, 4, 2, where=0.0).tolist() == [0, 2, 2, 2]


def test_every_window_of_a_long_video_can_be_chosen() -> None:
    starts = {int(dense(70, 16, 4, where)[0]) for where in np.linspace(0, 1, 100)}
    assert starts == set(range(7))


def test_segments_take_one_frame_from_each_part() -> None:
    assert segments(80, 8, 0.5).tolist() == [5, 15, 25, 35, 45, 55, 65, 75]
    random = segments(80, 8, np.random.default_rng(0).uniform(size=8))
    assert (random // 10).tolist() == list(range(8))


@pytest.mark.parametrize("total", [40, 64, 65, 66, 300, 301])
@pytest.mark.parametrize("views", [2, 5, 10])
def test_dense_views_are_those_of_videomae(total: int, views: int) -> None:
    """As its paper and users describe the test: sample at the rate, pad by the last, cut clips at equal steps."""
    sampled = list(range(0, total, 4))
    sampled += sampled[-1:] * (16 - len(sampled))
    expected = [int(view * (len(sampled) - 16) / (views - 1)) for view in range(views)]
    found = [dense_view(total, 16, 4, view, views).tolist() for view in range(views)]
    assert found == [sampled[start : start + 16] for start in expected]


def test_a_single_dense_view_is_the_middle_of_the_video() -> None:
    assert dense_view(80, 4, 4, number=0, views=1).tolist() == [32, 36, 40, 44]
