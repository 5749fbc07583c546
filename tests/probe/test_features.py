"""Features against the encoder's own layers, and what is kept of them on the disk."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from everest.config import Experiment
from everest.data.clips import EvaluationViews
from everest.data.index import read_index
from everest.export import Exported
from everest.model.autoencoder import PretrainModel
from everest.model.classifier import Classifier
from everest.model.registry import classifier, pretrain_model
from everest.probe import cache
from everest.probe.cache import cached_features, identity
from everest.probe.features import Features, clip_features, features
from everest.training.distributed import Process
from everest.training.interrupt import StopRequest
from tests.conftest import pack, tiny

ALONE = Process(0, 1, torch.device("cpu"))


def computed(model: PretrainModel | Classifier, data: Path, config: Experiment) -> Features:
    return features(model, read_index(data / "val.csv"), config, ALONE, StopRequest())


def views(data: Path, config: Experiment) -> Tensor:
    """Of all validation videos: uint8 (videos, views, T, H, W, 3)."""
    index = read_index(data / "val.csv")
    dataset = EvaluationViews(index, config, config.probe.segments, config.probe.crops)
    return torch.stack([dataset.views(video) for video in index.videos])


@torch.no_grad()
def test_of_all_tokens_they_are_the_mean_of_what_the_encoder_gives(synthetic: Path) -> None:
    config = tiny("pretrain", synthetic, **{"classify.keep_ratio": 1, "evaluate.batch_size": 3})
    model = pretrain_model(config).train()
    found = computed(model, synthetic, config)
    clips = views(synthetic, config)[:, 0]
    all_tokens = torch.arange(config.model.tokens).expand(len(clips), -1)
    assert model.training
    expected = model.eval().encoder(model.patch_embed.cut(clips).flatten(1, 2), all_tokens).mean(dim=1)
    torch.testing.assert_close(found.values, expected, atol=1e-5, rtol=1e-5)
    assert found.labels.tolist() == read_index(synthetic / "val.csv").videos.labels.tolist()
    assert found.values.dtype == torch.float32
    assert found.bad == 0


@torch.no_grad()
def test_a_classifiers_are_what_its_head_is_given(synthetic: Path) -> None:
    config = tiny("finetune", synthetic, **{"frames.select": True, "frames.alpha": 2})
    model = classifier(config, 8).eval()
    given: list[Tensor] = []
    model.head.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    from everest.training.evaluate import view_probabilities

    clips = views(synthetic, config)[:, 0]
    view_probabilities(model, clips, config)
    torch.testing.assert_close(clip_features(model, clips, config), given[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("layer", [1, 2])
def test_those_of_a_layer_are_the_mean_of_what_that_block_gives(synthetic: Path, layer: int) -> None:
    config = tiny("finetune", synthetic, **{"probe.layer": layer, "classify.keep_ratio": 0.5})
    model = classifier(config, 8).eval()
    given: list[Tensor] = []
    model.blocks[layer - 1].register_forward_hook(lambda _, inputs, output: given.append(output))
    clips = views(synthetic, config)[:, 0]
    model(clips)
    expected = given[0]
    assert expected.shape == (8, config.model.tokens // 2, config.model.embed_dim)
    torch.testing.assert_close(clip_features(model, clips, config), expected.mean(dim=1), atol=1e-5, rtol=1e-5)


def test_of_several_views_they_are_the_mean(synthetic: Path) -> None:
    config = tiny("pretrain", synthetic, **{"probe.segments": 3, "probe.crops": 2})
    model = pretrain_model(config).eval()
    each = torch.stack([clip_features(model, of_video, config) for of_video in views(synthetic, config)])
    assert each.shape[1] == 6
    torch.testing.assert_close(computed(model, synthetic, config).values, each.mean(dim=1), atol=1e-5, rtol=1e-5)


def test_processes_share_the_videos_and_all_have_those_of_all(synthetic: Path) -> None:
    config, parts = tiny("pretrain", synthetic), []

    class Alone(Process):
        def gather(self, value: Any) -> list[Any]:
            parts.append(value)
            return [value]

    class Both(Process):
        def gather(self, value: Any) -> list[Any]:
            return [parts[1], value] if isinstance(value, tuple) else [value]

    model, index = pretrain_model(config), read_index(synthetic / "val.csv")
    features(model, index, config, Alone(0, 2, ALONE.device), StopRequest())
    found = features(model, index, config, Both(1, 2, ALONE.device), StopRequest())
    whole = computed(model, synthetic, config)
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    torch.testing.assert_close(found.values, whole.values[order], atol=1e-5, rtol=1e-5)
    assert torch.equal(found.labels, whole.labels[order])


def test_an_unreadable_video_has_none_and_is_counted(synthetic: Path, tmp_path: Path) -> None:
    videos = [f"{path},{label}" for label, path in enumerate(sorted((synthetic / "videos").glob("*.mp4"))[:3])]
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "val.csv").write_text("\n".join([videos[0], f"{tmp_path / 'broken.mp4'},1", *videos[1:]]))
    config = tiny("pretrain", synthetic, **{"data.max_bad": 0.5})
    found = computed(pretrain_model(config), tmp_path, config)
    assert found.labels.tolist() == [0, 1, 2]
    assert found.values.shape == (3, config.model.embed_dim)
    assert found.bad == 1


class Counted:
    """How often features were computed, not read."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.times = 0
        patch.setattr(cache, "features", self)

    def __call__(self, *arguments: Any) -> Features:
        self.times += 1
        return features(*arguments)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def ask(folder: Path, listed: Path, weights: str, config: Experiment) -> Features:
    torch.manual_seed(0)
    exported = Exported(pretrain_model(config), config, ())
    return cached_features(folder, weights, exported, read_index(listed), ALONE, StopRequest())


def test_they_are_computed_once_and_anew_for_whatever_they_depend_on(
    synthetic: Path, tmp_path: Path, counted: Counted
) -> None:
    config = tiny("pretrain", synthetic)
    first = ask(tmp_path, synthetic / "val.csv", "a", config)
    again = ask(tmp_path, synthetic / "val.csv", "a", config.override({"probe.neighbours": 3, "optim.lr": 0.5}))
    assert counted.times == 1
    assert torch.equal(first.values, again.values)
    assert torch.equal(first.labels, again.labels)

    shorter = tmp_path / "val.csv"
    lines = (synthetic / "val.csv").read_text().splitlines()
    shorter.write_text("".join(f"{synthetic / line}\n" for line in lines[:-1]))
    packed = Path(pack(synthetic / "val.csv", tmp_path / "packed"))
    others = [("b", config, synthetic / "val.csv"), ("a", config, shorter), ("a", config, packed)]
    changes = {"probe.layer": 1, "probe.segments": 2, "probe.crops": 3, "classify.keep_ratio": 1, "data.rate": 1}
    others += [("a", config.override({name: value}), synthetic / "val.csv") for name, value in changes.items()]
    for number, (weights, changed, listed) in enumerate(others):
        ask(tmp_path, listed, weights, changed)
        assert counted.times == 2 + number, (weights, changed.probe, listed)


def test_a_file_of_other_weights_or_a_damaged_one_is_said_and_not_used(
    synthetic: Path, tmp_path: Path, counted: Counted, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny("pretrain", synthetic)
    first = ask(tmp_path, synthetic / "val.csv", "a", config)
    (file,) = tmp_path.glob("features-*")
    wrong = {"values": torch.zeros_like(first.values), "labels": first.labels, "bad": torch.tensor(0)}
    other = identity("b", read_index(synthetic / "val.csv"), config, ALONE.device)
    for spoil, said in (
        (lambda: save_file(wrong, file, {"identity": other}), "has features of other weights, videos or settings"),
        (lambda: file.write_bytes(file.read_bytes()[:-100]), "is damaged"),
    ):
        spoil()
        with caplog.at_level(logging.WARNING):
            again = ask(tmp_path, synthetic / "val.csv", "a", config)
        assert said in caplog.text
        assert torch.equal(again.values, first.values)
        assert torch.equal(load_file(file)["values"], first.values)
    assert counted.times == 3
