"""Whether a packed set is what was packed."""

from collections.abc import Iterator
from functools import partial
from multiprocessing.pool import ThreadPool

from everest.data.check import Verdict
from everest.data.packed.manifest import Manifest
from everest.data.packed.place import Place
from everest.errors import EverestError


def verdicts(place: Place, manifest: Manifest, workers: int) -> Iterator[Verdict]:
    """On each file: compares its sum with the one that it was packed with."""
    with ThreadPool(workers) as pool:
        yield from pool.imap(partial(_sum, place, manifest), manifest.files)


def _sum(place: Place, manifest: Manifest, name: str) -> Verdict:
    try:
        found = place.sum(name)
    except EverestError as error:
        return Verdict(name, str(error), None)
    wrong = None if found == manifest.files[name] else "it is not as it was packed (its SHA-256 differs)"
    return Verdict(name, wrong, None)
