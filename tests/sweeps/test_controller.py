"""A controller's books balance, whatever happens to it and to its jobs."""

import itertools
import random
import resource
from collections import Counter
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from everest.errors import EverestError
from sweeps import jobs as module
from sweeps.budget import Budget
from sweeps.controller import Controller, Show
from sweeps.interrupts import Interrupts
from sweeps.space import Space
from sweeps.study import GPU_S, HALTED, LINES, REASON, RUN_S, Study
from tests.sweeps.simulated import Cluster, Killed, Silent

STAGES: dict[str, Any] = {
    "pretrain": {"recipe": "demo-pretrain", "search": {"mask.keep_ratio": {"categorical": [0.2, 0.3, 0.4]}}},
    "finetune": {"recipe": "demo-finetune", "search": {"classify.keep_ratio": {"float": [0.2, 1.0]}}},
}


def space(**more: object) -> Space:
    tree = {"name": "books", **STAGES, "objectives": {"val/top1": "max"}, "sampler": "random", **more}
    return Space.parse({key: value for key, value in tree.items() if value is not None})


def run(
    study: Study, cluster: Cluster, budget: Budget, same_fault: int = 1000, show: Show = lambda controller: None
) -> Controller:
    controller = Controller(study, cluster, cluster, budget, Silent(), same_fault, every_s=0)
    controller.run(show, Interrupts())
    return controller


def counts(study: Study) -> Counter[str]:
    return Counter(trial.state.name for trial in study.trials())


def cpu_s() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


@pytest.mark.parametrize("trials", [300, pytest.param(2000, marks=pytest.mark.long)])
def test_many_trials_with_failures_and_preemptions_are_all_accounted_for(
    trials: int, capsys: pytest.CaptureFixture[str]
) -> None:
    study = Study.begin("books", space(prune="val/top1"), optuna.storages.InMemoryStorage())
    cluster = Cluster(seed=1, failing=0.1, pretend=lambda spec, step: min(spec.experiment.classify.keep_ratio, 0.4))
    spent = [cpu_s()]

    def note(controller: Controller) -> None:
        if sum(controller.books.ended.values()) >= 200 * len(spent):
            spent.append(cpu_s())

    controller = run(study, cluster, Budget(parallel=200, trials=trials), show=note)
    with capsys.disabled():
        each = [1000 * (after - before) / 200 for before, after in itertools.pairwise(spent)]
        print(f"\n  controller and study, ms a trial: {', '.join(f'{ms:.1f}' for ms in each)}")

    found = counts(study)
    assert sum(found.values()) == trials
    assert set(found) == {"COMPLETE", "FAIL", "PRUNED"}
    assert min(found.values()) > trials // 40
    assert not cluster.jobs
    assert 150 <= cluster.busiest <= 400
    for trial in study.trials():
        name = f"books-{trial.number}"
        if trial.state == TrialState.COMPLETE:
            assert cluster.trained[name] == cluster.fate(name).randrange(2, 12), "trained more or less than once"
            assert trial.values == [pytest.approx(min(trial.params["classify.keep_ratio"], 0.4))]
        if trial.state == TrialState.FAIL:
            assert "exploded" in trial.user_attrs[REASON]
            assert trial.user_attrs[LINES]
    pretrainings = [name for name in cluster.submissions if "-pre-" in name]
    assert len(pretrainings) == 3
    assert controller.books.spent.gpu_s == pytest.approx(sum(t.user_attrs.get(GPU_S, 0) for t in study.trials()))


@pytest.mark.parametrize("seed", range(10))
def test_a_controller_killed_again_and_again_loses_repeats_and_leaves_nothing(seed: int) -> None:
    undisturbed = Cluster(seed, failing=0.2)
    expected = Study.begin("books", space(), optuna.storages.InMemoryStorage())
    run(expected, undisturbed, Budget(parallel=5, trials=40))

    study = Study.begin("books", space(), optuna.storages.InMemoryStorage())
    cluster, moments = Cluster(seed, failing=0.2), random.Random(seed)
    killed = 0
    while True:
        cluster.kill_at = cluster.calls + moments.randrange(1, 40) if killed < 15 else None
        try:
            run(study, cluster, Budget(parallel=5, trials=40))
            break
        except Killed:
            killed += 1
    assert killed >= 10
    ends = [[(t.number, t.state, t.params, t.values) for t in each.trials()] for each in (expected, study)]
    assert ends[0] == ends[1]
    assert cluster.trained == undisturbed.trained
    assert not cluster.jobs
    assert cluster.busiest <= 5 + 5  # those that are being removed


def test_never_more_jobs_than_asked_for() -> None:
    cluster = Cluster(seed=3)
    run(Study.begin("books", space(), optuna.storages.InMemoryStorage()), cluster, Budget(parallel=4, trials=30))
    assert cluster.busiest == 4


def test_trials_that_share_a_pre_training_share_its_failure_which_counts_once() -> None:
    cluster = Cluster(seed=0, failing=1)
    study = Study.begin("books", space(), optuna.storages.InMemoryStorage())
    with pytest.raises(EverestError, match=r"^3 jobs in a row failed alike, books is stopped: .* exploded"):
        run(study, cluster, Budget(parallel=8, trials=50), same_fault=3)
    assert len(cluster.submissions) == len([name for name in cluster.submissions if "-pre-" in name])
    assert counts(study)["FAIL"] >= 3


def test_budgets_hold_over_all_controllers_of_a_study() -> None:
    cluster = Cluster(seed=5, failing=0, preempted=0)
    study = Study.begin("books", space(pretrain=None), optuna.storages.InMemoryStorage())
    run(study, cluster, Budget(parallel=2, trials=4))
    spent = run(study, cluster, Budget(parallel=1, gpu_hours=0.2)).books.spent
    assert 0.2 * 3600 <= spent.gpu_s < 0.2 * 3600 + 12 * cluster.gpus
    assert len(study.trials()) == spent.trials > 4


def test_jobs_taken_up_get_back_what_they_have_lost() -> None:
    study = Study.begin("books", space(), optuna.storages.InMemoryStorage())
    cluster = Cluster(seed=3, failing=0, preempted=0, kill_at=9)
    with pytest.raises(Killed):
        run(study, cluster, Budget(parallel=3, trials=3))
    assert cluster.jobs
    for job in cluster.jobs.values():
        job.state, job.lost = "pending", True
    cluster.kill_at = cluster.calls + 2000  # rather than wait for ever
    run(study, cluster, Budget(parallel=3, trials=3))
    assert counts(study) == {"COMPLETE": 3}


def test_a_trial_that_runs_too_long_fails_and_says_so() -> None:
    study = Study.begin("books", space(pretrain=None), optuna.storages.InMemoryStorage())
    cluster = Cluster(seed=3, failing=0, preempted=0)
    run(study, cluster, Budget(parallel=2, trials=4, trial_hours=1e-9))
    reasons = {trial.user_attrs[REASON] for trial in study.trials(TrialState.FAIL)}
    assert reasons == {"ran longer than --trial-hours 1e-09"}
    assert not cluster.jobs


def test_a_trial_whose_job_never_starts_fails_whatever_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DIAGNOSE_EVERY_S", 0)
    study = Study.begin("books", space(pretrain=None), optuna.storages.InMemoryStorage())
    cluster = Cluster(seed=3, failing=0, preempted=0, never_start=True, kill_at=5000)
    run(study, cluster, Budget(parallel=2, trials=4))
    assert {trial.user_attrs[REASON] for trial in study.trials()} == {"did not start in --start-hours 24: exploded"}
    assert not cluster.jobs

    patient = Cluster(seed=3, failing=0, preempted=0, never_start=True, kill_at=500)
    waiting = Study.begin("books", space(pretrain=None), optuna.storages.InMemoryStorage())
    with pytest.raises(Killed):
        run(waiting, patient, Budget(parallel=2, trials=4, start_hours=1e6))
    assert counts(waiting) == {"RUNNING": 2}


def test_a_trial_of_jobs_without_gpus_has_its_hours_too() -> None:
    study = Study.begin("books", space(pretrain=None), optuna.storages.InMemoryStorage())
    run(study, Cluster(seed=3, failing=0, preempted=0, gpus=0), Budget(parallel=2, trials=2, trial_hours=1e-9))
    assert {trial.user_attrs[REASON] for trial in study.trials()} == {"ran longer than --trial-hours 1e-09"}


def test_a_trial_whose_job_does_not_start_again_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DIAGNOSE_EVERY_S", 0)
    study = Study.begin("books", space(pretrain=None), optuna.storages.InMemoryStorage())
    cluster = Cluster(seed=3, failing=0, preempted=0, never_restart=True, kill_at=50_000)
    run(study, cluster, Budget(parallel=1, trials=1, start_hours=1e-6))
    assert [trial.user_attrs[REASON] for trial in study.trials()] == ["did not start in --start-hours 1e-06: exploded"]


def test_how_long_a_job_has_not_run_is_counted_on_by_the_next_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job was begun long ago, and has only just been interrupted."""
    monkeypatch.setattr(module, "_DIAGNOSE_EVERY_S", 0)
    study = Study.begin("books", space(pretrain=None), optuna.storages.InMemoryStorage())
    cluster = Cluster(seed=3, failing=0, preempted=0, never_restart=True)
    budget = Budget(parallel=1, trials=1)
    for _ in range(2):
        cluster.kill_at = cluster.calls + 200
        with pytest.raises(Killed):
            run(study, cluster, budget)
    assert counts(study) == {"RUNNING": 1}

    (trial,) = study.take_up()
    trial.set_user_attr(HALTED, {name: at - 25 * 3600 for name, at in trial.user_attrs[HALTED].items()})
    cluster.kill_at = cluster.calls + 200
    run(study, cluster, budget)
    assert [trial.user_attrs[REASON] for trial in study.trials()] == ["did not start in --start-hours 24: exploded"]


def test_the_hours_of_a_trial_are_those_under_all_its_controllers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OVERDUE_EVERY_S", 0)
    study = Study.begin("books", space(pretrain=None), optuna.storages.InMemoryStorage())
    cluster = Cluster(seed=3, failing=0, preempted=0, kill_at=6)
    with pytest.raises(Killed):
        run(study, cluster, Budget(parallel=1, trials=1, trial_hours=1e6))
    (trial,) = study.take_up()
    trial.set_user_attr(RUN_S, 1e6 * 3600)
    run(study, cluster, Budget(parallel=1, trials=1, trial_hours=1e6))
    assert [trial.user_attrs[REASON] for trial in study.trials()] == ["ran longer than --trial-hours 1e+06"]
