"""Information-intensive frame selection."""

from itertools import combinations

import pytest
import torch
from scipy import stats

from everest.config import FramesConfig, ModelConfig
from everest.model.embed import TubeletEmbed
from everest.model.frames import choose_steps, count_kept, select_frames


def test_counts_say_how_many_kept_tokens_lie_in_each_step() -> None:
    importance = torch.tensor([[[5.0, 1.0], [4.0, 3.0], [0.0, 0.0], [6.0, 0.0]]])
    assert count_kept(importance, 0.5).tolist() == [[1, 2, 0, 1]]


def test_steps_are_drawn_in_proportion_to_their_counts_without_replacement() -> None:
    """The probability of a pair is that of drawing it in either order: p_i p_j/(1-p_i) + p_j p_i/(1-p_j)."""
    counts = torch.tensor([1.0, 2.0, 4.0, 8.0, 3.0])
    p = (counts.double() / counts.double().sum()).tolist()
    draws = 20_000
    generator = torch.Generator().manual_seed(1)
    drawn = choose_steps(counts.expand(draws, -1), 2, generator)
    assert (drawn[:, 0] < drawn[:, 1]).all()
    pairs = list(combinations(range(5), 2))
    expected = [draws * p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j])) for i, j in pairs]
    observed = [int(((drawn[:, 0] == i) & (drawn[:, 1] == j)).sum()) for i, j in pairs]
    assert stats.chisquare(observed, expected).pvalue > 0.001
    uniform = [draws / len(pairs)] * len(pairs)
    assert stats.chisquare(observed, uniform).pvalue < 1e-10


def test_evaluation_takes_the_largest_counts_in_temporal_order() -> None:
    counts = torch.tensor([[3.0, 9.0, 1.0, 7.0, 3.0]])
    assert choose_steps(counts, 3, None).tolist() == [[0, 1, 3]]


def test_a_clip_with_too_few_moving_steps_is_filled_up() -> None:
    drawn = choose_steps(torch.tensor([[0.0, 5.0, 0.0, 0.0]]).expand(300, -1), 2, torch.Generator().manual_seed(0))
    assert (drawn == 1).any(dim=1).all()
    assert {tuple(pair) for pair in drawn.tolist()} == {(0, 1), (1, 2), (1, 3)}


def test_the_global_random_state_is_left_alone() -> None:
    counts, before = torch.rand(4, 8), torch.get_rng_state()
    choose_steps(counts, 3, torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())


@pytest.fixture
def still_with_an_event() -> tuple[torch.Tensor, set[int]]:
    """48 frames of a still, slightly noisy picture; something flies through in frames 30 to 35."""
    torch.manual_seed(0)
    video = (torch.randint(10, 200, (1, 1, 32, 32, 3)) + torch.randint(-2, 3, (1, 48, 32, 32, 3))).byte()
    for number, frame in enumerate(range(30, 36)):
        video[:, frame, 8:24, 4 * number : 4 * number + 10] = 255
    return video, set(range(30, 36))


@pytest.mark.parametrize("drawn", [True, False])
def test_a_short_event_is_found_far_more_often_than_by_even_sampling(
    still_with_an_event: tuple[torch.Tensor, set[int]], drawn: bool
) -> None:
    video, event = still_with_an_event
    frames, trials = 16, 200
    embed = TubeletEmbed(ModelConfig(image_size=32, num_frames=frames, patch_size=8, embed_dim=48, num_heads=3))
    config = FramesConfig(select=True, alpha=3.0, keep_ratio=0.1)
    assert config.candidates(frames, 2) == 48
    clips = video.expand(trials, -1, -1, -1, -1)
    generator = torch.Generator().manual_seed(2) if drawn else None
    chosen = select_frames(embed, clips, frames, config, generator)
    assert chosen.shape == (trials, frames, 32, 32, 3)
    shows_event = (chosen[:, :, 8:24].flatten(2) == 255).any(dim=2)  # (trials, frames)
    by_selection = shows_event.float().sum(dim=1).mean()
    evenly = sum(frame in event for frame in range(0, 48, 3))
    assert evenly == 2
    assert by_selection > 2 * evenly


def test_selected_frames_are_frames_of_the_video_in_order() -> None:
    video = torch.arange(24, dtype=torch.uint8)[None, :, None, None, None].expand(1, 24, 16, 16, 3).contiguous()
    embed = TubeletEmbed(ModelConfig(image_size=16, num_frames=16, patch_size=8, embed_dim=48, num_heads=3))
    chosen = select_frames(embed, video, 16, FramesConfig(select=True), torch.Generator().manual_seed(0))
    numbers = chosen[0, :, 0, 0, 0].tolist()
    assert numbers == sorted(set(numbers))
    assert all(b == a + 1 and a % 2 == 0 for a, b in zip(numbers[::2], numbers[1::2], strict=True))


def test_alpha_one_and_a_half_asks_for_half_as_many_frames_more() -> None:
    assert FramesConfig(select=True).candidates(16, 2) == 24
    assert FramesConfig().candidates(16, 2) == 16
