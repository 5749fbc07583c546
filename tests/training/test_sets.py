"""The recipes of the published sets, with small networks, on small copies of the sets as they are distributed."""

from pathlib import Path

import pytest

from everest.config import Experiment
from everest.data.prepare.prepare import Preparation
from everest.export import load_model
from everest.training import run as module
from tests.data.test_prepare import CLASSES, KINDS
from tests.training.test_run import start

RECIPES = {"ucf101": "ucf101", "hmdb51": "hmdb51", "kinetics400": "k400", "ssv2": "ssv2", "oscc": "oscc"}
SMALL = {
    "model.image_size": 32, "model.patch_size": 8, "model.embed_dim": 24, "model.depth": 2, "model.num_heads": 2,
    "model.decoder_embed_dim": 12, "model.decoder_depth": 1, "model.decoder_num_heads": 2, "optim.precision": "float32",
    "optim.steps": 2, "optim.batch_size": 2, "optim.micro_batch": 1, "data.workers": 0, "keep.checkpoint_steps": 2,
    "keep.picture_epochs": 0,
}  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_sets_recipes_train_on_what_was_prepared(
    tmp_path: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_final_figures", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    name = RECIPES[recipe]
    KINDS[name][1](tmp_path / "set")
    preparation = Preparation(name, tmp_path / "set", tmp_path / "data" / recipe)  # where the recipes look for it
    preparation.check(workers=1)
    preparation.write()
    for stage, changes in (("pretrain", {}), ("finetune", {"classify.num_classes": None, "evaluate.crops": 1})):
        config = Experiment.load(f"{recipe}-{stage}").override({**SMALL, **changes})
        result = start(config, tmp_path / "work" / config.name)
        assert (result.steps, result.metrics.get("data/bad_videos", 0)) == (2, 0)
    assert load_model(tmp_path / "work" / config.name).classes == CLASSES[name]
