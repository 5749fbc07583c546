"""What is measured: a step of a stage, a size, a precision, a number of clips."""

from dataclasses import dataclass
from typing import Literal

from everest.config import Experiment, Size

Stage = Literal["pretrain", "finetune"]
Precision = Literal["float32", "bfloat16"]

_TINY = {
    "model.embed_dim": 48, "model.depth": 2, "model.num_heads": 3, "model.patch_size": 8,
    "model.decoder_embed_dim": 24, "model.decoder_depth": 1, "model.decoder_num_heads": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """``tiny``: a network of the same kind in no time, to see whether all works."""

    stage: Stage
    size: Size
    precision: Precision = "float32"
    compiled: bool = False
    recompute: bool = False
    batch: int = 2
    frames: int = 16
    image_size: int = 224
    tiny: bool = False

    @property
    def title(self) -> str:
        kind = (" compiled" if self.compiled else "") + (" recomputing" if self.recompute else "")
        return f"{self.stage} {self.size} {self.precision}{kind}, {self.batch} x {self.frames} x {self.image_size}"

    @property
    def named(self) -> dict[str, object]:
        """How a row of a table begins."""
        return {"stage": self.stage, "size": self.size, "precision": self.precision, "recompute": self.recompute}

    def experiment(self, processes: int = 1) -> Experiment:
        """That of the published recipe for Kinetics-400, with gradients clipped; so many clips for each process."""
        return Experiment.load(f"kinetics400-{self.stage}").override(
            {
                "model.size": self.size,
                "model.num_frames": self.frames,
                "model.image_size": self.image_size,
                "data.repeats": 1,
                "optim.batch_size": self.batch * processes,
                "optim.micro_batch": self.batch,
                "optim.precision": self.precision,
                "optim.compile": self.compiled,
                "optim.recompute": self.recompute,
                "optim.clip_grad": 1.0,
                **(_TINY if self.tiny else {}),
            }
        )
