"""What pods have said and keep in S3, also those that are gone; and with it what they say now."""

import gzip
import logging
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from everest.errors import EverestError
from orchestration.job import LogsMissing
from orchestration.log import EVERYTHING, FOLDER, Line, Numbered, Piece, Starts, Wanted, in_order
from orchestration.s3 import S3Store
from orchestration.settings import PlatformSettings

log = logging.getLogger(__name__)

_PATIENCE_S = 10


def kept_log(settings: PlatformSettings, run: str) -> "KeptLog":
    """As far as it is kept now. Where it cannot be read that is said, and there is nothing in it."""
    if not settings.s3_bucket:
        return KeptLog(run)
    try:
        return KeptLog(run, S3Store(settings.model_copy(update={"patience_s": _PATIENCE_S}), run))
    except EverestError as error:
        log.warning("what pods that are gone have said is not shown: %s", error)
        return KeptLog(run)


class KeptLog:
    def __init__(self, run: str, store: S3Store | None = None) -> None:
        """Raises UsageError where S3 does not let one in, Away where it does not answer."""
        self.run, self._store = run, store
        keys = store.list(FOLDER) if store else []
        self.pieces = sorted(filter(None, map(Piece.parse, keys)), key=lambda piece: piece.key)

    def whole(
        self,
        wanted: Wanted = EVERYTHING,
        live: Iterable[Line] = (),
        complete: Callable[[set[int]], bool] = lambda _: True,
    ) -> Iterator[str]:
        """In order, with what pods say that is not kept yet. Raises what ``live`` does, after the lines there are.

        ``complete``: whether nothing is missing where these pods' lines are known.
        """
        starts = Starts(self.pieces)
        found: list[Line] = []
        trouble: EverestError | None = None
        try:
            for line in live:
                found.append(line)
                starts.numbered(line)
        except EverestError as error:
            trouble = error
        heard = {line.pod for line in found} | {piece.pod for piece in self.pieces}
        if heard:
            wanted.require(self.run, starts)
        new = sorted(filter(wanted.__contains__, map(starts.numbered, found)), key=Numbered.place)
        yield from (said.text for said in in_order(self.lines(wanted, starts), new))
        if trouble and not (isinstance(trouble, LogsMissing) and complete(heard)):
            raise trouble

    def followed(
        self, wanted: Wanted, live: Iterable[Line], complete: Callable[[set[int]], bool] = lambda _: True
    ) -> Iterator[str]:
        """In order, then what pods say, as it comes, and at last what was kept of it and was not heard."""
        starts = Starts(self.pieces)
        latest: dict[tuple[int, int | None], str] = {}

        def new(said: Numbered) -> bool:
            line = said.line
            if line.moment and line.moment <= latest.get((line.pod, line.rank), ""):
                return False
            latest[line.pod, line.rank] = line.moment
            return said in wanted

        yield from (said.text for said in self.lines(starts=starts) if new(said))
        missing: LogsMissing | None = None
        try:
            yield from (said.text for said in map(starts.numbered, live) if new(said))
        except LogsMissing as error:
            missing = error
        yield from (said.text for said in self._now().lines() if new(said))
        if missing and not complete({pod for pod, _ in latest}):
            raise missing

    def _now(self) -> "KeptLog":
        try:
            return KeptLog(self.run, self._store)
        except EverestError as error:
            log.warning("what was kept since is not shown: %s", error)
            return KeptLog(self.run)

    def lines(self, wanted: Wanted = EVERYTHING, starts: Starts | None = None) -> Iterator[Numbered]:
        """Those that are kept, in order; ``starts``: where more of these are known than are kept."""
        starts = starts or Starts(self.pieces)
        speakers: dict[tuple[int, int | None], list[Piece]] = defaultdict(list)
        for piece in self.pieces:
            if wanted.start in {None, starts.number(piece.pod, piece.start)} and wanted.rank in {None, piece.rank}:
                speakers[piece.pod, piece.rank].append(piece)
        return in_order(*(self._said(pieces, starts, wanted) for pieces in speakers.values()))

    def _said(self, pieces: list[Piece], starts: Starts, wanted: Wanted) -> Iterator[Numbered]:
        for piece in pieces:
            number = starts.number(piece.pod, piece.start)
            for raw in self._read(piece).split("\n")[:-1]:
                said = Numbered(number, Line.parse(raw, piece.pod))
                if said in wanted:
                    yield said

    def _read(self, piece: Piece) -> str:
        assert self._store
        try:
            return gzip.decompress(self._store.content(piece.key)).decode(errors="replace")
        except (OSError, EOFError, zlib.error) as error:
            log.warning("%s%s cannot be read and is passed over: %s", self._store.address, piece.key, error)
            return ""
