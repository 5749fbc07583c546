"""Every benchmark that the docs name runs to its end, in a short form."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


def run(*command: str) -> str:
    environment = os.environ | {"COLUMNS": "200", "EVEREST_TEST_S3": "http://127.0.0.1:1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def make(target: str, **words: str | Path) -> str:
    """In the environment as it is: whether that is up to date is nothing here."""
    return run("make", "--old-file=.venv/.ready", target, *(f"{name}={word}" for name, word in words.items()))


def test_bench_measures_steps_parts_lengths_and_processes(tmp_path: Path) -> None:
    files = tmp_path / "bench.json", tmp_path / "bench.png"
    short = "--quick --sizes small --precisions float32 --compile no"
    said = make("bench", JSON=files[0], PLOT=files[1], ARGS=short)
    found = json.loads(files[0].read_text())
    assert {"torch", "transformers", "cpu", "cores"} <= set(found["machine"])
    for stage, step in zip(("pretrain", "finetune"), found["steps"], strict=True):
        assert f"{stage} small float32" in said
        assert step["stage"] == stage
        assert step["times_faster"] == step["theirs_s"] / step["ours_s"]
        assert step["ours_peak_mb"] > step["batch"] * step["ours_saved_mb_per_clip"] > 0
    parts = found["parts"][0]["seconds"]
    assert {"selection", "pixels", "encoder", "decoder", "backward", "clipping", "AdamW"} <= set(parts)
    assert {row["frames"] for row in found["lengths"]} == {4, 8}
    assert {row["image_size"] for row in found["lengths"]} == {32, 48}
    assert [row["processes"] for row in found["processes"]] == [1, 2]
    with Image.open(files[1]) as drawn:
        assert drawn.format == "PNG"


def test_bench_data_measures_every_pipeline(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/one.mp4").symlink_to(clips / "part_0.mp4")
    said = make("bench-data", VIDEOS=tmp_path / "videos", JSON=tmp_path / "paces.json", ARGS="--quick")
    paces = {pace["pipeline"]: pace for pace in json.loads((tmp_path / "paces.json").read_text())}
    assert {"pretrain packed x4", "pretrain packed x1", "pretrain raw x1", "finetune packed"} <= set(paces)
    for name, pace in paces.items():
        assert name in said
        assert pace["clips_per_cpu_s"] > 0
        assert pace["clips_per_s"] > 0


def test_first_batch_measures_raw_and_packed_videos(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/one.mp4").symlink_to(clips / "part_0.mp4")
    command = [sys.executable, "-m", "benchmarks.first_batch", "--videos", str(tmp_path / "videos")]
    said = run(*command, "--processes", "1")
    rows = {row.split()[1]: row.split()[3::2] for row in said.splitlines() if "packed" in row or "raw" in row}
    assert set(rows) == {"packed", "raw"}
    assert all(row[0] == "1" and float(row[3]) > 0 for row in rows.values())


def test_saving_measures_what_stops_training_and_the_whole() -> None:
    said = run(sys.executable, "-m", "benchmarks.saving", "--tiny", "--sizes", "small", "--rounds", "1")
    rows = [[float(cell) for cell in row.split("│")[4:-1]] for row in said.splitlines() if "ViT small" in row]
    assert len(rows) == 2
    assert all(whole > 0 and 0 <= stopped <= whole for _, stopped, _, whole in rows)


def test_bench_data_names_a_folder_without_videos(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.data", "--videos", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"bench-data: {tmp_path} has no video of 32 frames or more\n"


@pytest.mark.long
def test_bench_formats_finds_our_format_to_be_exact(clips: Path) -> None:
    """By the command of the docs, which brings the other formats along."""
    page = (ROOT / "docs/packed-format.md").read_text()
    command = page.partition("```sh\n")[2].partition("```")[0]
    rows = [row for row in run("sh", "-c", f"{command.strip()} --videos '{clips}'").splitlines() if "tar and" in row]
    assert len(rows) == 2
    assert "is noticed" in rows[1]
    assert "same bytes" in rows[1]


def test_coverage_compares_selected_frames_with_even_ones() -> None:
    said = run(sys.executable, "-m", "benchmarks.coverage", "--seeds", "1", "--videos", "2", "--clips", "8")
    rows = [line.strip("| ").split(" | ") for line in said.splitlines() if line.startswith("| ")][2:]
    assert [(alpha, frames) for alpha, frames, *_ in rows] == [("1", "16"), ("1.3", "20"), ("1.5", "24"), ("2", "32")]
    steps = [[float(cell.split()[0]) for cell in row[5:]] for row in rows]
    assert steps[0][0] == steps[0][1] == steps[0][2]  # all that there are
    for largest, _, even in steps[1:]:
        assert largest > even


def test_positions_are_measured_computed_and_stretched(synthetic: Path, tmp_path: Path) -> None:
    from benchmarks.positions import measure
    from everest.export import Exported, save_model
    from everest.model.registry import pretrain_model
    from tests.conftest import tiny

    config = tiny("pretrain", synthetic)
    save_model(tmp_path, Exported(pretrain_model(config), config, ()))
    own, *others = measure(tmp_path, videos=2)
    assert (own.frames, own.image_size, own.computed) == (4, 32, own.stretched)
    assert [(row.frames, row.image_size) for row in others] == [(4, 48), (2, 32), (8, 32), (8, 48)]
    assert all(0 < row.stretched != row.computed > 0 for row in others)
