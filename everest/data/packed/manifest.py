"""What a packed set says of itself."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from everest.data.packed.format import FORMAT, MANIFEST, PLAN, How
from everest.data.packed.place import FileSum, Place, is_address
from everest.errors import EverestError, UsageError


@dataclass(frozen=True)
class Manifest:
    how: How
    videos: int
    frames: int
    bytes: int
    classes: tuple[str, ...]
    bad: Mapping[str, str]  # name -> reason
    files: Mapping[str, FileSum]

    def text(self) -> str:
        return json.dumps(asdict(self), indent=1)

    def summary(self) -> str:
        return (
            f"{self.videos} videos, {len(self.bad)} left out, {len(self.classes)} classes, {self.frames} frames, "
            f"{self.bytes / 1e6:.0f} MB"
        )

    def digest(self) -> str:
        """Tells one packed set from another."""
        return sha256(self.text().encode()).hexdigest()[:16]

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """Raises EverestError for what is no manifest of a packed set that is understood here."""
        try:
            tree: dict[str, Any] = json.loads(text)
            how = How(**tree.pop("how"))
            files = {name: FileSum(*found) for name, found in tree.pop("files").items()}
            found = cls(how=how, files=files, classes=tuple(tree.pop("classes")), **tree)
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            raise EverestError(f"{where}/{MANIFEST} is not the manifest of a packed set; pack it again") from None
        if how.format != FORMAT:
            raise EverestError(f"{where} is {how.format!r}, and {FORMAT!r} is what this version reads")
        return found


def is_packed(source: str | Path) -> bool:
    """Whether it is a packed set, finished or not."""
    return is_address(source) or any((Path(source) / name).is_file() for name in (PLAN, MANIFEST))


def read_manifest(place: Place) -> Manifest:
    """Raises UsageError where there is no finished set, EverestError where it is not understood."""
    text = place.text(MANIFEST)
    if text is None:
        if place.text(PLAN) is None:
            raise UsageError(f"{place.address} is no packed set; everest data pack LIST {place.address} makes one")
        raise UsageError(f"{place.address} is not packed to its end; type its everest data pack again")
    return Manifest.parse(text, place.address)
