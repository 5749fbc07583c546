"""What whoever launched a sweep wants to know of it: a new best trial, and its end. Its jobs tell nothing."""

from collections.abc import Callable, Iterable, Mapping

from optuna.trial import TrialState

from orchestration.notifier import Notifier
from orchestration.settings import PlatformSettings
from orchestration.webhook import Event, News
from sweeps.books import Listener
from sweeps.study import Study

Page = Callable[[str], str]  # of a run's name, its address in MLflow


class SweepNews:
    """A Listener. Nothing waits for what it tells, and nothing fails by it."""

    def __init__(self, study: Study, settings: PlatformSettings, page: Page) -> None:
        self._study, self._user, self._page = study, settings.user, page
        self._notifier = Notifier()

    def begun(self, number: int, values: Mapping[str, object]) -> None:
        """Is no news."""

    def ended(
        self, number: int, state: TrialState, jobs: Iterable[str], numbers: Mapping[str, float], reason: str
    ) -> None:
        best = {trial.number: trial for trial in self._study.best()}
        if state == TrialState.COMPLETE and number in best:
            *_, job = jobs
            which = "the best" if len(best) == 1 else f"one of the {len(best)} best"
            drawn = ", ".join(f"{name} {_short(value)}" for name, value in best[number].params.items())
            self._tell("best", f"trial {number} is {which} so far", best[number].values, f" ({drawn})", job)

    def finished(self) -> None:
        complete, best = self._study.trials(TrialState.COMPLETE), self._study.best()
        if len(best) == 1:
            self._tell("finished", f"finished, {len(complete)} trials; the best is {best[0].number}", best[0].values)
        else:
            self._tell("finished", f"finished, {len(complete)} trials, {len(best)} that none is better than")

    def failed(self, line: str) -> None:
        self._tell("failed", f"failed: {line}")

    def close(self) -> None:
        self._notifier.close()

    def _tell(self, event: Event, what: str, values: Iterable[float] = (), more: str = "", job: str = "") -> None:
        numbers = dict(zip(self._study.space.objectives, values, strict=False))
        shown = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        said = f"{what}: {shown}{more}" if shown else what
        name, user = self._study.name, self._user
        self._notifier.tell(lambda: News(event, name, user, said, numbers, self._page(job) if job else ""))


class Listeners:
    """Several, told the same."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def begun(self, number: int, values: Mapping[str, object]) -> None:
        for each in self._listeners:
            each.begun(number, values)

    def ended(
        self, number: int, state: TrialState, jobs: Iterable[str], numbers: Mapping[str, float], reason: str
    ) -> None:
        names = list(jobs)
        for each in self._listeners:
            each.ended(number, state, names, numbers, reason)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
