"""What goes is what the rules say, and never what somebody needs."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.gc.rules import PARTS, Facts, Rules, Run, Sweep, Trial, count_better, decide, needs

NOW = datetime(2026, 11, 28, tzinfo=UTC)
NAMES = [f"run-{number}" for number in range(6)]
ENDED = ("complete", "pruned", "failed")


def days(count: float) -> timedelta:
    return timedelta(days=count)


def a_run(name: str, state: str = "finished", age: float = 0, **more: object) -> Run:
    return Run(name, state, NOW - days(age), {"checkpoints": 100, "runs": 1}, **more)  # type: ignore[arg-type]


def going(rules: Rules, *runs: Run, **facts: object) -> set[str]:
    known = Facts(NOW, "here", runs, **facts)  # type: ignore[arg-type]
    return {verdict.run.name for verdict in decide(known, rules) if verdict.parts}


def test_old_runs_go_and_failed_ones_by_an_age_of_their_own() -> None:
    runs = [a_run("old", age=91), a_run("new", age=89), a_run("bad", "failed", 8), a_run("left", "unfinished", 91)]
    assert going(Rules(older=days(90)), *runs) == {"old", "left"}
    assert going(Rules(older=days(90), failed=days(7)), *runs) == {"old", "left", "bad"}
    assert going(Rules(failed=days(7)), *runs) == {"bad"}
    assert going(Rules(older=days(1), failed=days(9)), *runs) == {"old", "new", "left"}


def test_the_last_finished_runs_of_each_experiment_stay_and_failed_ones_push_none_out() -> None:
    runs = [a_run(f"a{age}", age=age, experiment="a") for age in range(4)]
    runs += [a_run(f"b{age}", age=age, experiment="b") for age in range(2)]
    runs += [a_run(f"f{number}", "failed", experiment="a") for number in range(9)]
    assert going(Rules(last=2), *runs) == {"a2", "a3"}
    assert going(Rules(last=2, older=days(3)), *runs) == {"a3"}


def test_all_but_the_best_trials_of_a_sweep_go_and_their_pre_trainings_stay() -> None:
    trials = {0: Trial("complete", (0.1,)), 1: Trial("complete", (0.3,)), 2: Trial("complete", (0.2,))}
    trials |= {3: Trial("pruned"), 4: Trial("failed"), 5: Trial("running"), 6: Trial("complete", (math.nan,))}
    runs = [a_run(f"s-{number}", study="s", trial=number) for number in [*trials, 7]] + [a_run("s-pre-1", study="s")]
    sweeps = {"s": Sweep((True,), trials, going=True)}
    assert going(Rules(best=1), *runs, sweeps=sweeps) == {"s-0", "s-2", "s-3", "s-4"}
    assert going(Rules(best=2), *runs, sweeps=sweeps) == {"s-0", "s-3", "s-4"}
    lowest = {"s": Sweep((False,), trials, going=True)}
    assert going(Rules(best=1), *runs, sweeps=lowest) == {"s-1", "s-2", "s-3", "s-4"}
    assert going(Rules(best=1), *runs, sweeps={"s": Sweep((), trials, going=True)}) == {"s-3", "s-4"}
    assert going(Rules(best=1), *runs) == set(), "of a sweep that nobody knows"
    assert "s-pre-1" not in going(Rules(older=days(0)), *runs, sweeps=sweeps), "another trial may begin from it"


def test_without_its_record_nothing_of_a_run_is_left() -> None:
    run = replace(a_run("old", age=9), sizes=dict.fromkeys(PARTS, 1))
    for parts in ({"runs"}, {"runs", "logs"}):
        (verdict,) = decide(Facts(NOW, "here", [run]), Rules(older=days(1), parts=frozenset(parts)))  # type: ignore[arg-type]
        assert verdict.parts == PARTS
    (verdict,) = decide(Facts(NOW, "here", [run]), Rules(older=days(1), parts=frozenset({"artifacts", "logs"})))
    assert verdict.parts == ("logs", "artifacts")


@pytest.mark.parametrize(
    ("needed", "why"),
    [
        (dict(versions=("mine/3",)), "model version mine/3"),
        (dict(namespaces=frozenset({"there", "here"})), "its job was in the namespace there"),
        (dict(known=False), "its record is not in this MLflow"),
        (dict(study="gone"), "nothing is known of its sweep gone"),
    ],
)
def test_why_a_run_is_needed_is_said(needed: dict[str, object], why: str) -> None:
    run = a_run("run", age=9, **needed)
    (verdict,) = decide(Facts(NOW, "here", [run]), Rules(older=days(1)))
    assert (verdict.parts, verdict.needed) == ((), why)


values = st.one_of(st.integers(0, 3).map(float), st.just(math.nan))
trials = st.builds(Trial, st.sampled_from([*ENDED, "running", ""]), st.tuples(values))
sweeps = st.dictionaries(st.sampled_from("st"), st.builds(
    Sweep, st.sampled_from([(True,), (False,), ()]), st.dictionaries(st.integers(0, 5), trials), st.booleans()
))  # fmt: skip
runs = st.lists(
    st.builds(
        Run,
        name=st.sampled_from(NAMES),
        state=st.sampled_from(["finished", "failed", "unfinished"]),
        seen=st.integers(0, 9).map(lambda age: NOW - days(age)),
        sizes=st.dictionaries(st.sampled_from(PARTS), st.integers(0, 9)),
        experiment=st.sampled_from("ab"),
        known=st.sampled_from([True, True, True, False]),
        namespaces=st.frozensets(st.sampled_from(["here", "here", "there"]), max_size=1),
        study=st.sampled_from(["", "", "s", "t"]),
        trial=st.sampled_from([None, 0, 1, 2, 3]),
        versions=st.sampled_from([(), (), (), ("mine/1",)]),
    ),
    unique_by=lambda run: run.name,
).map(lambda runs: [run if run.study else replace(run, trial=None) for run in runs])
some = st.frozensets(st.sampled_from(NAMES), max_size=2)
all_facts = st.builds(
    Facts, st.just(NOW), st.just("here"), runs, some, st.dictionaries(st.sampled_from(NAMES), some, max_size=2), sweeps
)
ages = st.one_of(st.none(), st.integers(0, 9).map(days))
counts = st.one_of(st.none(), st.integers(0, 4))
all_rules = st.builds(
    Rules, ages, ages, counts, counts, st.frozensets(st.sampled_from(PARTS), min_size=1).map(frozenset)
)


@given(all_facts, all_rules)
def test_what_somebody_needs_never_goes(facts: Facts, rules: Rules) -> None:
    for run, parts, *_ in decide(facts, rules):
        if parts:
            assert run.name not in facts.jobs
            assert not run.versions
            assert run.known
            assert run.namespaces <= {"here"}
            assert facts.begun_from.get(run.name, frozenset()) <= {run.name}
            if run.trial is not None:
                assert facts.sweeps[run.study].trials[run.trial].state in ENDED
            elif run.study:
                assert not facts.sweeps[run.study].going
                assert all(trial.state in ENDED for trial in facts.sweeps[run.study].trials.values())


@given(all_facts, all_rules)
def test_it_is_what_a_person_would_find_who_goes_through_the_list(facts: Facts, rules: Rules) -> None:
    """Each rule read off its sentence: a run goes that one of them names and none keeps."""
    named, kept = set(), set()

    def judge(run: Run, goes: bool) -> None:
        (named if goes else kept).add(run.name)

    for run in facts.runs:
        age = (NOW - run.seen).days
        if run.state == "failed" and rules.failed is not None:
            judge(run, age >= rules.failed.days)
        elif rules.older is not None:
            judge(run, age >= rules.older.days)
    for experiment in "ab":
        finished = [run for run in facts.runs if run.experiment == experiment and run.state == "finished"]
        moments = sorted((run.seen for run in finished), reverse=True)
        for run in finished if rules.last is not None else []:
            judge(run, run.seen not in moments[: rules.last])
    for run in facts.runs if rules.best is not None else []:
        sweep = facts.sweeps.get(run.study)
        if run.trial is None or sweep is None or run.trial not in sweep.trials:
            continue
        trial = sweep.trials[run.trial]
        if trial.state in ENDED:
            complete = [each.values[0] for each in sweep.trials.values() if each.state == "complete"]
            ranked = sorted(filter(math.isfinite, complete), reverse=sweep.highest == (True,))
            known = bool(sweep.highest) and math.isfinite(trial.values[0])
            judge(run, trial.state != "complete" or (known and trial.values[0] not in ranked[: rules.best]))
    there = {run.name for run in facts.runs if not needs(run, facts)}
    wanted = set(PARTS) if "runs" in rules.parts else rules.parts
    assert {run.name: set(parts) for run, parts, *_ in decide(facts, rules) if parts} == {
        run.name: wanted & run.sizes.keys()
        for run in facts.runs
        if run.name in (named - kept) & there and wanted & run.sizes.keys()
    }


@given(all_facts, all_rules, some)
def test_one_more_job_or_heir_never_makes_a_run_go(facts: Facts, rules: Rules, more: frozenset[str]) -> None:
    before = {run.name for run, parts, *_ in decide(facts, rules) if parts}
    after = replace(facts, jobs=facts.jobs | more)
    assert {run.name for run, parts, *_ in decide(after, rules) if parts} == before - more
    after = replace(facts, begun_from={**facts.begun_from, **dict.fromkeys(more, frozenset({"heir"}))})
    assert {run.name for run, parts, *_ in decide(after, rules) if parts} <= before - more


@given(st.lists(st.tuples(values, values), max_size=7), st.integers(1, 4))
def test_the_front_of_several_objectives_stays_and_what_has_gone_is_never_missed(
    found: list[tuple[float, float]], best: int
) -> None:
    trials = {number: Trial("complete", pair) for number, pair in enumerate(found)}
    gone: set[int] = set()
    for count in range(len(found) + 1):
        sweep = Sweep((True, False), {number: trials[number] for number in range(count)}, going=True)
        better = {number: count_better(sweep, number) for number in sweep.trials}
        goes = {number for number, others in better.items() if others is not None and others >= best}
        assert gone <= goes, "a trial that was not among the best comes to be"
        gone = goes
        whole = [pair for pair in found[:count] if all(map(math.isfinite, pair))]
        for number in goes:
            high, low = found[number]
            assert sum(a >= high and b <= low and (a, b) != (high, low) for a, b in whole) >= best
