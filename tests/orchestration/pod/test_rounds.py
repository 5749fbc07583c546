"""Rounds of an elastic job, whatever comes and goes: never two at once, never fewer pods than would be possible."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.pod.rounds import BROKEN_S, SETTLE_S, Order, Rounds

GRACE_S = 60


@dataclass
class Pods:
    """Pods that do as they are told, and a clock. One that is stuck does not see that a peer of its is lost."""

    sizes: list[int]
    now: float = 0.0
    at_work: dict[int, int] = field(default_factory=dict)  # rounds by pods, as these are
    out_at: dict[int, float] = field(default_factory=dict)
    stuck: set[int] = field(default_factory=set)
    told: list[tuple[float, Order]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rounds = Rounds(self.sizes, GRACE_S)

    def come(self, pod: int) -> None:
        self.rounds.ready(pod, 0, self.now)

    def lose(self, pod: int) -> None:
        self.rounds.gone(pod, self.now)
        lost = self.at_work.pop(pod, None)
        self.out_at.pop(pod, None)
        for peer, number in self.at_work.items():
            if number == lost and peer not in self.stuck:
                self.out_at.setdefault(peer, self.now + 3)

    def pass_(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 1
            for pod, at in list(self.out_at.items()):
                if at <= self.now:
                    del self.out_at[pod]
                    self.rounds.ready(pod, self.at_work.pop(pod), self.now)
            self._obey(self.rounds.orders(self.now))

    def _obey(self, orders: dict[int, Order]) -> None:
        assert len({(order.kind, order.round) for order in orders.values()}) <= 1
        for pod, order in orders.items():
            if order.kind == "begin":
                assert not self.at_work or set(self.at_work.values()) == {order.round}, "two rounds at once"
                assert orders.keys() == set(order.team) <= self.rounds.here
                assert len(order.team) in self.sizes
                self.at_work[pod] = order.round
            else:
                assert self.at_work[pod] == order.round
                self.out_at[pod] = self.now + 2
            self.told.append((self.now, order))

    @property
    def team(self) -> tuple[int, ...]:
        return tuple(sorted(self.at_work))

    def kinds(self) -> list[str]:
        return [order.kind for _, order in self.told]


def test_a_full_team_begins_at_once_and_a_smaller_one_when_nobody_else_has_come_for_a_while() -> None:
    full, few = Pods([2, 3]), Pods([2, 3])
    for pod in (2, 0, 1):
        full.come(pod)
    full.pass_(1)
    assert full.team == (0, 1, 2)
    few.come(0)
    few.pass_(SETTLE_S - 1)
    few.come(2)
    few.pass_(SETTLE_S - 1)
    assert few.team == ()
    few.pass_(1)
    assert few.team == (0, 2)
    assert few.told[0][1].team == (0, 2)


def test_a_pod_that_is_lost_is_gone_on_without_and_taken_up_again_after_the_others_have_saved() -> None:
    pods = Pods([2, 3])
    for pod in range(3):
        pods.come(pod)
    pods.pass_(10)
    pods.lose(0)
    pods.pass_(SETTLE_S + 2)
    assert pods.team == (1, 2)
    assert "save" not in pods.kinds()
    pods.come(0)
    pods.pass_(5)
    assert pods.team == (0, 1, 2)
    assert pods.kinds()[-5:] == ["save", "save", "begin", "begin", "begin"]
    assert "end" not in pods.kinds()


def test_below_the_least_nobody_works() -> None:
    pods = Pods([2, 3])
    pods.come(0)
    pods.come(1)
    pods.pass_(40)
    pods.lose(1)
    pods.pass_(1000)
    assert pods.team == ()
    pods.come(1)
    pods.pass_(SETTLE_S)
    assert pods.team == (0, 1)


def test_numbers_among_which_the_work_does_not_divide_are_left_out() -> None:
    pods = Pods([1, 2, 4])
    for pod in range(3):
        pods.come(pod)
    pods.pass_(SETTLE_S)
    assert pods.team == (0, 1)
    pods.lose(1)
    pods.pass_(SETTLE_S)
    assert pods.team == (0, 2)
    assert "save" not in pods.kinds()
    pods.come(1)
    pods.pass_(2 * SETTLE_S)
    assert "save" not in pods.kinds()
    pods.come(3)
    pods.pass_(5)
    assert pods.team == (0, 1, 2, 3)


def test_one_that_does_not_see_that_its_peer_is_lost_is_ended() -> None:
    pods = Pods([1, 2])
    pods.come(0)
    pods.come(1)
    pods.stuck = {0}
    pods.pass_(10)
    pods.lose(1)
    pods.pass_(BROKEN_S - 1)
    assert "end" not in pods.kinds()
    pods.pass_(5)
    assert pods.kinds()[-2:] == ["end", "begin"]
    assert pods.team == (0,)


def test_one_that_saves_for_long_is_let_save() -> None:
    pods = Pods([1, 2])
    pods.come(0)
    pods.pass_(SETTLE_S)
    pods.come(1)
    pods.pass_(1)
    pods.out_at[0] = pods.now + GRACE_S - 2
    pods.pass_(GRACE_S - 3)
    assert pods.kinds() == ["begin", "save"]
    pods.pass_(2)
    assert pods.team == (0, 1)


def test_one_that_cannot_save_because_its_peer_is_lost_is_ended_sooner() -> None:
    pods = Pods([1, 2, 3])
    for pod in (0, 1):
        pods.come(pod)
    pods.pass_(SETTLE_S)
    pods.come(2)
    pods.pass_(1)
    assert pods.kinds()[-1] == "save"
    pods.stuck = {0}
    pods.out_at.clear()
    pods.lose(1)
    pods.pass_(BROKEN_S + 5)
    assert "end" in pods.kinds()
    assert BROKEN_S + 5 < GRACE_S


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.sets(st.integers(1, 5), min_size=1).map(sorted),
    events=st.lists(st.tuples(st.sampled_from(["come", "lose"]), st.integers(0, 5), st.integers(0, 90))),
    stuck=st.sets(st.integers(0, 5)),
)
def test_whatever_comes_and_goes_in_the_end_as_many_work_as_can(
    sizes: list[int], events: list[tuple[str, int, int]], stuck: set[int]
) -> None:
    pods = Pods(sizes, stuck=stuck)
    there: set[int] = set()
    for what, pod, seconds in events:
        if what == "come" and pod not in there:
            pods.come(pod)
            there.add(pod)
        elif what == "lose" and pod in there:
            pods.lose(pod)
            there.remove(pod)
        pods.pass_(seconds)
    pods.pass_(3 * max(BROKEN_S, SETTLE_S, GRACE_S))
    assert len(pods.team) == max((size for size in sizes if size <= len(there)), default=0)
    assert set(pods.team) <= there
    quiet = len(pods.told)
    pods.pass_(1000)
    assert len(pods.told) == quiet
