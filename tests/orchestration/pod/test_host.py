"""The host of a meeting, talked to as pods do, and as strangers."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from orchestration.pod.host import Host


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host("127.0.0.1", [2], grace_s=60)
    yield made
    made.close()


class Pod:
    def __init__(self, host: Host, number: int, token: str | None = None) -> None:
        self.socket = socket.create_connection((host.address, host.port), timeout=30)
        self.lines = self.socket.makefile("rw")
        self.say(meeting=host.token if token is None else token, pod=number, address="127.0.0.1")

    def say(self, **message: object) -> None:
        self.lines.write(json.dumps(message) + "\n")
        self.lines.flush()

    def hears(self) -> dict[str, Any] | None:
        """The next that is more than a sign of life; None where the connection ends."""
        for line in self.lines:
            if said := json.loads(line):
                return dict(said)
        return None

    def close(self) -> None:
        self.lines.close()
        self.socket.close()


def test_a_team_is_told_who_is_first_and_where(host: Host) -> None:
    pods = [Pod(host, number) for number in (4, 3)]
    for pod, port in zip(pods, (1001, 1002), strict=True):
        pod.say(ready=0, port=port)
    begin = {"kind": "begin", "round": 1, "team": [3, 4], "store": ["127.0.0.1", 1002]}
    assert [pod.hears() for pod in pods] == [begin, begin]
    for pod in pods:
        pod.close()


def test_a_pod_that_comes_in_the_place_of_one_not_known_to_be_lost_is_taken_up(host: Host) -> None:
    first, lost = Pod(host, 0), Pod(host, 1)
    for pod in (first, lost):
        pod.say(ready=0, port=1000)
    assert first.hears() == lost.hears()
    new = Pod(host, 1)
    new.say(ready=0, port=1000)
    assert lost.hears() is None
    first.say(ready=1, port=1000)
    for pod in (first, new):
        said = pod.hears()
        assert said
        assert (said["kind"], said["round"], said["team"]) == ("begin", 2, [0, 1])
    for pod in (first, lost, new):
        pod.close()


@pytest.mark.parametrize("token", ["", "another"])
def test_who_does_not_know_the_token_hears_nothing(host: Host, token: str) -> None:
    stranger = Pod(host, 0, token)
    assert stranger.lines.readline() == ""
    stranger.close()


@pytest.mark.parametrize("said", ["\n", "hello\n", "[1]\n", "{}\n", '{"meeting": []}\n', "1" * 2**17])
def test_what_is_no_message_ends_its_connection_alone(host: Host, said: str) -> None:
    with socket.create_connection((host.address, host.port), timeout=30) as stranger:
        stranger.sendall(said.encode())
        stranger.shutdown(socket.SHUT_WR)
        assert stranger.recv(10) == b""
    test_a_team_is_told_who_is_first_and_where(host)
