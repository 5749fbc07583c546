"""The shipped recipes against the paper's tables 7 and 8."""

import re

import pytest

from everest.config import Experiment, recipe_names
from everest.data.loader import TrainOrder
from tests.conftest import SHARED

#: Of each recipe the column of the tables, and its letter where there are several sizes.
PAPERS = {
    "kinetics400": ("K400", "B"),
    "kinetics400-small": ("K400", "S"),
    "kinetics400-large": ("K400", "L"),
    "ssv2": ("SSv2", "B"),
    "ucf101": ("UCF101", "B"),
    "hmdb51": ("HMDB51", "B"),
    "oscc": ("OSCC", "B"),
}
SIZES = {"S": "small", "B": "base", "L": "large"}


def page() -> str:
    found = SHARED / "paper/README.md"
    if not found.is_file():
        pytest.skip(f"no tables of the paper at {found}")
    return found.read_text()


def table(heading: str, data: str) -> dict[str, str]:
    """Its rows, each with what stands for that size in this column."""
    column, size = PAPERS[data]
    text = page().partition(f"## {heading}")[2].partition("\n## ")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    at = lines[0].index(column)
    return {cells[0]: _of_size(cells[at], size) for cells in lines[2:]}


def _of_size(cell: str, size: str) -> str:
    """``1.5e-4 (S, L), 3e-4 (B)`` -> ``3e-4`` for B"""
    parts = re.findall(r"([^(,]+?)\s*\(([^)]*)\)", cell)
    rest = cell.rpartition("/")[2].strip() if "/" in cell else ""
    chosen = next((value.strip(" ,") for value, sizes in parts if size in sizes.split(", ")), cell)
    return f"{chosen} / {rest}" if rest and "/" not in chosen else chosen


def total_batch(config: Experiment) -> int:
    """Clips a step, and as many of an epoch as there are videos: none is counted more than once."""
    order, batch = TrainOrder(100_000, config), config.optim.batch_size
    assert order.steps == config.optim.epochs * (100_000 // batch)
    return batch


@pytest.mark.parametrize("name", sorted({*recipe_names()} - {"clips-pretrain"}))
def test_a_recipe_is_the_same_experiment_on_eight_gpus_and_on_fewer(name: str) -> None:
    config = Experiment.load(name)
    assert [config.share_of(processes) * processes for processes in (1, 2, 4, 8)] == [config.optim.micro_batches] * 4


@pytest.mark.parametrize("data", PAPERS)
def test_a_pretraining_recipe_is_the_papers(data: str) -> None:
    said, config = table("Pre-training", data), Experiment.load(f"{data}-pretrain")
    optim = config.optim
    assert optim.lr == float(said["base lr (x total batch/256)"])
    assert total_batch(config) == int(said["total batch, 8 GPUs"])
    assert f"{optim.epochs} / {optim.warmup_epochs:g}" == said["epochs / warm-up"]
    assert config.mask.keep_ratio == float(said["kept tokens (rho_pre)"])
    assert config.mask.visible_ratio == float(said["visible tokens, of all"])
    assert config.data.rate == int(said["stride between frames"])
    assert config.augment.flip == (said["flip (see below)"] == "yes")
    assert config.data.sampling == ("segment" if data == "ssv2" else "dense")
    size, letter = config.model.size, PAPERS[data][1]
    assert (size, config.model.decoder_depth, config.model.drop_path) == (SIZES[letter], 12 if letter == "L" else 4, 0)
    selects = said["frame selection"].startswith("alpha")
    assert config.frames.select == selects
    if selects:
        assert said["frame selection"] == f"alpha {config.frames.alpha:g}"
        assert config.frames.keep_ratio == config.mask.keep_ratio
    assert config.mask.method == "rero"
    assert (optim.betas, optim.weight_decay, optim.clip_grad) == ((0.9, 0.95), 0.05, None)
    assert (optim.min_lr, optim.warmup_lr, config.augment.crop_scales) == (1e-5, 0, (1, 0.875, 0.75, 0.66))


@pytest.mark.parametrize("data", PAPERS)
def test_a_finetuning_recipe_is_the_papers(data: str) -> None:
    said, config = table("Fine-tuning", data), Experiment.load(f"{data}-finetune")
    optim, augment = config.optim, config.augment
    assert optim.lr == float(said["base lr"])
    assert total_batch(config) == int(said["total batch, 8 GPUs"])
    assert f"{optim.epochs} / {optim.warmup_epochs:g}" == said["epochs / warm-up"]
    assert (config.model.size, config.classify.method) == (SIZES[PAPERS[data][1]], "rero")
    assert config.classify.keep_ratio == float(said["kept tokens (rho_fine)"])
    assert said["stride"] in (str(config.data.rate) if config.data.sampling == "dense" else "segments")
    assert augment.flip == (said["flip"] == "yes")
    assert f"{config.evaluate.segments} x {config.evaluate.crops}" == said["test clips x crops"]
    assert (optim.betas, optim.weight_decay, optim.layer_decay) == ((0.9, 0.999), 0.05, 0.75)
    assert (config.model.drop_path, augment.label_smoothing, augment.erase) == (0.1, 0.1, 0.25)
    assert (augment.mixup, augment.cutmix, augment.rand_augment) == (0, 0, "rand-m7-n4-mstd0.5-inc1")
    assert (optim.min_lr, optim.warmup_lr) == (1e-6, 0)


#: Each claim's counterpart: the recipe it is compared with, and all the settings in which they differ.
VIDEOMAE = {
    "videomae-kinetics400-pretrain": ("kinetics400-pretrain", {"mask.method", "mask.keep_ratio"}),
    "videomae-ucf101-pretrain": ("ucf101-pretrain", {"mask.method", "mask.keep_ratio"}),
    "videomae-kinetics400-finetune": (
        "kinetics400-finetune",
        {
            "classify.method",
            "classify.keep_ratio",
            "data.repeats",
            "augment.mixup",
            "augment.cutmix",
            "evaluate.segments",
        },
    ),
    "videomae-ucf101-finetune": (
        "ucf101-finetune",
        {"classify.method", "classify.keep_ratio", "data.repeats", "augment.mixup", "augment.cutmix"},
    ),
    "videomae-kinetics400-60-finetune": ("videomae-kinetics400-finetune", {"classify.method", "classify.keep_ratio"}),
}


@pytest.mark.parametrize("name", VIDEOMAE)
def test_a_videomae_recipe_differs_from_its_counterpart_in_what_is_videomaes_alone(name: str) -> None:
    other, allowed = VIDEOMAE[name]
    one, two = Experiment.load(name).flat(), Experiment.load(other).flat()
    assert {key for key in one if one[key] != two[key]} == {*allowed, "name", "recipe", "init"} - (
        {"init"} if one["stage"] == "pretrain" else set()
    )


def test_videomaes_recipes_have_its_published_values() -> None:
    said = page().partition("VideoMAE's own")[2].partition("\n")[0]
    config = Experiment.load("videomae-kinetics400-finetune")
    assert f"mixup {config.augment.mixup:g}, cutmix {config.augment.cutmix}".replace("0.8", ".8") in said
    assert {1: "one sample", 2: "two samples"}[config.data.repeats] in said
    assert f"K400 {config.evaluate.segments} x {config.evaluate.crops} views" in said
    assert Experiment.load("videomae-kinetics400-60-finetune").classify.keep_ratio == 0.6
    masks = Experiment.load("videomae-kinetics400-pretrain").mask
    assert (masks.method, masks.counts(8, 196).hidden) == ("tube", 8 * int(0.9 * 196))
