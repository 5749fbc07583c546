"""Whole runs in this process: exact resume, failures that keep what is good, results that are right."""

import json
import math
import os
import re
import sys
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from everest.config import Experiment
from everest.data.bad import TooManyBad
from everest.data.clips import EvaluationViews
from everest.data.index import read_index
from everest.errors import AgreedError, EverestError, UsageError
from everest.export import load_model
from everest.model.classifier import Classifier
from everest.probe.measure import measure_knn
from everest.protocols import NullTracker
from everest.seeding import choose_algorithms
from everest.training import loop
from everest.training import run as module
from everest.training.checkpoint import Checkpoints
from everest.training.distributed import Process
from everest.training.evaluate import evaluate
from everest.training.interrupt import Interrupted, StopRequest
from everest.training.local import FolderStore, JsonLinesTracker, Trackers
from everest.training.pace import Pace
from everest.training.pretrain import pretrain_loss
from everest.training.run import Result, require_same_run, run
from tests.conftest import pack, tiny

ALONE = Process(0, 1, torch.device("cpu"))
STEPS = 12


@pytest.fixture(autouse=True)
def _drawn_where_a_test_looks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures at the end take longer than a tiny run."""
    if not request.node.get_closest_marker("drawn"):
        monkeypatch.setattr(module, "_final_figures", lambda *_: None)


class Killed(BaseException):
    """Ends a run where it stands, as SIGKILL would: nothing gets a chance to save."""


class KillAt(NullTracker):
    def __init__(self, step: int, key: str) -> None:
        self.step, self.key = step, key

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        if step >= self.step and self.key in values:
            raise Killed


def start(
    config: Experiment,
    folder: Path,
    *extra: NullTracker,
    stop: StopRequest | None = None,
    store: Path | None = None,
) -> Result:
    tracker = Trackers(JsonLinesTracker(folder / "metrics.jsonl"), *extra)
    return run(config, folder, FolderStore(store or folder / "checkpoints"), tracker, ALONE, stop or StopRequest())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def numbers(folder: Path) -> list[dict[str, Any]]:
    """What was measured, without what a clock decides."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {
            key: value
            for key, value in line.items()
            if key not in ("time", "cost/process_hours") and not key.startswith("perf/")
        }
        for line in lines
    ]


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


VARIANTS: dict[str, dict[str, Any]] = {
    "pretrain": {"data.repeats": 2, "optim.micro_batch": 2, "optim.steps": STEPS, "keep.log_steps": 2},
    "finetune": {"frames.select": True, "optim.layer_decay": 0.75},
}


@pytest.mark.parametrize("stage", VARIANTS)
def test_a_run_killed_at_any_step_ends_with_the_same_weights_and_numbers(
    synthetic: Path, tmp_path: Path, stage: str
) -> None:
    config = tiny(stage, synthetic, **VARIANTS[stage])
    whole = tmp_path / "whole"
    assert start(config, whole).steps == STEPS
    moments = [(step, "train/loss") for step in range(1, STEPS + 1)]
    if stage == "finetune":
        moments += [(4, "val/top1"), (12, "val/top1"), (12, "test/top1")]
    for step, key in moments:
        folder = tmp_path / f"killed-{step}-{key.partition('/')[0]}"
        with pytest.raises(Killed):
            start(config, folder, KillAt(step, key))
        start(config, folder)
        assert_same(weights(folder), weights(whole))
        assert numbers(folder) == numbers(whole)


def test_a_pretraining_that_counts_neighbours_learns_the_same_and_is_judged_as_its_model_is_later(
    synthetic: Path, tmp_path: Path
) -> None:
    """Also when it is killed on the way: every 2 of its 3 epochs, and at the end."""
    config = tiny("pretrain", synthetic, **{"probe.neighbours": 3, "data.workers": 0})
    counting = config.override({"probe.knn_epochs": 2, "keep.best": "val/knn_top1"})
    start(config, tmp_path / "without")
    for step, key in ((9, "train/loss"), (12, "val/knn_top1")):
        folder = tmp_path / f"killed-{step}"
        with pytest.raises(Killed):
            start(counting, folder, KillAt(step, key))
        result = start(counting, folder)
        assert_same(weights(folder), weights(tmp_path / "without"))
        assert [line["step"] for line in numbers(folder) if "val/knn_top1" in line] == [8, STEPS]
        assert (folder / "checkpoints/best.json").exists()
        model = load_model(folder).model
        train, val = (read_index(synthetic / f"{name}.csv") for name in ("train", "val"))
        found = measure_knn(model, train, val, counting, ALONE, StopRequest())
        assert found == {name: result.metrics[name] for name in ("val/knn_top1", "val/knn_top5")}


def test_neighbours_that_cannot_be_counted_are_said_before_anything_is_written(synthetic: Path, tmp_path: Path) -> None:
    for changes, message in (
        ({"data.val": None}, "data.val is not set"),
        ({"data.val": synthetic / "videos"}, "has no labels"),
        ({"probe.neighbours": 17}, "probe.neighbours 17 is more than the 16 videos"),
    ):
        config = tiny("pretrain", synthetic, **{"probe.knn_epochs": 0, "probe.neighbours": 3, **changes})
        with pytest.raises(UsageError, match=message):
            start(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()


@pytest.fixture
def packed(synthetic: Path, tmp_path: Path) -> Path:
    return Path(pack(synthetic / "train.csv", tmp_path / "packed"))


def test_a_run_on_a_packed_set_killed_in_the_middle_of_an_epoch_ends_with_the_same_weights(
    synthetic: Path, packed: Path, tmp_path: Path
) -> None:
    config = tiny("pretrain", synthetic, **VARIANTS["pretrain"], **{"data.train": packed})
    start(config, tmp_path / "whole")
    for step in (3, 10):
        folder = tmp_path / f"killed-{step}"
        with pytest.raises(Killed):
            start(config, folder, KillAt(step, "train/loss"))
        start(config, folder)
        assert_same(weights(folder), weights(tmp_path / "whole"))
        assert numbers(folder) == numbers(tmp_path / "whole")


def test_a_packed_set_that_was_made_anew_otherwise_is_said_and_refused(
    synthetic: Path, packed: Path, tmp_path: Path
) -> None:
    config = tiny("pretrain", synthetic, **{"data.train": packed, "optim.steps": 2})
    start(config, tmp_path / "run")
    (tmp_path / "run/result.json").unlink()
    manifest = packed / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"quality": 90', '"quality": 80'))
    with pytest.raises(
        UsageError, match=r"was begun with other videos, labels or classes \(data.train 16 videos -> 16"
    ):
        start(config, tmp_path / "run")


def test_the_seed_decides_the_weights(synthetic: Path, tmp_path: Path) -> None:
    results = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        start(tiny("pretrain", synthetic, seed=seed), tmp_path / name)
        results.append(weights(tmp_path / name))
    assert_same(results[0], results[1])
    assert not torch.equal(results[0]["mask_token"], results[2]["mask_token"])


@pytest.fixture
def usual_algorithms() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # and away afterwards
        patch.delenv("CUBLAS_WORKSPACE_CONFIG")
        yield
    choose_algorithms(deterministic=False)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("usual_algorithms")
def test_only_a_deterministic_run_takes_deterministic_algorithms_from_its_first_product_on(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []

    def noting(config: Experiment) -> Any:
        flags = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
        taken.append((*flags, os.environ.get("CUBLAS_WORKSPACE_CONFIG")))
        raise Killed

    monkeypatch.setattr(module, "pretrain_model", noting)
    for deterministic in (True, False):
        with pytest.raises(Killed):
            start(tiny("pretrain", synthetic, **{"optim.deterministic": deterministic}), tmp_path / str(deterministic))
    assert taken == [(True, True, ":4096:8"), (False, False, ":4096:8")]


@pytest.mark.usefixtures("usual_algorithms", "two_threads")
@pytest.mark.parametrize(("stage", "device"), [("pretrain", "cpu"), ("pretrain", "cuda"), ("finetune", "cuda")])
def test_a_deterministic_run_gives_the_same_bits_after_a_kill(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, device: str
) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    monkeypatch.setattr(sys.modules[__name__], "ALONE", Process(0, 1, torch.device(device)))
    config = tiny(stage, synthetic, **VARIANTS[stage], **{"optim.deterministic": True})
    start(config, tmp_path / "whole")
    with pytest.raises(Killed):
        start(config, tmp_path / "killed", KillAt(8, "train/loss"))
    start(config, tmp_path / "killed")
    assert_same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


@pytest.mark.parametrize(("because", "said", "code"), [("", "", 143), ("the GPUs idled", "the GPUs idled; ", 1)])
def test_a_request_to_stop_saves_the_step_and_the_run_goes_on_from_it(
    synthetic: Path, tmp_path: Path, because: str, said: str, code: int
) -> None:
    class AskAt(NullTracker):
        def metrics(self, values: Mapping[str, float], step: int) -> None:
            if step == 5:
                stop.ask(because)

    config, stop = tiny("pretrain", synthetic), StopRequest()
    with pytest.raises(Interrupted, match=f"^{said}stopped at step 5 of 12, saved") as error:
        start(config, tmp_path / "run", AskAt(), stop=stop)
    assert error.value.exit_code == code
    if because:
        return
    assert list((tmp_path / "run/checkpoints").glob("step-00000005-*/manifest.json"))
    start(config, tmp_path / "run")
    start(config, tmp_path / "whole")
    assert_same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_a_loss_that_is_not_finite_names_step_and_files_and_keeps_the_last_checkpoint(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def breaking(model: torch.nn.Module, video: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return pretrain_loss(model, video, labels) * (float("nan") if len(calls) == 8 else 1)

    monkeypatch.setattr(module, "pretrain_loss", breaking)
    folder = tmp_path / "run"
    with pytest.raises(EverestError, match=r"the loss is not finite at step 7 .*\d{5}\.mp4.*; the last checkpoint is"):
        start(tiny("pretrain", synthetic), folder)
    kept = sorted((folder / "checkpoints").glob("step-*"))
    assert [path.name[:13] for path in kept] == ["step-00000003", "step-00000006"]
    state = load_file(kept[-1] / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in state.values())


class Overflow:
    """The gradient of some calls is infinite, though their loss is a number: what sqrt gives at 0."""

    def __init__(self, calls: Container[int]) -> None:
        self.calls, self.made = calls, 0

    def __call__(self, model: torch.nn.Module, video: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.made += 1
        loss = pretrain_loss(model, video, labels)
        if self.made in self.calls:
            loss = loss + sum((parameter.flatten()[0] * 0).sqrt() for parameter in model.parameters())
        return loss


@pytest.mark.parametrize("clip_grad", [None, 1.0])
def test_a_step_whose_gradient_is_not_finite_is_skipped_also_after_a_resume(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    clip_grad: float | None,
) -> None:  # fmt: skip
    config = tiny("pretrain", synthetic, **{"optim.clip_grad": clip_grad})
    monkeypatch.setattr(module, "pretrain_loss", Overflow({5, 6}))
    with caplog.at_level("WARNING"):
        start(config, tmp_path / "whole")
    assert [r.message[:38] for r in caplog.records] == [f"step {n}: the gradient is not finite (lr" for n in (4, 5)]
    lines = numbers(tmp_path / "whole")
    assert [line["step"] for line in lines if "train/skipped_steps" in line] == [5, 6]
    assert [line["step"] for line in lines if "train/grad_norm" not in line] == [5, 6]
    saved = sorted((tmp_path / "whole/checkpoints").glob("step-*"))
    for folder in saved:
        assert all(tensor.isfinite().all() for tensor in load_file(folder / "model.safetensors").values())

    monkeypatch.setattr(module, "pretrain_loss", Overflow({5, 6}))
    with pytest.raises(Killed):
        start(config, tmp_path / "killed", KillAt(5, "train/loss"))
    monkeypatch.setattr(module, "pretrain_loss", Overflow({2, 3}))  # it goes on from step 3
    start(config, tmp_path / "killed")
    assert_same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
    assert numbers(tmp_path / "killed") == lines


def test_too_many_skipped_steps_in_a_row_end_the_run_wherever_it_was_resumed(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("pretrain", synthetic)
    monkeypatch.setattr(module, "pretrain_loss", Overflow(range(5, 13)))
    said = r"the gradient was not finite 5 steps in a row, the last step 8 \(lr [\d.e-]+\); the last checkpoint is"
    for _ in range(2):
        with pytest.raises(AgreedError, match=said):
            start(config, tmp_path / "run")
        monkeypatch.setattr(module, "pretrain_loss", Overflow(range(13)))
    newest = sorted((tmp_path / "run/checkpoints").glob("step-*"))[-1]
    assert newest.name.startswith("step-00000006")
    assert all(tensor.isfinite().all() for tensor in load_file(newest / "model.safetensors").values())


def test_weights_that_are_not_finite_are_never_saved(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Leaps(torch.optim.AdamW):
        """A step that a gradient of any size can make where the learning rate is absurd."""

        def step(self, closure: Any = None) -> None:
            super().step()
            if len(self.state) and next(iter(self.state.values()))["step"] == 5:
                self.param_groups[0]["params"][0].data[0] = math.inf

    monkeypatch.setattr(torch.optim, "AdamW", Leaps)
    with pytest.raises(
        AgreedError, match=r"the weights are not finite after step 5 \(lr .*; the last checkpoint is kept"
    ):
        start(tiny("pretrain", synthetic, **{"keep.checkpoint_steps": 5}), tmp_path / "run")
    assert not list((tmp_path / "run/checkpoints").glob("step-*"))


def test_too_many_unreadable_videos_end_the_run_and_a_higher_limit_continues_it(
    synthetic: Path, tmp_path: Path
) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_text("not a video")
    videos = (synthetic / "train.csv").read_text().replace("videos/", f"{synthetic}/videos/")
    (tmp_path / "train.csv").write_text(f"{tmp_path}/a.mp4,0\n{tmp_path}/b.mp4,1\n{videos}")
    config = tiny("pretrain", synthetic, **{"data.train": tmp_path / "train.csv", "optim.epochs": 6})
    with pytest.raises(TooManyBad, match=r"of 18 videos are unreadable.*[ab]\.mp4 \(Invalid data"):
        start(config, tmp_path / "run")
    start(config.override({"data.max_bad": 0.5}), tmp_path / "run")
    assert numbers(tmp_path / "run")[-1]["data/bad_videos"] == 2


def test_a_run_goes_on_from_its_store_alone_with_all_its_numbers(synthetic: Path, tmp_path: Path) -> None:
    """What a pod on another machine finds."""
    config = tiny("finetune", synthetic)
    with pytest.raises(Killed):
        start(config, tmp_path / "run", KillAt(8, "train/loss"))
    (tmp_path / "run/checkpoints").rename(tmp_path / "store")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "store").rename(elsewhere / "checkpoints")
    with pytest.raises(UsageError, match=r"seed 0 -> 1.*choose another --name"):
        start(config.override({"seed": 1}), tmp_path / "other", store=elsewhere / "checkpoints")
    start(config, elsewhere)
    start(config, tmp_path / "whole")
    assert_same(weights(elsewhere), weights(tmp_path / "whole"))
    assert numbers(elsewhere) == numbers(tmp_path / "whole")


@pytest.mark.parametrize(
    ("file", "strange"),
    [
        ("training.pt", {"processes": 1}),
        ("experiment.yaml", b"[]"),
        ("experiment.yaml", b"{"),
        ("experiment.yaml", b""),
    ],
)
def test_a_checkpoint_that_no_run_could_have_written_is_passed_over(
    synthetic: Path, tmp_path: Path, file: str, strange: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Its sums are right; what it holds is not what a run goes on from."""
    config, folder = tiny("pretrain", synthetic, **{"optim.steps": 4, "keep.checkpoint_steps": 2}), tmp_path / "run"
    with pytest.raises(Killed):
        start(config, folder, KillAt(4, "train/loss"))
    checkpoints = Checkpoints(FolderStore(folder / "checkpoints"), folder, keep=2)
    saved = checkpoints.newest()
    assert saved is not None
    checkpoints.take_over(saved)
    texts = saved.texts if file == "training.pt" else {**saved.texts, file: strange.decode()}
    checkpoints.save(3, saved.weights, strange if file == "training.pt" else saved.training, texts)
    checkpoints.finish()
    start(config, folder)
    assert re.search(r"checkpoint step-00000003-\w+ is damaged and passed over: .", caplog.text)
    assert [path.name[:13] for path in sorted((folder / "checkpoints").glob("step-*"))] == [
        "step-00000002", "step-00000003", "step-00000004"
    ]  # fmt: skip


def test_the_best_checkpoint_is_kept_and_pointed_to(synthetic: Path, tmp_path: Path) -> None:
    config = tiny("finetune", synthetic, **{"keep.checkpoints": 1, "optim.epochs": 6})
    start(config, tmp_path / "run")
    measured = {line["step"]: line["val/top1"] for line in numbers(tmp_path / "run") if "val/top1" in line}
    best = max(measured, key=lambda step: (measured[step], -step))
    said = json.loads((tmp_path / "run/checkpoints/best.json").read_text())
    assert (int(said["checkpoint"][5:13]), said["value"]) == (best, measured[best])
    kept = {int(path.name[5:13]) for path in (tmp_path / "run/checkpoints").glob("step-*")}
    assert kept == {best, 24}


def test_a_folder_begun_with_other_settings_is_refused_with_the_difference(synthetic: Path, tmp_path: Path) -> None:
    start(tiny("pretrain", synthetic), tmp_path / "run")
    with pytest.raises(UsageError, match=r"mask.keep_ratio 0.3 -> 0.5.*choose another --name"):
        start(tiny("pretrain", synthetic, **{"mask.keep_ratio": 0.5}), tmp_path / "run")


def test_a_run_that_went_on_elsewhere_and_comes_back_has_all_its_numbers(synthetic: Path, tmp_path: Path) -> None:
    """As pods of a job do, of which now one and now another has the first process."""
    config, store = tiny("finetune", synthetic), tmp_path / "checkpoints"
    start(config, tmp_path / "whole")
    for here, step in (("a", 4), ("b", 8), ("a", STEPS + 1)):
        with pytest.raises(Killed) if step <= STEPS else nullcontext():
            start(config, tmp_path / here, KillAt(step, "train/loss"), store=store)
    assert numbers(tmp_path / "a") == numbers(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.train": None}, "data.train is not set"),
        ({"data.train": "nowhere"}, "nowhere does not exist"),
        ({"classify.num_classes": 3}, "has label 7, but there are 3 classes"),
        ({"init": "nowhere"}, "nowhere does not exist"),
    ],
)
def test_what_cannot_be_run_is_one_line(synthetic: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EverestError, match=message):
        start(tiny("finetune", synthetic, **changes), tmp_path / "run")


def test_a_classifier_starts_from_a_pretrained_run(synthetic: Path, tmp_path: Path) -> None:
    start(tiny("pretrain", synthetic), tmp_path / "pre")
    config = tiny("finetune", synthetic, init=tmp_path / "pre", **{"optim.steps": 1, "optim.lr": 1e-12})
    start(config.override({"optim.warmup_lr": 0, "optim.min_lr": 0}), tmp_path / "fine")
    before, after = weights(tmp_path / "pre"), weights(tmp_path / "fine")
    name = "blocks.1.mlp.fc1.weight"
    torch.testing.assert_close(after[name], before[f"encoder.{name}"], atol=1e-6, rtol=0)


def normalized(clip: torch.Tensor) -> torch.Tensor:
    """uint8 (T, H, W, 3) -> (3, T, H, W)."""
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((clip / 255 - mean) / deviation).permute(3, 0, 1, 2)


@pytest.mark.drawn
def test_evaluation_averages_the_probabilities_of_all_views(synthetic: Path, tmp_path: Path) -> None:
    config = tiny("finetune", synthetic)
    result = start(config, tmp_path / "run")
    exported = load_model(tmp_path / "run")
    model, index = exported.model, read_index(synthetic / "val.csv")
    assert isinstance(model, Classifier)
    hits, loss = 0, 0.0
    confusion = torch.zeros(8, 8, dtype=torch.int64)
    for video in index.videos:
        views = EvaluationViews(index, config, segments=2, crops=1).views(video)
        with torch.no_grad():
            mean = torch.stack([model(normalized(view)[None]).softmax(-1)[0] for view in views]).mean(0)
        hits += int(mean.argmax() == video.label)
        confusion[video.label, mean.argmax()] += 1
        loss -= float(mean[video.label].log()) / len(index.videos)
    assert result.metrics["test/top1"] == hits / len(index.videos)
    assert result.metrics["test/loss"] == pytest.approx(loss, rel=1e-4)
    again = evaluate(model, index, config, ALONE, StopRequest(), segments=2, crops=1)
    assert again.metrics("test")["test/top1"] == result.metrics["test/top1"]
    assert torch.equal(again.confusion, confusion)
    header, *rows = (tmp_path / "run/figures/confusion.csv").read_text().splitlines()
    assert header.split(",")[1:] == list(exported.classes)
    assert [[int(count) for count in row.split(",")[1:]] for row in rows] == confusion.tolist()
    assert (tmp_path / "run/figures/confusion.png").exists()


def test_the_exported_model_is_the_trained_one_with_its_class_names(synthetic: Path, tmp_path: Path) -> None:
    start(tiny("finetune", synthetic), tmp_path / "run")
    exported = load_model(tmp_path / "run")
    assert exported.classes == read_index(synthetic / "train.csv").classes
    newest = sorted((tmp_path / "run/checkpoints").glob("step-*"))[-1]
    assert_same(load_file(newest / "model.safetensors"), dict(exported.model.state_dict()))
    checkpoint = load_model(newest)
    assert checkpoint.classes == exported.classes
    assert_same(dict(checkpoint.model.state_dict()), dict(exported.model.state_dict()))


@pytest.mark.drawn
def test_every_stage_leaves_its_pictures(synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.setattr(loop, "PICTURES_APART_S", 0)

    class Shown(NullTracker):
        def __init__(self) -> None:
            self.names: list[str] = []

        def artifact(self, path: Path, folder: str = "") -> None:
            self.names += [path.name] if path.name.startswith("step-") else []

    for stage, panels in (("pretrain", 5), ("finetune", 3)):
        shown, folder = Shown(), tmp_path / stage / "figures"
        config = tiny(stage, synthetic, **{"keep.picture_epochs": 1})
        start(config, tmp_path / stage, shown)
        along = [f"step-0000000{step}.png" for step in (0, 4, 8)]
        assert shown.names == along
        (gif,) = folder.glob("*.gif")
        for still in (gif.with_suffix(".png"), *(folder / name for name in along)):
            with Image.open(still) as picture:
                assert picture.size[0] > 800
        with Image.open(gif) as moving:
            assert moving.n_frames == 4
            assert moving.size[0] > panels * 200


def test_pictures_along_the_way_do_not_follow_each_other_at_once(synthetic: Path, tmp_path: Path) -> None:
    start(tiny("pretrain", synthetic, **{"keep.picture_epochs": 1}), tmp_path)
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["step-00000000.png"]


def test_pictures_along_the_way_change_no_weight(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "PICTURES_APART_S", 0)
    for stage in ("pretrain", "finetune"):
        for every in (0, 1):
            start(
                tiny(stage, synthetic, **{"optim.steps": 6, "keep.picture_epochs": every}),
                tmp_path / f"{stage}-{every}",
            )
        assert_same(weights(tmp_path / f"{stage}-0"), weights(tmp_path / f"{stage}-1"))


def test_hours_are_those_of_every_step_and_of_no_validation(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = 0.0

    def taking(seconds: float, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            nonlocal passed
            passed += seconds
            return call(*arguments)

        return wrapped

    monkeypatch.setattr(loop, "Pace", lambda workers, device: Pace(workers, device, clock=lambda: passed))
    monkeypatch.setattr(loop.Step, "__call__", taking(1.0, loop.Step.__call__))
    monkeypatch.setattr(loop.Training, "run_validation", taking(100.0, loop.Training.run_validation))
    start(tiny("finetune", synthetic, **{"keep.log_steps": 5}), tmp_path)  # validates every 4 steps
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    hours = {line["step"]: line["cost/process_hours"] for line in lines if "cost/process_hours" in line}
    assert hours == pytest.approx({5: 5 / 3600, 10: 10 / 3600, STEPS: STEPS / 3600})


def test_a_list_that_changed_since_the_run_was_begun_is_said_and_refused_unless_told(
    synthetic: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = (synthetic / "train.csv").read_text().replace("videos/", f"{synthetic}/videos/").splitlines()
    (tmp_path / "classes.txt").write_text((synthetic / "classes.txt").read_text())
    (tmp_path / "train.csv").write_text("\n".join(lines))
    config, folder = tiny("finetune", synthetic, **{"data.train": tmp_path / "train.csv"}), tmp_path / "run"
    with pytest.raises(Killed):
        start(config, folder, KillAt(5, "train/loss"))
    (tmp_path / "train.csv").write_text("\n".join(lines[1:]))
    said = r"begun with other videos.* \(data.train 16 videos -> 15\).*--data.changed ok"
    with pytest.raises(UsageError, match=said):
        start(config, folder)
    elsewhere = tmp_path / "another-pod"
    with pytest.raises(UsageError, match=said):
        start(config, elsewhere, store=folder / "checkpoints")
    start(config.override({"data.changed": "ok"}), folder)
    assert "begun with other videos" in caplog.text

    require_same_run(folder, config)
    (tmp_path / "train.csv").write_text("\n".join(lines))
    with pytest.raises(UsageError, match=r"\(data.train 15 videos -> 16\), and is finished; choose another --name"):
        require_same_run(folder, config)
    require_same_run(folder, config.override({"data.changed": "ok"}))


def test_a_run_that_fails_before_its_first_step_leaves_its_name_free(synthetic: Path, tmp_path: Path) -> None:
    config, folder = tiny("pretrain", synthetic), tmp_path / "run"
    with pytest.raises(EverestError, match="nowhere does not exist"):
        start(config.override({"init": "nowhere"}), folder)
    with pytest.raises(EverestError, match="unreadable"):
        start(config.override({"data.train": broken(tmp_path), "data.val": None, "mask.keep_ratio": 0.5}), folder)
    start(config, folder)
    with pytest.raises(UsageError, match=r"mask.keep_ratio 0.3 -> 0.5"):
        start(config.override({"mask.keep_ratio": 0.5}), folder)


def broken(folder: Path) -> Path:
    (folder / "broken").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (folder / "broken" / name).write_text("not a video")
    return folder / "broken"
