"""A study remembers its space and draws the same again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from everest.errors import EverestError, UsageError
from orchestration.settings import PlatformSettings
from sweeps.space import Space
from sweeps.storage import only_controller, open_storage
from sweeps.study import INFEASIBLE, Study
from tests.services import postgres


@pytest.fixture(scope="module", params=["sqlite", "journal", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformSettings]:
    folder = tmp_path_factory.mktemp("studies")
    if request.param == "postgresql":
        with postgres() as address:
            yield PlatformSettings(work=folder, studies=address)
    elif request.param == "journal":
        yield PlatformSettings(work=folder, studies=f"journal:{folder}/studies.log")
    else:
        yield PlatformSettings(work=folder)


def masking(name: str, **more: Any) -> Space:
    return Space.load("masking").changed({}, {}, name=name, **more)


def values(study: Study, count: int) -> list[dict[str, Any]]:
    found = []
    for _ in range(count):
        trial = study.draw()
        found.append(trial.params)
        study.tell(trial, TrialState.COMPLETE, [trial.params["mask.keep_ratio"]])
    return found


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "nsga3", "gp", "random", "grid", "qmc"])
def test_a_seed_draws_the_same_again_and_only_what_the_constraints_allow(sampler: str) -> None:
    drawn = [
        values(Study.begin("x", masking("x", sampler=sampler, seed=seed), optuna.storages.InMemoryStorage()), 14)
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert all(each["mask.visible_ratio"] < each["mask.keep_ratio"] for each in drawn[0])
    assert len({tuple(each.values()) for each in drawn[0]}) > 7


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_study_opened_again_draws_what_it_would_have_drawn(settings: PlatformSettings, sampler: str) -> None:
    name = f"again-{sampler}"
    whole = values(Study.begin(name, masking(name, sampler=sampler), optuna.storages.InMemoryStorage()), 12)
    parts = []
    for _ in range(4):
        parts += values(Study.begin(name, masking(name, sampler=sampler), open_storage(settings)), 3)
    assert parts == whole


def test_a_trial_drawn_halfway_is_drawn_to_its_end(settings: PlatformSettings) -> None:
    whole = Study.begin("half", masking("half", sampler="random"), optuna.storages.InMemoryStorage())
    expected = whole.draw().params
    study = Study.begin("half", masking("half", sampler="random"), open_storage(settings))
    study.optuna_study.ask()  # and the controller dies
    (left,) = Study.open("half", open_storage(settings)).take_up()
    assert left.params == expected


def test_a_trial_put_back_is_the_next_one_drawn(settings: PlatformSettings) -> None:
    study = Study.begin("back", masking("back"), open_storage(settings))
    first, second = study.draw(), study.draw()
    study.put_back(first)
    again = study.draw()
    assert (again.number, again.params) == (first.number, first.params)
    assert [trial.number for trial in study.trials(TrialState.RUNNING)] == [first.number, second.number]
    study.tell(again, TrialState.COMPLETE, [1])
    study.put_back(again)  # it has ended already
    assert [trial.number for trial in study.trials(TrialState.COMPLETE)] == [first.number]


def test_another_space_under_the_same_name_is_refused_with_the_difference(settings: PlatformSettings) -> None:
    storage = open_storage(settings)
    Study.begin("mine", masking("mine"), storage)
    Study.begin("mine", masking("mine"), storage)
    with pytest.raises(UsageError) as error:
        Study.begin("mine", masking("mine", seed=3).changed({}, {"optim.lr": 0.1}), storage)
    assert "finetune.fixed.optim.lr None -> 0.1" in str(error.value)
    assert "seed 0 -> 3" in str(error.value)
    assert "choose another --study" in str(error.value)
    with pytest.raises(UsageError, match="no sweep 'other'; there are: "):
        Study.open("other", storage)


def test_one_controller_at_a_time_has_a_study(settings: PlatformSettings) -> None:
    with only_controller(settings, "one"):
        with only_controller(settings, "two"):
            pass
        with (
            pytest.raises(EverestError, match="another controller is running one; everest-sweep stop one ends it"),
            only_controller(settings, "one"),
        ):
            pytest.fail("two controllers")
    with only_controller(settings, "one"):
        pass


def test_a_grid_is_every_possible_point_once() -> None:
    space = Space.parse(
        {
            "name": "grid", "sampler": "grid", "objectives": {"val/top1": "max"},
            "pretrain": {"recipe": "demo-pretrain", "search": {
                "mask.keep_ratio": {"float": [0.2, 0.4], "step": 0.1},
                "mask.visible_ratio": {"float": [0.1, 0.3], "step": 0.1},
            }},
            "constraints": ["mask.visible_ratio < mask.keep_ratio"],
        }
    )  # fmt: skip
    storage = optuna.storages.InMemoryStorage()
    drawn = []
    while (study := Study.begin("grid", space, storage)).any_left:
        drawn += values(study, 1)
    assert sorted((each["mask.keep_ratio"], each["mask.visible_ratio"]) for each in drawn) == [
        (0.2, 0.1), (0.3, 0.1), (0.3, 0.2), (0.4, 0.1), (0.4, 0.2), (0.4, 0.3),
    ]  # fmt: skip


def test_a_space_in_which_nothing_is_possible_is_refused_before_anything_starts() -> None:
    impossible = Space.load("masking").model_copy(update={"constraints": ("mask.keep_ratio < 0.01",)})
    storage = optuna.storages.InMemoryStorage()
    with pytest.raises(
        UsageError, match=r"of 200 draws none is possible, the last because not mask\.keep_ratio < 0\.01"
    ):
        Study.begin("impossible", impossible, storage)
    assert not optuna.get_all_study_names(storage)


def test_impossible_draws_are_no_trials() -> None:
    study = Study.begin("x", masking("x", sampler="random"), optuna.storages.InMemoryStorage())
    values(study, 10)
    everything = study.optuna_study.get_trials()
    assert len(study.trials()) == 10
    assert all(
        each.user_attrs[INFEASIBLE].startswith("not mask.visible_ratio") for each in everything if each.values is None
    )


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("postgresql://me:secret@db/x", "holds a password"),
        ("mysql://db/x", "must be postgresql://USER@HOST/DATABASE, sqlite:///FILE or journal:FILE"),
    ],
)
def test_a_database_that_cannot_be_used_is_a_line(address: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        PlatformSettings.load(studies=address)
    assert "secret" not in str(error.value)


def test_a_database_that_is_away_is_a_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"EVEREST_STUDIES = 'postgresql://postgres@127.0.0.1:9/x': "):
        open_storage(PlatformSettings(work=tmp_path, studies="postgresql://postgres@127.0.0.1:9/x"))
