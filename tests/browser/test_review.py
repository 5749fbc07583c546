"""What a person sees in a browser, of real runs and a real sweep: MLflow's pages and optuna-dashboard's.

``EVEREST_TEST_SCREENSHOTS`` names a folder for pictures of the pages, such as docs/images/review.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import Locator, Page, expect, sync_playwright

from tests.cluster.platform import ROOT
from tests.integration.command import environment
from tests.services import HANGS_S, addresses_of, experiments, free_port

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow warns of itself

_PATIENCE_MS = 120_000  # two cores, which also serve the pages


@dataclass
class Reviewed:
    mlflow: str
    dashboard: str
    client: Any
    runs: dict[str, Any]  # of MLflow, by their own names

    def page_of(self, run: str, part: str = "") -> str:
        info = self.runs[run].info
        return f"{self.mlflow}/#/experiments/{info.experiment_id}/runs/{info.run_id}{part}"

    def experiment(self, name: str) -> str:
        return str(self.client.get_experiment_by_name(name).experiment_id)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``make demo`` and ``make sweep SPACE=smoke`` leave it; made in small where it is not named."""
    folder = Path(os.environ.get("EVEREST_TEST_REVIEWED", tmp_path_factory.mktemp("review") / "work")).resolve()
    clean = {name: value for name, value in environment(folder).items() if name != "EVEREST_TRACKER"}

    def run(module: str, *words: object) -> None:
        command = [sys.executable, "-m", module, *map(str, words)]
        done = subprocess.run(
            command, env={**clean, "PYTHONWARNINGS": "ignore"}, cwd=folder.parent, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    if not folder.exists():
        run("everest", "data", "synth", "work/demo", "--train", 32, "--val", 16)
        small = [
            "--keep.picture_epochs",
            1,
            "--data.workers",
            0,
            "--optim.batch_size",
            8,
            "--optim.micro_batch",
            8,
            "--optim.warmup_epochs",
            0.5,
        ]
        run("everest", "pretrain", "--recipe", "demo-pretrain", *small, "--optim.epochs", 2)
        for name, init in (("demo-finetune", "work/demo-pretrain"), ("demo-scratch", "null")):
            more = ("--init", init, "--name", name, "--optim.epochs", 2, "--evaluate.every_epochs", 1)
            run("everest", "finetune", "--recipe", "demo-finetune", *small, *more)
    if not (folder / "optuna.db").exists():
        run("sweeps", "launch", "smoke", "--trials", 2, "--parallel", 2)
    return folder


@pytest.fixture(scope="module")
def reviewed(work: Path) -> Iterator[Reviewed]:
    """``make ui`` on that folder."""
    import mlflow

    ports = free_port(), free_port()
    words = [f"PORT={ports[0]}", f"SWEEPS_PORT={ports[1]}", f"WORK={work}", "RELEASE="]
    server = subprocess.Popen(
        ["make", "ui", *words], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert list(addresses_of(server)) == ["MLflow", "optuna-dashboard"]
        started = [each.cmdline() for each in psutil.Process(server.pid).children(recursive=True)]
        assert not [command for command in started if any("mlflow.server.jobs" in word for word in command)]
        client = mlflow.MlflowClient(f"http://127.0.0.1:{ports[0]}")
        runs = {run.data.tags.get("everest.run"): run for run in client.search_runs(experiments(client))}
        yield Reviewed(f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", client, runs)
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.communicate(timeout=HANGS_S)


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    return found or pytest.skip("no chromium (apt-get install chromium)")


@pytest.fixture(scope="module")
def person(chromium: str, reviewed: Reviewed) -> Iterator[Any]:
    """A browser of somebody who has chosen, as the docs say, to see what is for training models."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        person = browser.new_context(viewport={"width": 1400, "height": 900})
        person.set_default_timeout(_PATIENCE_MS)
        expect.set_options(timeout=_PATIENCE_MS)
        page = person.new_page()
        page.goto(reviewed.mlflow)
        page.get_by_text("Model training", exact=True).click()
        page.locator("button[aria-label=Close]").click()  # the assistant
        page.close()
        yield person


@pytest.fixture
def page(person: Any) -> Iterator[Page]:
    page = person.new_page()
    yield page
    page.close()


def picture(page: Page, name: str) -> None:
    if folder := os.environ.get("EVEREST_TEST_SCREENSHOTS"):
        page.mouse.move(0, 0)
        page.wait_for_timeout(2000)  # charts are drawn with a movement
        page.screenshot(path=f"{folder}/{name}.png")


def test_the_run_page_says_what_it_is_what_came_of_it_and_what_it_cost(page: Page, reviewed: Reviewed) -> None:
    page.goto(reviewed.page_of("demo-finetune"))
    expect(page.get_by_role("heading", name="demo-finetune · keeps 0.6")).to_contain_text("from demo-pretrain")
    page.get_by_text("Show more").click()
    top1 = reviewed.runs["demo-finetune"].data.metrics["test/top1"]
    for said in ("Fine-tuning on demo", f"test/top1 {top1:.4g}", "GFLOPs a clip", "hours of a GPU or process"):
        expect(page.get_by_text(said)).to_be_visible()
    commit = reviewed.runs["demo-finetune"].data.tags["mlflow.source.git.commit"]
    expect(page.locator("code", has_text=commit)).to_be_visible()
    picture(page, "run")


def test_metrics_are_in_groups(page: Page, reviewed: Reviewed) -> None:
    page.goto(reviewed.page_of("demo-pretrain", "/model-metrics"))
    for group in ("cost", "perf", "train"):
        expect(page.get_by_text(re.compile(rf"^{group}\s*\(\d+\)")).first).to_be_visible()
    picture(page, "metrics")


def test_pictures_along_the_way_are_shown_and_the_confusion_matrix(page: Page, reviewed: Reviewed) -> None:
    found = reviewed.client.list_artifacts(reviewed.runs["demo-pretrain"].info.run_id, "figures")
    stills = sorted(item.path for item in found if "step-" in item.path)
    for run, file in (("demo-pretrain", stills[-1]), ("demo-finetune", "figures/confusion.png")):
        page.goto(reviewed.page_of(run, f"/artifacts/{file}"))
        expect(page.get_by_role("heading", name=run)).to_be_visible()
        page.wait_for_function("[...document.images].some(image => image.naturalWidth > 400)")
        picture(page, Path(file).stem.partition("-")[0])


def test_two_runs_are_compared_by_what_differs(page: Page, reviewed: Reviewed) -> None:
    tuned, scratch = (reviewed.runs[name].info for name in ("demo-finetune", "demo-scratch"))
    where = f'runs=["{tuned.run_id}","{scratch.run_id}"]&experiments=["{tuned.experiment_id}"]'
    page.goto(f"{reviewed.mlflow}/#/compare-runs?{where}")
    expect(page.get_by_role("heading", name="Comparing 2 Runs from 1 Experiment")).to_be_visible()
    for name in ("from demo-pretrain", "from scratch"):
        expect(page.get_by_text(name).first).to_be_visible()
    expect(scrolled_to(page, "test/top1")).to_be_visible()
    picture(page, "compare")


def scrolled_to(page: Page, text: str) -> Locator:
    """In MLflow's tables, which draw the rows in view and few more."""
    found = page.get_by_text(text).first
    expect(page.get_by_role("grid").first).to_be_visible()
    for _ in range(50):
        if found.count():
            found.scroll_into_view_if_needed()
            break
        page.get_by_role("grid").evaluate_all("grids => grids.forEach(grid => grid.scrollTop += 150)")
        page.wait_for_timeout(200)
    return found


def unfold(run: Locator) -> None:
    """Shows the runs below one in the table."""
    run.locator("xpath=ancestor::*[@role='gridcell'][1]").locator("button").first.click()


def test_a_sweep_is_a_tree_of_trials_and_their_runs(page: Page, reviewed: Reviewed) -> None:
    page.goto(f"{reviewed.mlflow}/#/experiments/{reviewed.experiment('everest/demo/sweeps')}/runs")
    unfold(page.get_by_text("smoke", exact=True).first)
    trials = page.get_by_text(re.compile(r"^smoke-\d · keep_ratio \S+ · lr \S+$"))
    expect(trials).to_have_count(2)
    for trial in trials.all():
        unfold(trial)
    expect(page.get_by_text(re.compile(r"^smoke-\d · keeps \S+ · 24 steps · from scratch$"))).to_have_count(2)
    picture(page, "sweep")


def test_the_models_page_says_on_which_numbers_it_was_promoted(page: Page, reviewed: Reviewed) -> None:
    page.goto(f"{reviewed.mlflow}/#/models/demo-finetune/versions/1")
    top1 = reviewed.runs["demo-finetune"].data.metrics["test/top1"]
    expect(page.locator("tr", has_text="test/top1").filter(has_text=f"{top1:.4g}").first).to_be_visible()
    expect(page.get_by_text("candidate").first).to_be_visible()
    expect(page.get_by_role("link", name="demo-finetune · keeps 0.6").first).to_be_visible()
    picture(page, "model")


def test_the_dashboard_shows_the_sweep(page: Page, reviewed: Reviewed) -> None:
    page.goto(f"{reviewed.dashboard}/dashboard")
    page.get_by_text("smoke").first.click()
    for title in ("History", "Hyperparameter Importance", "Timeline"):
        expect(page.get_by_role("heading", name=title)).to_be_visible()
    expect(page.get_by_text("train/loss").first).to_be_visible()
    picture(page, "dashboard")
