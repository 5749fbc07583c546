"""Something-Something v2 (Goyal et al., 2017): JSON for labels, train, validation and test, videos ``<id>.webm``.

A class is a template without its brackets: "Putting [something] on [something]" is "Putting something on something".
"""

from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from everest.data.lines import read_lines
from everest.data.prepare.annotations import (
    Annotations,
    Entry,
    Listed,
    first_file,
    optional_file,
    parse_rows,
    read_json,
)
from everest.errors import UsageError

_PLACES = ("something-something-v2-{}.json", "labels/{}.json", "labels/something-something-v2-{}.json", "{}.json")
_ANSWERS = ("labels/test-answers.csv", "test-answers.csv")


class _Video(BaseModel):
    id: str


class _Labelled(_Video):
    template: str


def read(root: Path, split: int) -> Annotations:
    """Raises UsageError for what is missing, and for a template that is no class."""
    classes = _classes(first_file(root, *_named("labels")))
    labels = {name: number for number, name in enumerate(classes)}
    lists = {"train": _labelled(first_file(root, *_named("train")), labels)}
    lists["val"] = _labelled(first_file(root, *_named("validation")), labels)
    if test := optional_file(root, *_named("test")):
        lists["test"] = _test(test, optional_file(root, *_ANSWERS), labels)
    return Annotations(classes, lists)


def _named(part: str) -> list[str]:
    return [place.format(part) for place in _PLACES]


def _classes(file: Path) -> tuple[str, ...]:
    """{template without brackets: number as a string}, counted from 0."""
    try:
        numbers = TypeAdapter(dict[str, int]).validate_python(read_json(file))
    except ValidationError as error:
        raise UsageError(f"{file} is not templates and their numbers: {error.errors()[0]['msg']}") from None
    names = sorted(numbers, key=numbers.__getitem__)
    if [numbers[name] for name in names] != [*range(len(names))]:
        raise UsageError(f"{file}: its {len(names)} classes are not numbered 0 to {len(names) - 1}")
    return tuple(map(_class_of, names))


def _class_of(template: str) -> str:
    return template.replace("[", "").replace("]", "").strip()


def _labelled(file: Path, labels: dict[str, int]) -> Listed:
    videos = parse_rows(file, TypeAdapter(list[_Labelled]), read_json(file))
    return Listed([Entry(video.id, _label(file, video.id, video.template, labels)) for video in videos])


def _test(file: Path, answers: Path | None, labels: dict[str, int]) -> Listed:
    """With the labels of ``test-answers.csv``, lines ``id;label`` without titles, or with none."""
    videos = parse_rows(file, TypeAdapter(list[_Video]), read_json(file))
    if answers is None:
        return Listed([Entry(video.id, None) for video in videos])
    lines = (line.partition(";") for line in read_lines(answers))
    found = {number.strip(): name for number, _, name in lines}
    return Listed([Entry(video.id, _label(answers, video.id, found.get(video.id, ""), labels)) for video in videos])


def _label(file: Path, video: str, template: str, labels: dict[str, int]) -> int:
    name = _class_of(template)
    if name not in labels:
        raise UsageError(f"{file}: video {video} has {name!r}, which is no class of labels.json")
    return labels[name]
