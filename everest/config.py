"""An experiment: one frozen tree of settings that says *what* is done, never where.

Every setting has a dotted name (``mask.keep_ratio``), which is its flag on the command line, its
parameter in MLflow and its name in a sweep. Nothing here reads the environment, so two runs of one
file are the same run.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from everest.errors import UsageError
from everest.masks import CLASSIFY_METHODS, METHODS, Method
from everest.patterns import matching, told
from everest.program import printable
from everest.tree import read_tree

_RECIPES = Path(__file__).with_name("recipes")
_TIMM = "must be timm's notation, as rand-m7-n4-mstd0.5-inc1"
_RUN_NAME = "must be 1 to 52 small letters, digits and '-', and neither begin nor end with '-'"

#: Names of parts of a data set, not of one.
_PARTS = {"train", "training", "packed", "videos"}
#: An address that another package reads, or a path.
Source = Annotated[str, matching(r"[a-z][a-z0-9]+://.*", "must be s3://BUCKET/PREFIX or a path")] | Path
Workers = Annotated[Literal["auto"] | Annotated[int, Field(ge=0)], told("must be auto or a whole number, 0 or more")]
Ratio = Annotated[float, Field(gt=0, le=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Distance = Literal["l2", "l1", "cosine", "cka"]
MaskMethod = Annotated[str, matching("|".join(METHODS), f"must be {', '.join(METHODS)}")]
ClassifyMethod = Annotated[str, matching("|".join(CLASSIFY_METHODS), f"must be {', '.join(CLASSIFY_METHODS)}")]
Size = Literal["small", "base", "large", "huge"]

#: Encoder and decoder of each size (VideoMAE, appendix; decoder of the base size as in EVEREST).
SIZES: dict[str, dict[str, int]] = {
    "small": dict(embed_dim=384, depth=12, num_heads=6, decoder_embed_dim=192, decoder_depth=4, decoder_num_heads=3),
    "base": dict(embed_dim=768, depth=12, num_heads=12, decoder_embed_dim=384, decoder_depth=4, decoder_num_heads=6),
    "large": dict(embed_dim=1024, depth=24, num_heads=16, decoder_embed_dim=512, decoder_depth=12, decoder_num_heads=8),
    "huge": dict(embed_dim=1280, depth=32, num_heads=16, decoder_embed_dim=640, decoder_depth=12, decoder_num_heads=8),
}


class MaskCounts(NamedTuple):
    """How many tokens of a clip are kept, and of these how many are visible and hidden."""

    kept: int
    visible: int
    hidden: int


def token_count(ratio: float, tokens: int) -> int:
    """``int(ratio * tokens)``, but 0.29 of 100 is 29 though the product is 28.999999999999996."""
    return math.floor(round(ratio * tokens, 6))


def _of_size(name: str) -> Any:
    """A field whose default is the one of the chosen ``size``."""
    return Field(default_factory=lambda fields: SIZES[fields.get("size", "base")][name], gt=0)


def _of_method(name: str) -> Any:
    """A field whose default is the one of the chosen ``method``."""
    return Field(
        default_factory=lambda fields: getattr(METHODS[fields.get("method", "rero")], name),
        description={
            "keep_ratio": "share of all tokens kept: those the encoder sees and those it reconstructs",
            "visible_ratio": "share of all tokens the encoder sees",
        }[name],
    )


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class ModelConfig(Section):
    """The network. Widths and depths not given are those of ``size``."""

    size: Size = "base"
    image_size: Positive = Field(224, description="height and width of a clip, pixels")
    num_frames: Positive = Field(16, description="frames of a clip")
    patch_size: Positive = Field(16, description="side of a tubelet, pixels")
    tubelet_size: Positive = Field(2, description="frames of a tubelet")
    embed_dim: int = _of_size("embed_dim")
    depth: int = _of_size("depth")
    num_heads: int = _of_size("num_heads")
    decoder_embed_dim: int = _of_size("decoder_embed_dim")
    decoder_depth: int = _of_size("decoder_depth")
    decoder_num_heads: int = _of_size("decoder_num_heads")
    mlp_ratio: float = Field(4.0, gt=0)
    encoder_norm: bool = Field(True, description="pre-training: norm after the encoder; transformers can lack it")
    drop_path: float = Field(0.0, ge=0, lt=1, description="stochastic depth of the last block")

    @model_validator(mode="after")
    def _divides(self) -> Self:
        for whole, part in (
            ("num_frames", "tubelet_size"),
            ("image_size", "patch_size"),
            ("embed_dim", "num_heads"),
            ("decoder_embed_dim", "decoder_num_heads"),
        ):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(f"{whole} {getattr(self, whole)} must be a multiple of {part} {getattr(self, part)}")
        return self

    @property
    def steps(self) -> int:
        return self.num_frames // self.tubelet_size

    @property
    def places(self) -> int:
        """Tokens of a step, N."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def tokens(self) -> int:
        """Tokens of a whole clip, S*N."""
        return self.steps * self.places


class MaskConfig(Section):
    """Masking for pre-training, by default by redundancy-robust tokens (EVEREST, section 3.2)."""

    method: MaskMethod = Field("rero", description=f"which tokens are kept: {', '.join(METHODS)}")
    keep_ratio: Ratio = _of_method("keep_ratio")
    visible_ratio: Ratio = _of_method("visible_ratio")
    distance: Distance = "l2"

    @property
    def row(self) -> Method:
        """What is peculiar to the method."""
        return METHODS[self.method]

    @model_validator(mode="after")
    def _some_are_hidden(self) -> Self:
        if self.row.all_hidden and self.keep_ratio < 1:
            raise ValueError(f"keep_ratio {self.keep_ratio:g} must be 1: {self.method} reconstructs all that is hidden")
        if self.visible_ratio >= self.keep_ratio:
            raise ValueError(
                f"visible_ratio {self.visible_ratio:g} must be smaller than keep_ratio {self.keep_ratio:g}"
            )
        return self

    def counts(self, steps: int, places: int) -> MaskCounts:
        """Of a clip of so many steps of so many tokens. Raises ValueError where none would be visible or hidden."""
        tokens = steps * places
        kept = token_count(self.keep_ratio, tokens)
        match self.row.shows:
            case "tubes":
                visible = steps * (places - token_count(1 - self.visible_ratio, places))
            case "steps":
                visible = places * max(1, round(self.visible_ratio * steps))
            case "tokens":
                visible = token_count(self.visible_ratio, tokens)
        if visible < 1 or kept <= visible:
            raise ValueError(
                f"keep_ratio {self.keep_ratio:g} and visible_ratio {self.visible_ratio:g} leave {visible} visible and "
                f"{kept - visible} hidden of {tokens} tokens; each needs at least one"
            )
        return MaskCounts(kept, visible, kept - visible)


class ClassifyConfig(Section):
    """Fine-tuning and inference."""

    method: ClassifyMethod = Field("rero", description=f"which tokens are kept: {', '.join(CLASSIFY_METHODS)}")
    keep_ratio: Ratio = Field(
        default_factory=lambda fields: 1.0 if fields.get("method") == "all" else 0.6,
        description="share of all tokens that enter the encoder",
    )
    distance: Distance = "l2"
    num_classes: Positive | None = Field(None, description="None: as many as the training list has")

    @model_validator(mode="after")
    def _all_are_all(self) -> Self:
        if self.method == "all" and self.keep_ratio < 1:
            raise ValueError(f"keep_ratio {self.keep_ratio:g} must be 1: method all takes every token")
        return self

    def kept(self, tokens: int) -> int:
        """Of so many tokens."""
        return max(1, token_count(self.keep_ratio, tokens))


class FramesConfig(Section):
    """Information-intensive frame selection for long uncurated video (EVEREST, section 3.3)."""

    select: bool = False
    alpha: float = Field(1.5, ge=1, description="candidate steps per step of the clip")
    keep_ratio: Ratio = Field(0.3, description="share of the longer clip's tokens that are counted per step")
    distance: Distance = "l2"

    def candidates(self, frames: int, tubelet_size: int) -> int:
        """Frames to decode for a clip of ``frames``: 2*alpha*tau where frames are selected (section 3.3)."""
        return math.floor(self.alpha * frames / tubelet_size + 1e-6) * tubelet_size if self.select else frames


class DataConfig(Section):
    """Where videos are listed, and how clips are cut from them."""

    name: Annotated[str, matching(r"[\w.-]{1,50}", "must be 1 to 50 letters, digits, '.', '_' or '-'")] | None = Field(
        None, description="of the data set, for people; None: the folder's"
    )
    train: Source | None = Field(
        None, description="list file, folder of videos, folder per class, packed set or its address, s3://BUCKET/PREFIX"
    )
    val: Source | None = Field(None, description="the same, for evaluation")
    root: Path | None = Field(None, description="what relative paths of a list start from; None: the list's folder")
    sampling: Literal["dense", "segment"] = Field("dense", description="a window of the video, or all of it in parts")
    rate: Positive = Field(4, description="dense sampling: one frame in so many")
    repeats: Positive = Field(
        1,
        description="clips of a video's same frames, decoded once; they differ in crop, flip, augmentation and mask",
    )
    reader: Literal["av", "decord"] = Field("av", description="decord refuses files whose frames it cannot number")
    time_limit: float = Field(120, gt=0, description="seconds to read a video in; beyond it counts as unreadable")
    workers: Workers = Field(
        "auto", description="decoding processes per training process, at most one a core; auto: its share of the cores"
    )
    changed: Literal["refused", "ok"] = Field(
        "refused", description="a run whose lists have changed since it was begun; ok: it goes on with the new ones"
    )
    max_bad: Probability = Field(0.05, description="share of unreadable videos that ends the run")


class AugmentConfig(Section):
    """Random changes to training clips; all frames of a clip share them."""

    flip: bool = Field(True, description="mirror half of the clips; false where left and right matter (SSv2)")
    crop_scales: tuple[Ratio, ...] = Field((1.0, 0.875, 0.75, 0.66), description="pre-training: multi-scale crop")
    crop_area: tuple[Ratio, Ratio] = Field((0.08, 1.0), description="fine-tuning: random resized crop")
    rand_augment: Annotated[str, matching(r"rand(-t[a-z0-9]+|-[a-z]+[0-9.]+)*", _TIMM)] | None = Field(
        "rand-m7-n4-mstd0.5-inc1",
        description="fine-tuning: timm's notation; null: off",
    )
    erase: Probability = Field(0.25, description="fine-tuning: random erasing")
    mixup: float = Field(0.8, ge=0, description="fine-tuning: mixup alpha, 0: off")
    cutmix: float = Field(1.0, ge=0, description="fine-tuning: cutmix alpha, 0: off")
    label_smoothing: float = Field(0.1, ge=0, lt=1)


class OptimConfig(Section):
    """AdamW with linear warm-up and cosine decay."""

    epochs: Positive = 100
    steps: Positive | None = Field(None, description="length in optimizer steps instead; warm-up keeps its share")
    batch_size: Positive = Field(8, description="clips of an optimizer step, of all processes together")
    micro_batch: Positive = Field(
        default_factory=lambda fields: fields.get("batch_size", 8),
        description="clips a process takes through the network at once; as many processes as divide "
        "batch_size / micro_batch do the same experiment; not given: all of batch_size",
    )
    lr: float = Field(1.5e-4, gt=0, description="per 256 clips of batch_size")
    min_lr: float = Field(1e-5, ge=0, description="at the end, per 256 clips")
    warmup_lr: float = Field(1e-6, ge=0, description="at the start, per 256 clips")
    warmup_epochs: float = Field(10, ge=0)
    betas: tuple[Probability, Probability] = (0.9, 0.95)
    weight_decay: float = Field(0.05, ge=0)
    layer_decay: Ratio = Field(1.0, description="fine-tuning: lr factor from each layer to the one below")
    clip_grad: float | None = Field(None, gt=0, description="largest gradient norm")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the GPU, or the CPU (AVX512-BF16, AMX), itself multiplies it"
    )
    compile: Literal["auto"] | bool = Field(
        "auto",
        description="training as one graph that torch compiles, which takes minutes at the start; with the same random "
        "choices; auto: on GPUs where there is a C compiler",
    )
    recompute: bool = Field(
        False,
        description="keep only what goes into each block for the backward pass, and compute the rest again: "
        "much less memory, a forward pass more",
    )
    deterministic: bool = Field(
        False, description="on GPUs too: the same bits each time, by slower algorithms; on the CPU that is always so"
    )

    @property
    def micro_batches(self) -> int:
        """Of an optimizer step."""
        return self.batch_size // self.micro_batch

    def dealt(self, rank: int, world: int) -> range:
        """The micro-batches of a step, by number, that one of ``world`` processes takes."""
        return range(rank, self.micro_batches, world)


class EvaluateConfig(Section):
    """Testing by several views of each video, their probabilities averaged."""

    segments: Positive = Field(5, description="clips along time")
    crops: Positive = Field(3, description="crops along the longer side")
    batch_size: Positive = Field(8, description="views a process takes through the network at once")
    every_epochs: Positive = Field(10, description="one view per video while fine-tuning")


class ProbeConfig(Section):
    """A frozen encoder judged by nearest neighbours and by a linear classifier (`everest probe`)."""

    layer: Positive | None = Field(
        None, description="blocks that tokens go through before they are averaged; null: all, and the norm after them"
    )
    segments: Positive = Field(1, description="clips along time of each video, their features averaged")
    crops: Positive = Field(1, description="crops along the longer side")
    neighbours: Positive = Field(20, description="training videos that vote on each validation video's class")
    temperature: float = Field(0.07, gt=0, description="a vote weighs exp(cosine / temperature)")
    l2: float | None = Field(
        None,
        gt=0,
        description="of the linear classifier: cross entropy + l2/2 * squared weights; null: searched on a fifth of "
        "the training videos",
    )
    knn_epochs: int | None = Field(
        None,
        ge=0,
        description="pre-training measures val/knn_top1 every so many epochs and at the end; 0: at the end alone; "
        "null: never",
    )


class KeepConfig(Section):
    """What a run writes down, and how often."""

    checkpoint_steps: Positive = Field(500, description="between checkpoints")
    checkpoint_minutes: float | None = Field(
        None,
        gt=0,
        description="between checkpoints where that is sooner, by the first process's clock; null: steps alone",
    )
    checkpoints: Positive = Field(2, description="newest checkpoints kept")
    best: str | None = Field("val/top1", description="the checkpoint where this was highest is kept too; null: none")
    log_steps: Positive = 10
    picture_epochs: int = Field(
        10,
        ge=0,
        description="epochs between pictures of one video, the first before any step, then one in 5 minutes at most; "
        "0: at the end alone",
    )


class Experiment(Section):
    """A pre-training or fine-tuning run, whole."""

    name: Annotated[str, matching(r"[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?", _RUN_NAME)] = Field(
        "everest", description="of the run, and its folder"
    )
    recipe: str | None = Field(None, description="what it was made from, for people")
    stage: Literal["pretrain", "finetune"] = "pretrain"
    seed: int = Field(0, ge=0, lt=2**31)
    init: Path | None = Field(None, description="weights to start from: a run's folder or a file; None: from scratch")
    model: ModelConfig = ModelConfig()
    mask: MaskConfig = MaskConfig()
    classify: ClassifyConfig = ClassifyConfig()
    frames: FramesConfig = FramesConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    probe: ProbeConfig = ProbeConfig()
    keep: KeepConfig = KeepConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        optim = self.optim
        if optim.warmup_epochs >= optim.epochs:
            raise ValueError(
                f"optim.warmup_epochs {optim.warmup_epochs:g} must be smaller than optim.epochs {optim.epochs}"
            )
        self.mask.counts(self.model.steps, self.model.places)
        if self.probe.layer and self.probe.layer > self.model.depth:
            raise ValueError(f"probe.layer {self.probe.layer} is more than model.depth {self.model.depth}")
        if optim.batch_size % optim.micro_batch:
            raise ValueError(
                f"optim.batch_size {optim.batch_size} must be a multiple of optim.micro_batch {optim.micro_batch}"
            )
        if optim.micro_batch % self.data.repeats:
            raise ValueError(
                f"optim.micro_batch {optim.micro_batch} must be a multiple of data.repeats {self.data.repeats}"
            )
        mixes = self.stage == "finetune" and (self.augment.mixup or self.augment.cutmix)
        if mixes and optim.micro_batch % 2:
            raise ValueError(f"optim.micro_batch {optim.micro_batch} must be even with mixup or cutmix")
        return self

    def share_of(self, processes: int) -> int:
        """Micro-batches of each of so many processes. Raises UsageError where they cannot share a step evenly."""
        optim = self.optim
        share, rest = divmod(optim.micro_batches, processes)
        if rest or not share:
            possible = [n for n in range(1, optim.micro_batches + 1) if optim.micro_batches % n == 0]
            raise UsageError(
                f"{processes} processes cannot share optim.batch_size {optim.batch_size} in micro-batches of "
                f"{optim.micro_batch}; {', '.join(map(str, possible))} can, or set optim.micro_batch"
            )
        return share

    @property
    def dataset(self) -> str:
        """The name of what it learns from."""
        source = self.data.train
        if self.data.name or source is None:
            return self.data.name or "data"
        folder = Path(os.path.abspath(source))  # without asking this machine, which may not have it
        while folder.suffix in {".csv", ".txt", ".lst", ".list"} or folder.name.lower() in _PARTS:
            folder = folder.parent
        name = folder.name or "data"
        return printable(name)

    @classmethod
    def load(cls, source: str | Path) -> Experiment:
        """The recipe of that name, or the YAML file at that path. Raises UsageError."""
        path = Path(source)
        if path.suffix not in {".yaml", ".yml"}:
            if str(source) not in recipe_names():
                said = _did_you_mean(str(source), recipe_names(), f"there are: {', '.join(recipe_names())}")
                raise UsageError(f"no recipe {str(source)!r}{said}; a file ends in .yaml")
            path = _RECIPES / f"{source}.yaml"
        tree = read_tree(path, f"recipe {source}")
        return cls.parse({"recipe": str(source), **tree})

    @classmethod
    def parse(cls, tree: Mapping[str, Any]) -> Experiment:
        """From nested settings. Raises UsageError with one line that names the setting."""
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise UsageError(_one_line(error)) from None

    def override(self, settings: Mapping[str, Any]) -> Experiment:
        """A copy with some settings changed, by dotted name. Raises UsageError.

        Another method of choosing tokens brings its own ratios, unless these are given too.
        """
        tree = self.model_dump(exclude_unset=True)
        for name, method in (("mask", self.mask.method), ("classify", self.classify.method)):
            if settings.get(f"{name}.method", method) != method:
                for ratio in ("keep_ratio", "visible_ratio"):
                    tree.get(name, {}).pop(ratio, None)
        for name, value in settings.items():
            section, _, field = name.rpartition(".")
            if name not in setting_names():
                raise UsageError(f"unknown setting {name!r}{_did_you_mean(name, setting_names())}")
            (tree.setdefault(section, {}) if section else tree)[field] = value
        return self.parse(tree)

    def flat(self) -> dict[str, Any]:
        """Every setting by its dotted name, in plain types."""
        return {
            f"{key}.{field}" if isinstance(value, dict) else key: inner
            for key, value in self.model_dump(mode="json").items()
            for field, inner in (value.items() if isinstance(value, dict) else [(key, value)])
        }

    def to_yaml(self) -> str:
        """The whole tree with every default filled in."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def recipe_names() -> list[str]:
    return sorted(file.stem for file in _RECIPES.glob("*.yaml"))


def setting_names() -> list[str]:
    """The dotted names of all settings."""
    return list(_names(Experiment))


def check_value(name: str, value: Any) -> None:
    """Whether a setting can ever have that value, whatever the others are. Raises UsageError."""
    if name not in setting_names():
        raise UsageError(f"unknown setting {name!r}{_did_you_mean(name, setting_names())}")
    section, _, field = name.rpartition(".")
    model: type[BaseModel] = Experiment
    if section:
        model = Experiment.model_fields[section].annotation  # type: ignore[assignment]
    try:
        TypeAdapter(model.model_fields[field].rebuild_annotation()).validate_python(value)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise UsageError(f"{name} = {value!r}: {message[0].lower()}{message[1:]}") from None


def _names(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _names(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def _did_you_mean(name: str, known: list[str], otherwise: str = "--print-config shows all there are") -> str:
    near = difflib.get_close_matches(name, known, n=1) or [k for k in known if k.endswith(f".{name}")]
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; {otherwise}"


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown setting {name!r}{_did_you_mean(name, setting_names())}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{name}: {message}" if name else message
    return f"{name} = {first['input']!r}: {message[0].lower()}{message[1:]}"
