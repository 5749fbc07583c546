"""The synthetic set: real files, fixed seeds, and nothing to be learnt from a single frame."""

import hashlib
import json
from pathlib import Path

import av
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from everest.data.camera import Camera, CameraMotion
from everest.data.index import read_index
from everest.data.synthetic import CLASSES, render, render_with_mask, synthesize
from everest.errors import UsageError
from everest.files import sha256


def make(folder: Path, camera: CameraMotion = "still", **changes: int) -> Path:
    settings = dict(train=8, val=8, size=32, frames=6, seed=3) | changes
    synthesize(folder, **settings, progress=lambda done, total: None, camera=camera)
    return folder


def test_the_files_are_real_h264_with_labels_and_names(tmp_path: Path) -> None:
    make(tmp_path)
    train, val = read_index(tmp_path / "train.csv"), read_index(tmp_path / "val.csv")
    assert train.classes == val.classes == CLASSES
    assert sorted(video.label for video in train.videos) == list(range(8))
    assert not {video.path for video in train.videos} & {video.path for video in val.videos}
    with av.open(str(train.videos[0].path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert len(list(container.decode(video=0))) == 6


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    first, second, other = (
        [sha256(make(tmp_path / name, frames=32, size=64, seed=seed) / f"videos/{n:05d}.mp4") for n in range(16)]
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first == second
    assert not set(first) & set(other)


def test_a_finished_set_is_left_alone_and_another_one_refused(tmp_path: Path) -> None:
    make(tmp_path)
    written = (tmp_path / "videos/00000.mp4").stat().st_mtime_ns
    make(tmp_path)
    assert (tmp_path / "videos/00000.mp4").stat().st_mtime_ns == written
    with pytest.raises(UsageError, match="holds a synthetic set of other settings"):
        make(tmp_path, train=16)
    with pytest.raises(UsageError, match="holds a synthetic set of other settings"):
        make(tmp_path, camera="pan")


def test_sets_made_before_there_were_cameras_stay_valid(tmp_path: Path) -> None:
    stamp = {"train": 8, "val": 8, "size": 32, "frames": 6, "seed": 3, "version": 1}
    (tmp_path / "synthetic.json").write_text(json.dumps(stamp))
    make(tmp_path)
    assert not (tmp_path / "videos").exists()
    digest = hashlib.sha256(
        b"".join(render(CLASSES[i % 8], 48, 6, np.random.default_rng(i)).tobytes() for i in range(32))
    )
    assert digest.hexdigest() == "51aef74bb702f613f501499e98d6387f77a35b7cec4b8017d53334899f78afc0"


@pytest.mark.parametrize("camera", ["pan", "zoom", "shake", "mixed"])
def test_a_moving_camera_shows_what_a_still_one_shows_where_it_looks(camera: CameraMotion) -> None:
    """So things move against the background as their class says."""
    size, frames, seen = 64, 16, []
    still, still_mask = render_with_mask("clockwise", size, frames, np.random.default_rng(9))
    moved, moved_mask = render_with_mask("clockwise", size, frames, np.random.default_rng(9), camera)
    rng = np.random.default_rng(9)
    render("clockwise", size, 1, rng)  # draws all but the camera
    views = Camera(camera, size, rng)
    for t in range(frames):
        view = views.at(t)
        inside = (np.minimum(view.x, view.y) > 1) & (np.maximum(view.x, view.y) < size - 1)
        seen.append(inside.mean())
        for there, here in ((still[t].mean(-1), moved[t].mean(-1)), (still_mask[t] * 255, moved_mask[t] * 255)):
            expected = map_coordinates(there, [view.y - 0.5, view.x - 0.5], order=1, mode="nearest")
            assert np.abs(expected - here)[inside].mean() < 3
    assert np.mean(seen) > 0.4
    assert np.abs(moved.astype(float) - still).mean() > 5


def nearest_mean_accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    """Of a classifier by class means, trained on one half and tested on the other."""
    half = len(labels) // 2
    features = (features - features[:half].mean(0)) / (features[:half].std(0) + 1e-6)
    means = np.stack([features[:half][labels[:half] == c].mean(0) for c in range(len(CLASSES))])
    distances = ((features[half:, None] - means) ** 2).sum(-1)
    return float((distances.argmin(1) == labels[half:]).mean())


@pytest.mark.parametrize(("camera", "times"), [("still", 3), ("mixed", 1.5)])
def test_one_frame_tells_nothing_about_the_class_and_two_tell_much(camera: CameraMotion, times: int) -> None:
    labels = np.arange(1600) % len(CLASSES)
    videos = np.stack(
        [render(CLASSES[c], 32, 3, np.random.default_rng(i), camera) for i, c in enumerate(labels)]
    ).astype(float)
    brightness = videos.mean(-1)
    chance, error = 1 / len(CLASSES), np.sqrt(1 / 8 * 7 / 8 / 800)
    for frame in (0, 2):
        assert nearest_mean_accuracy(brightness[:, frame].reshape(1600, -1), labels) < chance + 4 * error

    change = brightness[:, 1:] - brightness[:, :-1]
    gradients = np.gradient(brightness[:, :-1], axis=(2, 3))
    flow = np.stack([(change * g).mean((1, 2, 3)) for g in gradients] + [change.mean((1, 2, 3))], axis=1)
    assert nearest_mean_accuracy(flow, labels) > times * chance
