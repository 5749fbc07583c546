"""The command line: what is typed, what is printed, what the exit code says."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from everest import read_frames
from everest.cli import main
from everest.config import Experiment
from everest.data.index import SUFFIXES
from everest.export import Exported, save_model
from everest.model.registry import classifier, pretrain_model
from everest.predict import Predictor
from tests.conftest import pack, tiny
from tests.data import sets
from tests.integration import command


class Shell:
    """The command in this process, where the heavy imports are done already."""

    def __init__(self, work: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self.work, self.capture = work, capture
        patch.chdir(work)
        for name, value in {"EVEREST_WORK": str(work), "EVEREST_TRACKER": "none"}.items():
            patch.setenv(name, value)

    def __call__(self, *arguments: object) -> command.Done:
        self.capture.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = self.capture.readouterr()
        assert isinstance(ended.value.code, int)
        return command.Done(ended.value.code, said.out, said.err)


@pytest.fixture
def everest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["pretrain", "--mask.keep_ration", "0.2"],
            "unknown setting 'mask.keep_ration'; did you mean 'mask.keep_ratio'?",
        ),
        (["pretrain", "--mask.visible_ratio=0.5"], "mask: visible_ratio 0.5 must be smaller than keep_ratio 0.3"),
        (["pretrain", "--optim.lr"], "--optim.lr needs a value"),
        (["pretrain", "stray"], "unexpected argument 'stray'"),
        (["pretrain", "--optim.betas", "[0.9"], "--optim.betas [0.9: not a list"),
        (["pretrain", "--recipe", "demo-finetune"], "is for everest finetune, not everest pretrain"),
        (["pretrain", "--recipe", "none.yaml"], "recipe none.yaml cannot be read: No such file"),
        (["pretrain"], "data.train is not set"),
        (["evaluate", "nowhere"], "nowhere is no finished run"),
        (["probe", "nowhere"], "nowhere is no finished run"),
        (["predict", "nowhere", "a.mp4"], "nowhere is no finished run"),
        (
            ["predict", "x", "a.mp4", "--start", "8", "--end", "8"],
            "--start 8 --end 8: must be seconds, the start before",
        ),
        (["predict", "s3://bucket/model", "a.mp4"], "no model 's3' is installed"),
        (["figures", "--video", "a.mp4"], "has no finished run"),
        (["data", "check", "nowhere"], "nowhere does not exist"),
        (["data", "synth", "out", "--size", "7"], "--size 7: must be at least 16"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(everest: Shell, arguments: list[str], message: str) -> None:
    done = everest(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("everest: ")


def test_the_installed_command_says_the_same(tmp_path: Path) -> None:
    done = command.everest("pretrain", "--mask.keep_ration", "1", work=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "everest: unknown setting 'mask.keep_ration'; did you mean 'mask.keep_ratio'?\n"


def test_the_config_printed_is_the_one_used(everest: Shell) -> None:
    done = everest(
        "pretrain", "--recipe", "demo-pretrain", "--mask.keep_ratio", "0.34", "--optim.betas=[0.8,0.9]",
        "--data.val", "null", "--print-config",
    )  # fmt: skip
    assert done.returncode == 0
    printed = Experiment.parse(yaml.safe_load(done.stdout))
    assert printed.mask.keep_ratio == 0.34
    assert printed.optim.betas == (0.8, 0.9)
    assert printed.data.val is None
    assert printed.model == Experiment.load("demo-pretrain").model


def test_a_frozen_encoder_is_probed_and_the_second_time_from_what_was_kept(
    everest: Shell, synthetic: Path, tmp_path: Path
) -> None:
    config, run = tiny("pretrain", synthetic, **{"probe.neighbours": 5}), tmp_path / "run"
    save_model(run / "model", Exported(pretrain_model(config), config, ()))
    done = everest("probe", run)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("16 training videos, 8 tested, 0 unreadable, 8 classes, 1 segments x 1 crops\n")
    result = json.loads((run / "probe/result.json").read_text())
    for name in ("val/knn_top1", "val/knn_top5", "val/linear_top1", "val/linear_top5", "probe/l2"):
        assert f"{name:24} {result['metrics'][name]:.4g}\n" in done.stdout
    assert result["settings"]["probe.neighbours"] == 5

    again = everest("probe", run, "--probe.neighbours", 16)
    assert again.stderr.count("are those of") == 2
    assert "features 1/" not in again.stderr
    assert json.loads((run / "probe/result.json").read_text())["settings"]["probe.neighbours"] == 16

    for changes, said in (
        (["--probe.neighbours", 17], "probe.neighbours 17 is more than the 16 videos of"),
        (["--model.depth", 1], "the settings of the trained model itself (model.*) cannot be changed now"),
        (["--probe.layer", 3], "probe.layer 3 is more than model.depth 2"),
        (["--data.val", "null"], "data.val is not set"),
        (["--data.val", synthetic / "videos"], "has no labels"),
    ):
        refused = everest("probe", run, *changes)
        assert refused.returncode == 2
        assert said in refused.stderr
        assert len(refused.stderr.splitlines()) == 1


def test_a_classifier_is_trained_tested_drawn_and_asked(everest: Shell, synthetic: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(tiny("finetune", synthetic).to_yaml())
    run = tmp_path / "tiny-finetune"
    done = everest("finetune", "--recipe", recipe)
    assert done.returncode == 0, done.stderr
    assert "tiny-finetune 12/12 loss" in done.stderr
    assert "test/top1" in done.stdout

    again = everest("finetune", "--recipe", recipe)
    assert again.returncode == 0
    assert "is finished already" in again.stderr

    top1 = next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("test/top1"))
    tested = everest("evaluate", run, "--evaluate.batch_size", 3)
    assert f"test/top1                {top1}" in tested.stdout

    video = synthetic / "videos/00016.mp4"
    asked = everest("predict", run, video, "--json")
    probabilities = json.loads(asked.stdout)["probabilities"]
    assert len(probabilities) == 8
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-4)

    drawn = everest("figures", "--video", video, "--out", tmp_path / "drawn")
    assert [Path(line).name for line in drawn.stdout.split()] == ["00016.png", "00016.gif"]
    assert all(Path(line).stat().st_size > 10_000 for line in drawn.stdout.split())

    missing = everest("predict", run, tmp_path / "missing.mp4")
    assert missing.returncode == 1
    assert "missing.mp4: no such file" in missing.stderr


def test_windows_of_a_prepared_set_are_packed_trained_on_tested_and_asked(everest: Shell, tmp_path: Path) -> None:
    sets.oscc(tmp_path / "ego4d")
    assert everest("data", "prepare", "oscc", tmp_path / "ego4d", tmp_path).returncode == 0
    pack(tmp_path / "val.csv", tmp_path / "packed")
    recipe = tmp_path / "mine.yaml"
    batch = {"optim.batch_size": 2, "optim.micro_batch": 2, "optim.epochs": 1, "optim.warmup_epochs": 0}
    recipe.write_text(tiny("finetune", tmp_path, name="listed", **batch).to_yaml())
    done = everest("finetune", "--recipe", recipe)
    assert done.returncode == 0, done.stderr
    for val in ("val.csv", "packed"):
        tested = everest("evaluate", tmp_path / "listed", "--data.val", tmp_path / val)
        assert tested.stdout.startswith("2 videos, 2 segments x 1 crops, 0 unreadable")

    [video] = (tmp_path / "ego4d/full_scale").iterdir()
    asked = everest("predict", tmp_path / "listed", video, "--start", 12.6, "--end", 20.6, "--json")
    answer = json.loads(asked.stdout)
    assert answer["video"] == f"{video} [12.6-20.6 s]"
    frames = read_frames(video, range(63, 103), short_side=32)  # of 5 a second
    assert answer["probabilities"] == pytest.approx(Predictor(tmp_path / "listed")(frames), abs=1e-6)
    beyond = everest("predict", tmp_path / "listed", video, "--start", 30)
    assert beyond.returncode == 1
    assert beyond.stderr == f"everest: {video} [from 30 s]: no frame from 30 s on; the video has 24 s\n"


def test_check_reports_every_broken_clip_and_no_other(everest: Shell, clips: Path, tmp_path: Path) -> None:
    listed = tmp_path / "all.txt"
    odd = sorted(path for path in (clips / "odd").iterdir() if path.suffix in SUFFIXES)
    listed.write_text("".join(f"{path.resolve()}\n" for path in [clips / "dog.mp4", *odd]))
    done = everest("data", "check", listed)
    assert done.returncode == 1
    reported = {Path(line.split(": ")[0]).name for line in done.stdout.splitlines()[:-1]}
    assert reported == {"corrupted.mp4", "empty.mp4", "no_index.mp4", "text.mp4"}
    assert f"{len(odd) + 1} videos, 0 classes, 3 unreadable, 1 odd but readable" in done.stdout


def test_a_run_survives_every_odd_clip_and_counts_the_broken_ones(everest: Shell, clips: Path, tmp_path: Path) -> None:
    listed = tmp_path / "all.txt"
    listed.write_text("".join(f"{path.resolve()}\n" for path in sorted((clips / "odd").iterdir())))
    config = tiny("pretrain", tmp_path, **{"data.train": listed, "data.val": None, "data.workers": 1})
    recipe = tmp_path / "odd.yaml"
    recipe.write_text(config.override({"data.max_bad": 0.5, "optim.epochs": 6}).to_yaml())
    done = everest("pretrain", "--recipe", recipe)
    assert done.returncode == 0, done.stderr
    for name in ("empty.mp4", "no_index.mp4", "text.mp4"):
        assert done.stderr.count(f"odd/{name}: ") == 1
    assert "data/bad_videos          3" in done.stdout


@pytest.mark.parametrize("workers", [0, 1])
def test_a_set_of_nothing_but_broken_files_ends_with_one_line(everest: Shell, tmp_path: Path, workers: int) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_text("not a video")
    config = tiny("pretrain", tmp_path, **{"data.train": tmp_path, "data.val": None, "data.workers": workers})
    (tmp_path / "mine.yaml").write_text(config.to_yaml())
    done = everest("pretrain", "--recipe", tmp_path / "mine.yaml")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("everest: 20 videos in a row are unreadable, the last ")
    assert last.endswith(".mp4: Invalid data found when processing input")
    assert "Traceback" not in done.stderr


def test_predict_and_figures_go_on_after_a_bad_file_and_keep_every_picture_in_any_locale(
    everest: Shell, synthetic: Path, tmp_path: Path
) -> None:
    config = tiny("finetune", synthetic)
    save_model(tmp_path / "model", Exported(classifier(config, 2), config, ("a", "é")))
    good = synthetic / "videos/00016.mp4"
    named = [b"x/same.mp4", b"y/same.mp4", b"y/same.mkv", b"z/caf\xe9 $x_1$.mp4"]
    videos = [tmp_path / os.fsdecode(name) for name in named]
    for video in videos:
        video.parent.mkdir(exist_ok=True)
        shutil.copy(good, video)
    given = [videos[0], tmp_path / "missing.mp4", *videos[1:]]
    drawn = everest("figures", tmp_path / "model", "--video", *given, "--out", tmp_path / "drawn")
    assert drawn.returncode == 1
    assert "missing.mp4: no such file" in drawn.stderr
    assert drawn.stderr.splitlines()[-1] == "everest: 1 of 5 videos could not be read"
    assert len(list((tmp_path / "drawn").glob("*.png"))) == len(videos)

    asked = command.everest(
        "predict", tmp_path / "model", *given, work=tmp_path, LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0"
    )
    assert asked.returncode == 1
    assert asked.stdout.count("%  ") == 2 * len(videos)
    assert "caf\\udce9" in asked.stdout
    assert "\\xe9" in asked.stdout
    assert "Traceback" not in asked.stderr


@pytest.mark.parametrize("module", ["everest", "sweeps"])
def test_a_folder_of_a_packages_name_where_a_command_is_typed_hides_nothing(module: str, tmp_path: Path) -> None:
    """``python -m`` and torchrun look there first."""
    (tmp_path / module).mkdir()
    words = ["pretrain", "--recipe", "demo-pretrain", "--print-config"]
    words = words if module == "everest" else ["launch", "smoke", "--dry-run"]
    done = command.python_m(module, *words, work=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "keep_ratio" in done.stdout
