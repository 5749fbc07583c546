"""The shipped recipes, with small networks, on small copies of their sets as these are distributed."""

from pathlib import Path

import pytest
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from everest.config import Experiment, recipe_names
from everest.data.prepare.prepare import Preparation
from everest.export import load_model
from everest.training import run as module
from tests.data.test_prepare import CLASSES, KINDS
from tests.training.test_run import start

#: Where recipes look for a set -> its name for ``everest data prepare``, and its recipes in the order of their stages.
SETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ucf101": (
        "ucf101",
        ("ucf101-pretrain", "ucf101-finetune", "videomae-ucf101-pretrain", "videomae-ucf101-finetune"),
    ),
    "hmdb51": ("hmdb51", ("hmdb51-pretrain", "hmdb51-finetune")),
    "kinetics400": (
        "k400",
        (
            "kinetics400-pretrain",
            "kinetics400-finetune",
            "kinetics400-small-pretrain",
            "kinetics400-small-finetune",
            "kinetics400-large-pretrain",
            "kinetics400-large-finetune",
            "videomae-kinetics400-pretrain",
            "videomae-kinetics400-finetune",
            "videomae-kinetics400-60-finetune",
        ),
    ),
    "ssv2": ("ssv2", ("ssv2-pretrain", "ssv2-finetune")),
    "oscc": ("oscc", ("oscc-pretrain", "oscc-finetune")),
}
#: Sizes alone, and what goes with the few videos: method, augmentation, sampling and selection are the recipe's.
SMALL = {
    "model.image_size": 32, "model.patch_size": 8, "model.embed_dim": 24, "model.depth": 2, "model.num_heads": 2,
    "model.decoder_embed_dim": 12, "model.decoder_depth": 1, "model.decoder_num_heads": 2, "optim.precision": "float32",
    "optim.steps": 2, "optim.batch_size": 2, "optim.micro_batch": 2, "data.workers": 0, "keep.checkpoint_steps": 2,
    "keep.picture_epochs": 0, "evaluate.crops": 1, "classify.num_classes": None,
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_a_sets_recipes_train_on_what_was_prepared(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_final_figures", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    kind, recipes = SETS[name]
    KINDS[kind][1](tmp_path / "set")
    preparation = Preparation(kind, tmp_path / "set", tmp_path / "data" / name)  # where the recipes look for it
    preparation.check(workers=1)
    preparation.write()
    if name == "kinetics400":
        _videomaes_weights(tmp_path / "weights/videomae-base-kinetics400")
    for recipe in recipes:
        shipped = Experiment.load(recipe)
        result = start(shipped.override(SMALL), tmp_path / "work" / shipped.name)
        assert (result.steps, result.metrics.get("data/bad_videos", 0)) == (2, 0), recipe
        if shipped.stage == "finetune":
            assert load_model(tmp_path / "work" / shipped.name).classes == CLASSES[kind]


def _videomaes_weights(folder: Path) -> None:
    sizes = VideoMAEConfig(
        image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96,
        decoder_hidden_size=12, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        decoder_intermediate_size=48,
    )  # fmt: skip
    VideoMAEForPreTraining(sizes).save_pretrained(folder)


def test_every_recipe_for_a_published_set_is_trained_here() -> None:
    trained = {recipe for _, recipes in SETS.values() for recipe in recipes}
    assert trained == {name for name in recipe_names() if not name.startswith(("clips-", "demo-"))}
