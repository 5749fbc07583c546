"""The published sets that can be prepared. Another is a file with a ``read`` and a row here."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from everest.data.prepare import hmdb51, k400, oscc, ssv2, ucf101
from everest.data.prepare.annotations import Annotations


class PublishedSet(NamedTuple):
    read: Callable[[Path, int], Annotations]  # of the root and the split
    splits: int = 1
    spelled: Callable[[str], str] = str  # names of files and folders that are the same are spelled the same


SETS = {
    "ucf101": PublishedSet(ucf101.read, splits=3, spelled=str.casefold),
    "hmdb51": PublishedSet(hmdb51.read, splits=3),
    "k400": PublishedSet(k400.read),
    "ssv2": PublishedSet(ssv2.read),
    "oscc": PublishedSet(oscc.read),
}
