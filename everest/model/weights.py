"""Weights from files: our own, the authors' EVEREST, MCG-NJU VideoMAE's, and the transformers library's VideoMAE.

The first three name their tensors alike; the last is renamed here. What depends on the size of clips or tubelets is
made to fit. Nothing is ever unpickled beyond tensors and plain containers.
"""

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from everest.errors import EverestError
from everest.model.beside import Beside, read_beside
from everest.model.fitting import fit_positions, fit_tubelets, is_origin, pop_origin

State = Mapping[str, Tensor]

#: Where training scripts nest the weights in what they save.
_NESTS = ("model", "module", "state_dict")

#: Fixed positions: computed, never loaded.
_FIXED = re.compile(r"(^|\.)(pos_embed|position_embeddings)$")

#: A classifier's, one row a class.
_HEAD = {"head.weight", "head.bias"}

#: The transformers library's names -> ours.
_TRANSFORMERS = [
    (re.compile(pattern), name)
    for pattern, name in [
        (r"^videomae\.embeddings\.patch_embeddings\.projection\.", "encoder.patch_embed.proj."),
        (r"^videomae\.encoder\.layer\.", "encoder.blocks."),
        (r"^videomae\.layernorm\.", "encoder.norm."),
        (r"^decoder\.decoder_layers\.", "decoder.blocks."),
        (r"^classifier\.", "head."),
        (r"\.attention\.attention\.(query|key|value)\.weight$", r".attn.\1"),
        (r"\.attention\.attention\.(?:query\.bias|q_bias)$", ".attn.q_bias"),
        (r"\.attention\.attention\.(?:value\.bias|v_bias)$", ".attn.v_bias"),
        (r"\.attention\.output\.dense\.", ".attn.proj."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"\.output\.dense\.", ".mlp.fc2."),
    ]
]


class WeightsError(EverestError):
    """Weights that cannot be read, are refused, or do not fit the model."""


class LoadReport(NamedTuple):
    """Names of tensors: taken over, wanted but not there, there but not wanted; and what was made to fit, in words."""

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    fitted: list[str]


def load_weights(model: nn.Module, source: State | str | Path) -> LoadReport:
    """Loads whatever of ``source`` the model has a place for.

    ``source`` is a state dict, a .pth, .pt, .bin or .safetensors file, or a folder with one. A
    pre-training checkpoint gives a classifier its encoder. Weights of other tubelets are resampled, positions are
    those of the grid that the weights learned on, as far as ``source`` says it. Raises WeightsError where a file
    cannot be read or holds code, a tensor has the wrong shape, or nothing fits at all; the model is unchanged then.
    """
    state = read_weights(source) if isinstance(source, str | Path) else _unwrap(source)
    state = _to_our_names(state)
    wanted = {name: tensor for name, tensor in model.state_dict().items() if not is_origin(name)}
    if not any(name.startswith("encoder.") for name in wanted):
        state = {name.removeprefix("encoder."): tensor for name, tensor in state.items()}
    elif not any(name.startswith("encoder.") for name in state):
        state = {f"encoder.{name}" if f"encoder.{name}" in wanted else name: tensor for name, tensor in state.items()}

    beside = read_beside(Path(source)) if isinstance(source, str | Path) else Beside({})
    _same_structure(state, model, beside, source)
    origin = pop_origin(state) or beside.grid
    fitted = fit_tubelets(state, wanted)
    fitting = {name: tensor for name, tensor in state.items() if name in wanted}
    for name, tensor in fitting.items():
        if tensor.shape != wanted[name].shape:
            found, expected = tuple(tensor.shape), tuple(wanted[name].shape)
            remedy = f"; classify.num_classes {found[0]}, or what it was fine-tuned from, fits" if name in _HEAD else ""
            raise WeightsError(f"{name} has shape {found} in {_title(source)} and {expected} in the model{remedy}")
    if not fitting:
        raise WeightsError(f"{_title(source)} has no tensor of this model; its first is {next(iter(state), None)!r}")
    model.load_state_dict(fitting, strict=False)
    fitted += fit_positions(model, origin)
    return LoadReport(
        loaded=list(fitting),
        missing=[name for name in wanted if name not in fitting],
        unexpected=[name for name in state if name not in wanted],
        fitted=fitted,
    )


def _same_structure(state: State, model: nn.Module, beside: Beside, source: State | str | Path) -> None:
    """Raises WeightsError, with both numbers, where depth, width, number of heads or the MLPs' width differ."""
    wanted = model.state_dict()
    config: Any = getattr(model, "config", None)
    differ: dict[str, tuple[float, float]] = {}
    for part, setting in (("encoder", ""), ("decoder", "decoder_")):
        found, own = _blocks(state, part), _blocks(wanted, part)
        if found is None or own is None:
            continue
        numbers: dict[str, tuple[float, float]] = {
            f"{setting}depth": (found.depth, own.depth),
            f"{setting}embed_dim": (found.width, own.width),
            "mlp_ratio": (found.mlp / found.width, own.mlp / own.width),
        }
        if config is not None:
            heads = getattr(config, f"{setting}num_heads")
            numbers[f"{setting}num_heads"] = (beside.heads.get(f"{setting}num_heads", heads), heads)
        differ |= {f"model.{name}": both for name, both in numbers.items() if both[0] != both[1]}
    if differ:
        name, (theirs, ours) = next(iter(differ.items()))
        fits = " ".join(f"--{name} {theirs:g}" for name, (theirs, _) in differ.items())
        raise WeightsError(f"{_title(source)} has {name} {theirs:g}, and the model here has {ours:g}; {fits} fits")


class _Blocks(NamedTuple):
    depth: int
    width: int
    mlp: int


def _blocks(state: State, part: str) -> _Blocks | None:
    """Of the encoder or decoder, where there is one."""
    prefix = r"(?:encoder\.)?" if part == "encoder" else r"decoder\."
    pattern = re.compile(rf"{prefix}blocks\.(\d+)\.mlp\.fc1\.weight")
    found = {int(match[1]): tensor.shape for name, tensor in state.items() if (match := pattern.fullmatch(name))}
    if not found:
        return None
    mlp, width = found[max(found)]
    return _Blocks(max(found) + 1, width, mlp)


def read_weights(source: str | Path) -> dict[str, Tensor]:
    """The tensors of a file or folder by their names there. Raises WeightsError."""
    path = Path(source)
    if path.is_dir():
        return {name: tensor for file in _files(path) for name, tensor in _read_file(file).items()}
    return _read_file(path)


def _files(folder: Path) -> list[Path]:
    if (folder / "model").is_dir():  # the folder of a run of ours
        folder = folder / "model"
    for pattern in ("model.safetensors", "model-*-of-*.safetensors", "pytorch_model*.bin", "*.safetensors", "*.pt*"):
        if found := sorted(folder.glob(pattern)):
            return found if "-of-" in found[0].name else found[:1]
    raise WeightsError(f"{folder} has no .safetensors, .bin, .pt or .pth file")


def _read_file(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise WeightsError(f"{path} does not exist")
    try:
        path.open("rb").close()
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with torch.serialization.safe_globals([argparse.Namespace]):  # training scripts save their flags beside
            found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from None
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):
            raise WeightsError(f"{path} is refused: it is a pickle that would run code, not only tensors") from None
        raise WeightsError(f"{path} is refused: it is damaged, or a pickle of more than tensors") from None
    except Exception as error:  # the readers raise whatever arbitrary bytes lead them to
        raise WeightsError(f"{path} is damaged or no weights file ({type(error).__name__})") from None
    return _unwrap(found)


def _unwrap(found: Any) -> dict[str, Tensor]:
    """The state dict in whatever a training script saved around it."""
    while isinstance(found, Mapping) and (nest := next((n for n in _NESTS if isinstance(found.get(n), Mapping)), None)):
        found = found[nest]
    if not isinstance(found, Mapping):
        raise WeightsError(f"expected a state dict, found {type(found).__name__}")
    tensors = {str(name).removeprefix("module."): value for name, value in found.items() if isinstance(value, Tensor)}
    return {name: value for name, value in tensors.items() if not _FIXED.search(name)}


def _to_our_names(state: State) -> dict[str, Tensor]:
    if not any(name.startswith("videomae.") for name in state):
        return dict(state)
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in _TRANSFORMERS:
            name = pattern.sub(replacement, name)  # noqa: PLW2901
        renamed[name] = tensor
    for name in [name for name in renamed if name.endswith(".attn.query")]:
        attention = name.removesuffix("query")
        qkv = [renamed.pop(attention + part) for part in ("query", "key", "value")]
        renamed[f"{attention}qkv.weight"] = torch.cat(qkv)
    return renamed


def _title(source: State | str | Path) -> str:
    return str(source) if isinstance(source, str | Path) else "the state dict"
