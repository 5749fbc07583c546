"""everest compare, from the plan to the report, with runs of its own on this machine."""

import json
from pathlib import Path

import pytest
import yaml

from tests.integration.sweep import Sweeps
from tests.integration.test_sweeps import TINY

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow warns of itself


@pytest.fixture
def file(videos: Path, tmp_path: Path) -> Path:
    data = {**TINY, "data.train": str(videos / "train.csv"), "data.val": str(videos / "val.csv")}
    narrow = {"model.decoder_embed_dim": 24, "model.decoder_depth": 1, "model.decoder_num_heads": 2}
    short = {"optim.batch_size": 16, "optim.micro_batch": 16, "keep.log_steps": 5, "probe.knn_epochs": 1}
    tree = {
        "methods": ["rero", "tube"],
        "measures": ["val/knn_top1", "val/knn_top5"],
        "curve": "val/knn_top1",
        "seeds": 2,
        "pretrain": {
            "recipe": "demo-pretrain",
            "fixed": {**data, **narrow, **short, "optim.steps": 20},
            "methods": {"tube": {"mask.method": "tube"}},
        },
    }
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path / "two.yaml"


@pytest.mark.parametrize("equal", ["flops", pytest.param("seconds", marks=pytest.mark.long)])
def test_methods_are_compared_to_the_end_and_a_finished_comparison_only_reports(
    file: Path, tmp_path: Path, equal: str
) -> None:
    sweeps = Sweeps(tmp_path)
    done = sweeps.run("compare", file, "--parallel", 2, "--equal", equal, module="everest")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "compare" / "two"
    written = json.loads((folder / "comparison.json").read_text())
    assert written["comparison"]["equal"] == equal
    assert [sorted(written["found"]["val/knn_top1"][method]["values"]) for method in ("rero", "tube")] == [
        ["0", "1"]
    ] * 2
    flops, values = written["curves"]["rero"]
    assert len(flops) == len(values) > 1
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3  # the plot, and what each method reconstructs
    assert "<h2>tube</h2>" in page

    (folder / "report.html").unlink()
    again = sweeps.run("compare", file, "--parallel", 2, "--equal", equal, module="everest")
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout
    assert (folder / "report.html").read_text() == page
