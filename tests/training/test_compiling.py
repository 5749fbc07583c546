"""Compiled steps do what steps do; compiling takes a minute or more, whatever the size of the network."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from everest.errors import UsageError
from everest.training.compiling import compiles
from everest.training.step import Done
from tests.conftest import tiny
from tests.training.test_run import KillAt, Killed, assert_same, numbers, start, weights
from tests.training.test_step import batches, experiment, step_of

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def taken(stage: str, **changes: object) -> tuple[list[Done], list[Tensor], dict[str, Tensor]]:
    """Of a few steps: what they are, what the network gives but for losses, and the weights after them."""
    config = experiment(stage, **{"model.drop_path": 0.5, **changes})
    model, step = step_of(config, CPU)
    given, network, found = batches(config, CPU), step.network, []

    def noting(_module: nn.Module, _inputs: object, out: object) -> None:
        found.extend([out.kept, out.visible, out.hidden] if stage == "pretrain" else [out.detach()])  # type: ignore[attr-defined]

    network.register_forward_hook(noting)
    done = [step(number, given) for number in range(4)]
    return done, found, model.state_dict()


def compiled_steps_are_the_same(stage: str, recompute: bool) -> None:
    """Tokens, dropped paths, losses and what is learned; one graph, that is compiled once."""
    done, found, weights = taken(stage)
    other, compiled, learned = taken(stage, **{"optim.compile": True, "optim.recompute": recompute})
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    for one, two in zip(done, other, strict=True):
        torch.testing.assert_close(two.loss, one.loss, atol=1e-5, rtol=0)
        torch.testing.assert_close(two.grad_norm, one.grad_norm, atol=1e-5, rtol=1e-4)
    for expected, chosen in zip(found, compiled, strict=True):
        torch.testing.assert_close(chosen, expected, atol=1e-4, rtol=0)
    for name, tensor in weights.items():
        torch.testing.assert_close(learned[name], tensor, atol=1e-4, rtol=0, msg=name)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_network_is_one_graph_that_chooses_and_learns_the_same(
    stage: str, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph as torch takes it down, run by its own operations."""
    graph = partial(torch.compile, fullgraph=True, backend="aot_eager")
    monkeypatch.setattr("everest.training.step.compiled", graph)
    compiled_steps_are_the_same(stage, recompute)


@pytest.mark.long
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_compiled_steps_choose_and_learn_the_same(stage: str, recompute: bool) -> None:
    compiled_steps_are_the_same(stage, recompute)


@pytest.mark.long
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_compiled_run_killed_and_continued_has_the_weights_and_numbers_of_one_that_never_stopped(
    stage: str, synthetic: Path, tmp_path: Path
) -> None:
    """Its validation and its pictures compile nothing."""
    config = tiny(stage, synthetic, **{"optim.compile": True, "model.drop_path": 0.5})
    start(config, tmp_path / "whole")
    with pytest.raises(Killed):
        start(config, tmp_path / "killed", KillAt(8, "train/loss"))
    torch.compiler.reset()  # as in another process
    start(config, tmp_path / "killed")
    assert counters["stats"]["unique_graphs"] == 2
    assert_same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")


def test_to_compile_without_a_compiler_is_refused_in_one_line_before_anything_is_written(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(
        UsageError, match=r"^optim\.compile true needs a C\+\+ compiler \(g\+\+; CXX names another\)[^\n]*$"
    ):
        start(tiny("pretrain", synthetic, **{"optim.compile": True}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("device", "compiler", "expected"), [("cuda", True, True), ("cuda", False, False), ("cpu", True, False)]
)
def test_by_itself_only_training_on_gpus_is_compiled_where_there_is_a_compiler(
    device: str, compiler: bool, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    if compiler:
        for name in ("gcc", "g++"):
            (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("everest.training.compiling.has_triton", lambda: True)
    assert compiles(experiment("pretrain"), torch.device(device)) == expected
