"""What is found in a video, as a list, a picture and a film."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from everest.data.decode import decode, pictures
from everest.data.encode import write_video
from everest.data.reader.frames import Picture
from everest.figures import made_from
from everest.files import whole_file, write_text
from everest.find.intervals import Interval
from everest.find.timeline import Timeline
from everest.program import printable
from everest.progress import clock

matplotlib.use("agg")
matplotlib.rcParams["text.parse_math"] = False  # a name may hold a $

_COLUMNS = 6
_SHEET_PIXELS = 180  # shorter side of a picture
_FILM_PIXELS = 480
_POINTS = 800  # of the curve
_BLUE, _ORANGE = "#2a6f97", "#f4a259"


def write_list(file: Path, video: Path, intervals: Sequence[Interval]) -> None:
    """CSV with the titles path, start, end, best first: a list of windows, as training takes it."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["path", "start", "end"])
    rows.writerows([video.absolute(), f"{found.start:.2f}", f"{found.end:.2f}"] for found in intervals)
    write_text(file, text.getvalue())


def write_numbers(file: Path, video: Path, timeline: Timeline, intervals: Sequence[Interval]) -> None:
    """JSON: the intervals with their scores, and of each step when it begins and c_i. Seconds from the first frame."""
    found = {
        "video": printable(video.absolute()),
        "seconds": timeline.seconds,
        "kept": timeline.kept,
        "tokens_of_a_step": timeline.tokens,
        "intervals": [interval._asdict() for interval in intervals],
        "steps": {"begin": timeline.times.round(3).tolist(), "kept": timeline.counts.tolist()},
    }
    write_text(file, json.dumps(found))


def draw(png: Path, video: Path, timeline: Timeline, intervals: Sequence[Interval]) -> None:
    """The timeline above, the intervals below as a contact sheet, a row each, best first. Raises DecodeError."""
    rows = [_row(video, interval) for interval in intervals]
    tall = max((1.6 * row.shape[1] / row.shape[2] for row in rows), default=0.0)
    figure = Figure(figsize=(10.4, 2.6 + len(rows) * (tall + 0.1)), layout="constrained")
    upper, *lower = figure.subplots(
        1 + len(rows), 1, squeeze=False, gridspec_kw={"height_ratios": [2.4] + [tall + 0.1] * len(rows)}
    )[:, 0]
    _draw_timeline(upper, timeline, intervals)
    upper.set_title(printable(video.name), fontsize=10, pad=16)
    for number, (axes, row, interval) in enumerate(zip(lower, rows, intervals, strict=True), start=1):
        axes.imshow(np.concatenate(list(np.pad(row, ((0, 0), (0, 0), (0, 4), (0, 0)), constant_values=255)), axis=1))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        said = f"{number}\n{clock(int(interval.start))}\n{interval.score:.0%}"
        axes.set_ylabel(said, rotation=0, ha="right", va="center", fontsize=9)
    with whole_file(png) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata=made_from(video))


def _draw_timeline(axes: Axes, timeline: Timeline, intervals: Sequence[Interval]) -> None:
    """c_i, as a share of a step's tokens; of a long video the most of several steps."""
    parts = np.array_split(np.arange(len(timeline.counts)), min(_POINTS, len(timeline.counts)))
    most = [timeline.counts[part].max() / timeline.tokens for part in parts]
    axes.fill_between([timeline.times[part[0]] for part in parts], most, step="post", color=_BLUE, linewidth=0)
    for number, interval in enumerate(intervals, start=1):
        axes.axvspan(interval.start, interval.end, color=_ORANGE, alpha=0.4, linewidth=0)
        axes.annotate(
            str(number), ((interval.start + interval.end) / 2, 1), xycoords=("data", "axes fraction"),
            ha="center", va="bottom", fontsize=8,
        )  # fmt: skip
    axes.set(xlim=(0, timeline.seconds), ylim=(0, None), ylabel="tokens kept, share of a step")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: clock(seconds)))
    axes.spines[["top", "right"]].set_visible(False)


def _row(video: Path, interval: Interval) -> np.ndarray:
    """Frames evenly over an interval: uint8 (_COLUMNS, H, W, 3)."""

    def evenly(total: int) -> np.ndarray:
        return np.linspace(0, total - 1, _COLUMNS).round().astype(int)

    return decode(video, _SHEET_PIXELS, evenly, start=interval.start, end=interval.end).numpy()


def write_film(mp4: Path, video: Path, timeline: Timeline, intervals: Sequence[Interval]) -> None:
    """The intervals one after another, in the order of the video, at its mean rate. Raises DecodeError."""
    rate = Fraction(timeline.rate).limit_denominator(1001)
    with whole_file(mp4) as temporary:
        write_video(temporary, _all_of(video, min(_FILM_PIXELS, timeline.short_side), sorted(intervals)), rate)


def _all_of(video: Path, short_side: int, intervals: Sequence[Interval]) -> Iterator[np.ndarray]:
    for interval in intervals:
        latest = -1.0
        for found in pictures(video, short_side, start=interval.start, end=interval.end):
            if isinstance(found, Picture) and found.seconds > latest:  # it may have begun anew
                latest = found.seconds
                height, width, _ = found.pixels.shape
                yield found.pixels[: height // 2 * 2, : width // 2 * 2]  # H.264 has even sides
