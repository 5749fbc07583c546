"""The shipped recipes against the paper's tables 7 and 8."""

import re

import pytest

from everest.config import Experiment, recipe_names
from everest.data.loader import TrainOrder
from tests.conftest import SHARED

COLUMNS = {"kinetics400": "K400", "ssv2": "SSv2", "ucf101": "UCF101"}


def table(heading: str, column: str) -> dict[str, str]:
    """Its rows, each with what stands for ViT-B in this column."""
    page = SHARED / "paper/README.md"
    if not page.is_file():
        pytest.skip(f"no tables of the paper at {page}")
    text = page.read_text().partition(f"## {heading}")[2].partition("\n## ")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    at = lines[0].index(column)
    return {cells[0]: _of_base(cells[at]) for cells in lines[2:]}


def _of_base(cell: str) -> str:
    """``1.5e-4 (S, L), 3e-4 (B)`` -> ``3e-4``"""
    parts = re.findall(r"([^(,]+?)\s*\(([^)]*)\)", cell)
    rest = cell.rpartition("/")[2].strip() if "/" in cell else ""
    chosen = next((value.strip(" ,") for value, sizes in parts if "B" in sizes.split(", ")), cell)
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


@pytest.mark.parametrize("data", COLUMNS)
def test_a_pretraining_recipe_is_the_papers(data: str) -> None:
    said, config = table("Pre-training", COLUMNS[data]), Experiment.load(f"{data}-pretrain")
    optim = config.optim
    assert optim.lr == float(said["base lr (x total batch/256)"])
    assert total_batch(config) == int(said["total batch, 8 GPUs"])
    assert f"{optim.epochs} / {optim.warmup_epochs:g}" == said["epochs / warm-up"]
    assert config.mask.keep_ratio == float(said["kept tokens (rho_pre)"])
    assert config.mask.visible_ratio == float(said["visible tokens, of all"])
    assert config.data.rate == int(said["stride between frames"])
    assert config.augment.flip == (said["flip (see below)"] == "yes")
    assert config.data.sampling == ("segment" if data == "ssv2" else "dense")
    assert (config.model.size, config.model.decoder_depth, config.model.drop_path) == ("base", 4, 0)
    assert (optim.betas, optim.weight_decay, optim.clip_grad) == ((0.9, 0.95), 0.05, None)
    assert (optim.min_lr, optim.warmup_lr, config.augment.crop_scales) == (1e-5, 0, (1, 0.875, 0.75, 0.66))


@pytest.mark.parametrize("data", COLUMNS)
def test_a_finetuning_recipe_is_the_papers(data: str) -> None:
    said, config = table("Fine-tuning", COLUMNS[data]), Experiment.load(f"{data}-finetune")
    optim, augment = config.optim, config.augment
    assert optim.lr == float(said["base lr"])
    assert total_batch(config) == int(said["total batch, 8 GPUs"])
    assert f"{optim.epochs} / {optim.warmup_epochs:g}" == said["epochs / warm-up"]
    assert config.classify.keep_ratio == float(said["kept tokens (rho_fine)"])
    assert said["stride"] in (str(config.data.rate) if config.data.sampling == "dense" else "segments")
    assert augment.flip == (said["flip"] == "yes")
    assert f"{config.evaluate.segments} x {config.evaluate.crops}" == said["test clips x crops"]
    assert (optim.betas, optim.weight_decay, optim.layer_decay) == ((0.9, 0.999), 0.05, 0.75)
    assert (config.model.drop_path, augment.label_smoothing, augment.erase) == (0.1, 0.1, 0.25)
    assert (augment.mixup, augment.cutmix, augment.rand_augment) == (0, 0, "rand-m7-n4-mstd0.5-inc1")
    assert (optim.min_lr, optim.warmup_lr) == (1e-6, 0)
