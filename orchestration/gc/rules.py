"""Which runs go, and why: a pure function of what is known of them.

A run goes where some rule speaks of it and all rules that do let it go. What a model version, another run or a job
still needs stays, whatever the rules say, and so does what is not known well enough.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, get_args

#: Of a run, from what it can best do without; without its record there is nothing left of it.
Part = Literal["checkpoints", "logs", "artifacts", "runs"]
PARTS: tuple[Part, ...] = get_args(Part)
State = Literal["finished", "failed", "unfinished"]

_ENDED = {"complete", "pruned", "failed"}  # trials


@dataclass(frozen=True)
class Rules:
    """None: there is no such rule."""

    older: timedelta | None = None  # go: runs without a sign of life for so long
    failed: timedelta | None = None  # the same for failed runs, in place of ``older``
    last: int | None = None  # stay: the newest of each experiment in MLflow; other finished runs go
    best: int | None = None  # stay: of each sweep the best trials' runs; those of other trials go
    parts: frozenset[Part] = frozenset({"checkpoints"})  # what goes of a run

    def __bool__(self) -> bool:
        return any(rule is not None for rule in (self.older, self.failed, self.last, self.best))


@dataclass(frozen=True)
class Trial:
    """How it ended (complete, pruned, failed, or not yet), and its values in the order of the sweep's objectives."""

    state: str
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Sweep:
    highest: tuple[bool, ...]  # of each objective, whether more is better; empty: nobody knows
    trials: Mapping[int, Trial]
    going: bool  # whether a controller may be at work


@dataclass(frozen=True)
class Run:
    name: str
    state: State
    seen: datetime  # its last sign of life
    sizes: Mapping[Part, int | None]  # bytes of the parts that there are; None: not known
    experiment: str = ""  # in MLflow
    known: bool = True  # to this MLflow, if it has come to one
    namespaces: frozenset[str] = frozenset()  # that its jobs were in
    study: str = ""  # the sweep that it belongs to
    trial: int | None = None  # the one whose last stage it is
    versions: tuple[str, ...] = ()  # of models, that were made of it


@dataclass(frozen=True)
class Facts:
    now: datetime
    namespace: str
    runs: Sequence[Run]
    jobs: frozenset[str] = frozenset()  # that go on, or may be continued
    begun_from: Mapping[str, frozenset[str]] = field(default_factory=dict)  # by run, the runs and jobs that name it
    sweeps: Mapping[str, Sweep] = field(default_factory=dict)


class Verdict(NamedTuple):
    run: Run
    parts: tuple[Part, ...]  # that go; none: it stays
    why: str
    needed: str = ""  # why it stays although the rules let it go


def decide(facts: Facts, rules: Rules) -> list[Verdict]:
    """One for each run, in their order."""
    parts = PARTS if "runs" in rules.parts else tuple(part for part in PARTS if part in rules.parts)
    return [_decide(run, tuple(part for part in parts if part in run.sizes), facts, rules) for run in facts.runs]


def _decide(run: Run, parts: tuple[Part, ...], facts: Facts, rules: Rules) -> Verdict:
    opinions = list(_opinions(run, facts, rules))
    why = ", ".join(why for goes, why in opinions if goes)
    if against := [why for goes, why in opinions if not goes]:
        return Verdict(run, (), against[0])
    if not opinions or not parts:
        return Verdict(run, (), "no rule speaks of it" if not opinions else "there is nothing of it")
    if needed := needs(run, facts):
        return Verdict(run, (), why, needed)
    return Verdict(run, parts, why)


def needs(run: Run, facts: Facts) -> str:
    """Who or what still needs the run; empty where nobody does."""
    return next(_needs(run, facts), "")


def _needs(run: Run, facts: Facts) -> Iterator[str]:
    if run.name in facts.jobs:
        yield "its job goes on, or may be continued"
    if others := run.namespaces - {facts.namespace}:
        yield f"its job was in the namespace {min(others)}"
    if not run.known:
        yield "its record is not in this MLflow"
    if run.versions:
        yield f"model version {run.versions[0]}"
    if heirs := facts.begun_from.get(run.name, frozenset()) - {run.name}:
        yield f"{min(heirs)} begins from it"
    if run.study:
        yield from _needs_of_sweep(run, facts.sweeps.get(run.study))


def _needs_of_sweep(run: Run, sweep: Sweep | None) -> Iterator[str]:
    if sweep is None:
        yield f"nothing is known of its sweep {run.study}"
    elif run.trial is None:
        if sweep.going or any(trial.state not in _ENDED for trial in sweep.trials.values()):
            yield f"its sweep {run.study} goes on"
    elif run.trial not in sweep.trials or sweep.trials[run.trial].state not in _ENDED:
        yield "its trial has not ended"


def _opinions(run: Run, facts: Facts, rules: Rules) -> Iterator[tuple[bool, str]]:
    """Of the rules that speak of it: whether it goes, and why."""
    failed = run.state == "failed" and rules.failed is not None
    limit, quiet = rules.failed if failed else rules.older, facts.now - run.seen
    if limit is not None:
        yield quiet >= limit, f"{'failed' if failed else 'quiet for'} {_days(quiet)}{' ago' if failed else ''}"
    if rules.last is not None and run.state == "finished":
        newer = sum(
            other.state == "finished" and other.experiment == run.experiment and other.seen > run.seen
            for other in facts.runs
        )
        yield newer >= rules.last, f"{newer} of its experiment are newer"
    if rules.best is not None and run.trial is not None:
        yield _trial_goes(facts.sweeps.get(run.study), run.trial, rules.best)


def let_go(sweep: Sweep, best: int) -> set[int]:
    """Trials that have ended and can no longer be among so many best, whichever come."""
    ended = (number for number, trial in sweep.trials.items() if trial.state in _ENDED)
    return {number for number in ended if _trial_goes(sweep, number, best)[0]}


def _trial_goes(sweep: Sweep | None, number: int, best: int) -> tuple[bool, str]:
    trial = sweep.trials.get(number) if sweep else None
    if sweep is None or trial is None or trial.state not in _ENDED:
        return True, "its trial has not ended"  # which is for others to see
    if trial.state != "complete":
        return True, f"its trial {'was ' if trial.state == 'pruned' else ''}{trial.state}"
    better = count_better(sweep, number)
    if better is None:
        return False, "how good its trial was is not known"
    return better >= best, f"{better} trials are better"


def count_better(sweep: Sweep, number: int) -> int | None:
    """How many complete trials are better in some objective and worse in none; None where that is not known."""

    def cost(trial: Trial) -> tuple[float, ...]:
        return tuple(-value if high else value for value, high in zip(trial.values, sweep.highest, strict=True))

    def measured(trial: Trial) -> bool:
        return len(trial.values) == len(sweep.highest) and all(map(math.isfinite, trial.values))

    if not sweep.highest or not measured(sweep.trials[number]):
        return None
    ours = cost(sweep.trials[number])
    others = [cost(trial) for trial in sweep.trials.values() if trial.state == "complete" and measured(trial)]
    return sum(other != ours and all(a <= b for a, b in zip(other, ours, strict=True)) for other in others)


def _days(span: timedelta) -> str:
    return f"{span.days} days" if span.days else f"{span.seconds // 3600} hours"
