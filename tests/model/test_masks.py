"""Each method of choosing tokens against its definition, token by token."""

import pytest
import torch
from torch import Tensor

import everest
from everest.config import ClassifyConfig, Experiment, MaskConfig, ModelConfig
from everest.errors import UsageError
from everest.masks import CLASSIFY_METHODS, METHODS
from everest.model.classifier import Classifier
from everest.model.masks import ranking
from everest.model.masks.clip import Clip

STEPS, ROWS, COLUMNS, PATCH = 6, 4, 6, 8
PLACES = ROWS * COLUMNS
SMALL = dict(image_size=32, num_frames=2 * STEPS, patch_size=PATCH, embed_dim=48, depth=1, num_heads=3,
             decoder_embed_dim=24, decoder_depth=1, decoder_num_heads=3)  # fmt: skip


@pytest.fixture
def clips() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    size = (3, 2 * STEPS, ROWS * PATCH, COLUMNS * PATCH, 3)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)


def forward(clips: Tensor, **mask: object) -> tuple[Tensor, Tensor]:
    """What of three clips is visible and what hidden: bool (B, S, N)."""
    out = everest.create_pretrain_model("base", **mask, **SMALL)(clips)
    assert out.prediction.shape == out.target.shape
    assert torch.equal(out.kept.sort().values, torch.cat([out.visible, out.hidden], dim=1).sort().values)
    found = []
    for index in (out.visible, out.hidden):
        assert bool((index.diff(dim=1) > 0).all())
        chosen = torch.zeros(len(clips), STEPS * PLACES, dtype=torch.bool)
        found.append(chosen.scatter_(1, index, True).view(len(clips), STEPS, PLACES))
    return found[0], found[1]


@pytest.mark.parametrize("method", METHODS)
def test_as_many_are_visible_and_hidden_as_the_ratios_say(method: str, clips: Tensor) -> None:
    counts = MaskConfig(method=method).counts(STEPS, PLACES)
    visible, hidden = forward(clips, method=method)
    assert visible.sum((1, 2)).tolist() == [counts.visible] * 3
    assert hidden.sum((1, 2)).tolist() == [counts.hidden] * 3
    assert not (visible & hidden).any()
    if METHODS[method].all_hidden:
        assert (visible | hidden).all()


@pytest.mark.parametrize("method", METHODS)
def test_visible_tokens_are_drawn_anew_for_every_clip_and_pass(method: str, clips: Tensor) -> None:
    same = clips[:1].expand(3, -1, -1, -1, -1)
    model = everest.create_pretrain_model("base", method=method, **SMALL)
    drawn = {tuple(row) for _ in range(20) for row in model(same).visible.tolist()}
    assert len(drawn) >= (STEPS if method == "frame" else 10)


def test_the_counts_of_vit_b_are_the_published_ones() -> None:
    steps, places = ModelConfig().steps, ModelConfig().places
    assert MaskConfig(method="tube").counts(steps, places)[1:] == (8 * 20, 8 * 176)  # VideoMAE: int(0.9 * 196) hidden
    assert MaskConfig(method="random").counts(steps, places)[1:] == (156, 1412)
    assert MaskConfig(method="dual").counts(steps, places)[1:] == (160, 862 - 160)
    assert MaskConfig(method="rero").counts(steps, places)[1:] == (156, 314)
    assert MaskConfig(method="frame").counts(steps, places)[1:] == (196, 7 * 196)


def test_tube_shows_the_same_places_in_every_step(clips: Tensor) -> None:
    visible, _ = forward(clips, method="tube", visible_ratio=0.3)
    assert torch.equal(visible, visible[:, :1].expand_as(visible))
    assert visible[0, 0].sum() == PLACES - int(0.7 * PLACES)


def test_frame_shows_whole_steps(clips: Tensor) -> None:
    visible, _ = forward(clips, method="frame", visible_ratio=0.4)
    assert visible.all(dim=2).sum(1).tolist() == [2, 2, 2]
    assert visible.any(dim=2).sum(1).tolist() == [2, 2, 2]


def turn(step: int, place: int) -> int:
    """How many steps it takes until it is this place's turn: clockwise in each cell of 2 x 2."""
    row, column = divmod(place, COLUMNS)
    clockwise = [(0, 0), (0, 1), (1, 1), (1, 0)]
    return (clockwise.index((row % 2, column % 2)) - step) % 4


def test_running_cells_move_on_by_one_place_a_step(clips: Tensor) -> None:
    visible, hidden = forward(clips, method="running_cell", keep_ratio=0.25)
    for step in range(STEPS):
        for place in range(PLACES):
            assert bool((visible | hidden)[0, step, place]) == (turn(step, place) == 0)
    kept = torch.logical_or(*forward(clips, method="running_cell", keep_ratio=0.4))
    turns = torch.tensor([[turn(step, place) for place in range(PLACES)] for step in range(STEPS)])
    assert kept[:, turns == 0].all()
    assert not kept[:, turns > 1].any()


def test_dual_shows_tubes_and_reconstructs_running_cells_of_the_rest(clips: Tensor) -> None:
    visible, hidden = forward(clips, method="dual", keep_ratio=0.6)
    assert torch.equal(visible, visible[:, :1].expand_as(visible))
    turns = torch.tensor([[turn(step, place) for place in range(PLACES)] for step in range(STEPS)]).expand_as(hidden)
    for b in range(3):
        latest = turns[b][hidden[b]].max()
        assert not (turns[b][~hidden[b] & ~visible[b]] < latest).any()


def scores(name: str, clips: Tensor) -> Tensor:
    torch.manual_seed(0)
    model = everest.create_pretrain_model("base", **SMALL)
    return ranking(name)(Clip.cut(model.patch_embed, clips, "l2"), None)


def test_pixel_ranks_by_the_difference_to_the_step_before(clips: Tensor) -> None:
    found = scores("pixel", clips)
    pixels = clips.double()
    for step, row, column in ((1, 0, 0), (3, 2, 5), (5, 3, 1)):

        def cut(step: int, row: int = row, column: int = column) -> Tensor:
            rows, columns = (slice(PATCH * at, PATCH * (at + 1)) for at in (row, column))
            return pixels[0, 2 * step : 2 * step + 2, rows, columns]

        expected = float((cut(step) - cut(step - 1)).abs().mean())
        assert float(found[0, step, row * COLUMNS + column]) == pytest.approx(expected, rel=1e-5)
    assert torch.equal(found[:, 0], found[:, 1])


def test_least_keeps_those_that_rero_would_keep_last(clips: Tensor) -> None:
    assert torch.equal(scores("least", clips), -scores("rero", clips))


@pytest.mark.parametrize("method", CLASSIFY_METHODS)
def test_a_classifier_keeps_by_the_method_and_alike_each_time_it_is_asked(method: str, clips: Tensor) -> None:
    config = ClassifyConfig(method=method)
    model = Classifier(ModelConfig(**SMALL), config, 5).eval()
    cut = Clip.cut(model.patch_embed, clips, "l2")
    kept = model.keep(cut)
    assert kept.shape == (3, config.kept(STEPS * PLACES))
    assert bool((kept.diff(dim=1) > 0).all())
    assert torch.equal(kept, model.keep(cut))
    torch.testing.assert_close(model(clips), model(clips), rtol=0, atol=0)
    if method in {"random", "running_cell"}:
        assert (model.train().keep(cut) != kept).any() == (method == "random" or config.keep_ratio % 0.25 > 0)


def test_of_evenly_spread_tokens_each_step_has_as_many() -> None:
    model = Classifier(ModelConfig(), ClassifyConfig(method="random", keep_ratio=0.5), 5).eval()
    kept = model.keep(Clip.cut(model.patch_embed, torch.zeros(1, 16, 224, 224, 3, dtype=torch.uint8), "l2"))
    assert (torch.bincount(kept[0] // 196, minlength=8) - 98).abs().max() <= 2


def test_another_method_brings_its_own_ratios_unless_they_are_given() -> None:
    recipe = Experiment.load("ucf101-pretrain")
    assert recipe.mask.keep_ratio == 0.3
    assert recipe.override({"mask.method": "tube"}).mask.keep_ratio == 1
    assert recipe.override({"mask.method": "least"}).mask.keep_ratio == 0.3
    given = {"method": "random", "keep_ratio": 0.5, "visible_ratio": 0.2}
    assert recipe.override({f"mask.{name}": value for name, value in given.items()}).mask == MaskConfig(**given)
    assert Experiment.load("ucf101-finetune").override({"classify.method": "all"}).classify.keep_ratio == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mask.method": "tubes"}, r"mask.method = 'tubes': must be rero, least, .*dual"),
        ({"mask.method": "tube", "mask.keep_ratio": 0.3}, "mask: keep_ratio 0.3 must be 1: tube reconstructs all"),
        ({"classify.method": "tube"}, r"classify.method = 'tube': must be rero, .*all"),
        ({"classify.method": "all", "classify.keep_ratio": 0.6}, "classify: keep_ratio 0.6 must be 1: method all"),
    ],
)
def test_what_a_method_cannot_do_is_said(settings: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Experiment.load("ucf101-pretrain").override(settings)
