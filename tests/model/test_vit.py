"""Blocks of the transformer against timm's, and what they keep for the backward pass."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from timm.layers import DropPath as TimmsDropPath
from timm.models.eva import EvaBlock
from torch import Tensor, nn

import everest
from benchmarks.memory import saved_bytes
from everest.model.linear import gelu_linear, norm_linear
from everest.model.vit import Block, DropPath, set_recompute


@pytest.fixture
def blocks() -> tuple[Block, EvaBlock]:
    """One of ours and one of timm's with the same weights, none of them at its start."""
    norm = partial(nn.LayerNorm, eps=1e-6)
    ours, timms = Block(48, 3, 4.0, drop_path=0.0), EvaBlock(48, 3, num_prefix_tokens=0, norm_layer=norm)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(std=0.2)
    timms.load_state_dict(ours.state_dict())
    return ours, timms


def learned(block: nn.Module, x: Tensor, last: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The last tokens, and what they teach the input and each parameter."""
    x = x.clone().requires_grad_()
    out = block(x) if isinstance(block, EvaBlock) else block(x, last)
    out[:, -last:].float().square().sum().backward()
    assert x.grad is not None
    return out[:, -last:], {"input": x.grad} | {name: p.grad for name, p in block.named_parameters()}


@pytest.mark.parametrize("last", [11, 4])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_block_computes_and_learns_what_timms_does(blocks: tuple[Block, EvaBlock], last: int, bfloat16: bool) -> None:
    x = torch.randn(2, 11, 48)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        (ours, ours_learn), (timms, timms_learn) = (learned(block, x, last) for block in blocks)
    closer = {"atol": 0.0, "rtol": 0.02} if bfloat16 else {"atol": 0.0, "rtol": 1e-5}
    torch.testing.assert_close(ours.float().norm(), timms.float().norm(), **closer)
    for name, expected in timms_learn.items():
        difference = (ours_learn[name] - expected).norm() / expected.norm()
        assert float(difference) < (0.03 if bfloat16 else 1e-5), name


def test_a_path_is_dropped_as_timm_drops_it() -> None:
    x = torch.randn(64, 3, 5)
    ours, timms = DropPath(0.3), TimmsDropPath(0.3)
    for training in (True, False):
        torch.manual_seed(1)
        expected = timms.train(training)(x)
        torch.manual_seed(1)
        assert torch.equal(ours.train(training)(x), expected)


def test_what_is_computed_again_has_the_gradients_of_its_formula() -> None:
    norm, linear = nn.LayerNorm(5).double(), nn.Linear(5, 4).double()
    nn.init.normal_(norm.weight)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    for name, found, expected in (
        ("norm", norm_linear(x, norm, linear.weight, linear.bias), linear(norm(x))),
        ("gelu", gelu_linear(x, linear), linear(F.gelu(x))),
    ):
        torch.testing.assert_close(found, expected, msg=name)
        weights = torch.randn_like(found)
        inputs = [x, *linear.parameters(), *(norm.parameters() if name == "norm" else ())]
        gradients = (torch.autograd.grad((out * weights).sum(), inputs) for out in (found, expected))
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, msg=name)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("stage", "megabytes"), [("pretrain", (95, 18)), ("finetune", (360, 45))])
def test_a_clip_of_vit_b_keeps_little_for_the_backward_pass(
    stage: str, megabytes: tuple[float, float], recompute: bool
) -> None:
    clip = torch.randint(0, 256, (1, 16, 224, 224, 3), dtype=torch.uint8)
    if stage == "pretrain":
        model: nn.Module = everest.create_pretrain_model("base")
        set_recompute(model, recompute)
        kept = saved_bytes(lambda: model(clip).loss, model)
    else:
        model = everest.create_classifier("base")
        set_recompute(model, recompute)
        kept = saved_bytes(lambda: model(clip).sum(), model)
    assert kept < megabytes[recompute] * 1e6
