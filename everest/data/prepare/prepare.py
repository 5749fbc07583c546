"""From a set's annotation files and videos to lists that training reads."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from everest.data.check import Verdict, verdicts
from everest.data.files import VideoFile, VideoFiles, Window
from everest.data.index import VideoIndex
from everest.data.prepare.annotations import Annotations, Listed
from everest.data.prepare.copies import Copies
from everest.data.prepare.report import ListReport, Report
from everest.data.prepare.sets import SETS
from everest.data.prepare.written import require_own, write_list
from everest.errors import UsageError
from everest.files import write_text
from everest.program import printable

LISTS, CLASSES, REPORT = ("train", "val", "test"), "classes.txt", "report.json"


class Preparation:
    """What is listed and there. Making one reads annotation files and looks for videos; nothing is written yet.

    Raises UsageError for what is wrong with the set, the split or the folders.
    """

    def __init__(self, name: str, root: Path, out: Path, split: int | None = None, videos: Path | None = None) -> None:
        """``videos``: where they are, if not below ``root``, or there more than once."""
        chosen = SETS[name]
        if split is not None and (chosen.splits == 1 or not 1 <= split <= chosen.splits):
            splits = f"splits 1 to {chosen.splits}" if chosen.splits > 1 else "no splits to choose from"
            raise UsageError(f"--split {split}: {name} has {splits}")
        for folder, of in ((root, "annotation files"), (videos or root, "videos")):
            if not folder.is_dir():
                raise UsageError(f"{folder} is no folder; give the one with the {of} of {name}")
        for part in LISTS:
            require_own(out / f"{part}.csv")
        number = split or 1 if chosen.splits > 1 else None
        annotations = chosen.read(root, number or 1)
        copies = Copies(videos or root, annotations.classes, chosen.spelled)
        self.out, self._classes = out, annotations.classes
        self._videos: dict[str, list[VideoFile]] = {}
        self.report = Report(name, number, str(videos or root), annotations.classes)
        for part, listed in annotations.lists.items():
            self._videos[part], self.report.lists[part] = _there(listed, copies, annotations)
        self._require_one_label()
        self.report.others = len(copies) - len({video.path for video in self._all()})

    def __len__(self) -> int:
        return sum(map(len, self._videos.values()))

    def check(self, workers: int, advance: Callable[[], None] = lambda: None) -> None:
        """Decodes every video, and leaves out broken ones as missing ones are. ``advance`` is told of each."""
        self.report.checked = True
        for part, videos in self._videos.items():
            index = VideoIndex(self.out / f"{part}.csv", VideoFiles.of(videos), ())
            kept = []
            for video, verdict in zip(videos, verdicts(index, workers), strict=True):
                advance()
                if self._usable(part, verdict):
                    kept.append(video)
            self._videos[part] = kept

    def _usable(self, part: str, verdict: Verdict) -> bool:
        found = self.report.lists[part]
        if verdict.unreadable:
            found.broken[printable(verdict.path)] = verdict.unreadable
        elif verdict.remark:
            found.odd[printable(verdict.path)] = verdict.remark
        return not verdict.unreadable

    def write(self) -> Report:
        """Lists, classes.txt and, when they are there, report.json. A list without videos is not there.

        Raises UsageError where no video is left at all.
        """
        if not len(self):
            found = next(iter(self.report.lists.values()))
            first = f"missing: {found.missing[0]}, and all others" if found.missing else "all are broken"
            raise UsageError(f"no video of {self.report.set} below {self.report.videos}; {first}")
        (self.out / REPORT).unlink(missing_ok=True)
        write_text(self.out / CLASSES, "".join(f"{name}\n" for name in self._classes))
        for part in LISTS:
            file, videos = self.out / f"{part}.csv", self._videos.get(part, [])
            if videos:
                self.report.lists[part].written = len(videos)
                write_list(file, videos)
            else:
                file.unlink(missing_ok=True)
        write_text(self.out / REPORT, json.dumps(self.report.as_json(), indent=1) + "\n")
        return self.report

    def _all(self) -> Iterator[VideoFile]:
        for videos in self._videos.values():
            yield from videos

    def _require_one_label(self) -> None:
        """Raises UsageError for a video, or window, that annotation files list in two classes."""
        labels: dict[tuple[Path, Window], int | None] = {}
        for video in self._all():
            if labels.setdefault((video.path, video.window), video.label) != video.label:
                raise UsageError(f"{self.report.set}: {video.name} is listed with two labels")


def _there(listed: Listed, copies: Copies, of: Annotations) -> tuple[list[VideoFile], ListReport]:
    """The videos of a list that are there."""
    report = ListReport(len(listed.entries) + listed.unlabelled, unlabelled=listed.unlabelled)
    videos = []
    for stem, label, start, end in listed.entries:
        path = copies.find(stem, None if label is None else of.classes[label])
        if path is None:
            report.missing.append(stem)
        else:
            videos.append(VideoFile(copies.root / path, label, start, end))
    return videos, report
