"""Where the pods of a job meet: at one of them, which has put its address into S3 by a conditional write.

torchrun's own elastic rendezvous would need one pod that is always there, clocks that agree, and a use for every pod,
whether or not a step's micro-batches divide among them. Its static one lets a pod that starts again sooner than the
first in where the pods met before, and wait there for ranks that are gone.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial

from pydantic import BaseModel

from everest.errors import EverestError, Superseded
from everest.training.manifest import said
from orchestration.job import POD_IP
from orchestration.pod.host import Host
from orchestration.pod.member import Member, Over
from orchestration.s3 import S3Store
from orchestration.settings import PlatformSettings

log = logging.getLogger(__name__)

MEETING = "meeting.json"
_ANSWER_S, _AGAIN_S = 10.0, 1.0  # that a host has to answer
_LINGER_S = 10.0
_LOOK_S = 60.0  # between two looks whether another meeting has taken this one's place


class Place(BaseModel):
    """What is kept in S3."""

    submission: str = ""
    meeting: str = ""
    address: str = ""
    port: int = 0


class Meetings:
    """Of this pod: one at a time, and another where that one is over."""

    def __init__(self, settings: PlatformSettings, run: str, sizes: Sequence[int], let_in: Sequence[str]) -> None:
        """``sizes``: numbers of pods that may work together, the smallest first; ``let_in``: as of S3Store."""
        self._sizes, self._grace_s = sizes, settings.grace_s
        self._store = S3Store(settings, run, let_in)
        self._hasty = S3Store(settings.model_copy(update={"patience_s": 1}), run, let_in)
        self._submission = os.environ.get("EVEREST_SUBMISSION", "")
        self._pod, self._address = int(os.environ["PET_NODE_RANK"]), os.environ[POD_IP]
        self._host: Host | None = None
        self._member: Member | None = None
        self._over: set[str] = set()  # meetings whose hosts do not answer any more
        self._met = False
        self._done = 0  # the last round

    def work(self, torchrun: Callable[[list[str]], int]) -> int:
        """Works in one round after the other; the exit code of the first that ends without having been told to.

        Raises Superseded where another job continues the run, Away where S3 stays away.
        """
        while True:
            self._leave_where_another_is()
            member = self._member = self._member or self._attend()
            self._met = True
            try:
                found = member.next_round(self._done, _free_port(self._address), _LOOK_S)
            except Over:
                self._member, self._done = None, 0
                continue
            if found is None:
                continue
            self._done = found.number
            code = member.work(found.number, partial(torchrun, found.flags(member.meeting)))
            if code == 0:
                self._end(member, found.rank)
            if code is not None:
                return code

    def _end(self, member: Member, rank: int) -> None:
        """The job is done when one pod is, and those that run then are removed with what they said: the first is to be
        that one. Where they meet here, they are waited for."""
        member.leave()
        if self._host:
            self._host.linger(_LINGER_S)
        if rank:
            time.sleep(_LINGER_S)

    def _leave_where_another_is(self) -> None:
        """Where this pod was cut off from the others, these may have met elsewhere."""
        try:
            there = _there(self._hasty) if self._member else None
        except EverestError:
            return
        if self._member and there and there.meeting != self._member.meeting:
            self._member.leave()
            self._member, self._done = None, 0

    def _attend(self) -> Member:
        while True:
            there = _there(self._store)
            if there and there.submission == self._submission:
                if member := self._joined(there):
                    return member
            elif there and self._met:
                raise Superseded(f"another job continues the run in {self._store.address}; this one stops")
            self._call()

    def _call(self) -> None:
        """A new meeting, here."""
        self._close_host()
        host = self._host = Host(self._address, self._sizes, self._grace_s)
        mine = Place(submission=self._submission, meeting=host.token, address=host.address, port=host.port)
        try:
            self._store.patiently(lambda: self._store.point(MEETING, mine.model_dump_json()))
        except Superseded:
            log.info("another pod was sooner to call a meeting")

    def _close_host(self) -> None:
        if self._host:
            self._host.close()
            self._host = None

    def _joined(self, place: Place) -> Member | None:
        if place.meeting in self._over:
            return None
        deadline = time.monotonic() + _ANSWER_S
        while True:
            try:
                member = Member((place.address, place.port), place.meeting, self._pod, self._address)
            except OSError as error:
                if isinstance(error, ConnectionRefusedError) or time.monotonic() > deadline:
                    log.info("the meeting at %s is over: %s", place.address, error)
                    self._over.add(place.meeting)
                    return None
            else:
                if self._host and self._host.token != place.meeting:
                    self._close_host()
                return member
            time.sleep(_AGAIN_S)


def _there(store: S3Store) -> Place | None:
    return said(Place, store.read(MEETING))


def _free_port(address: str) -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
