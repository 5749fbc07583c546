"""Files that are summed up while they are written."""

from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from everest.training.manifest import Seal
from everest.training.sealed import sealed, write_weights

WEIGHTS = {
    "z.weight": torch.randn(3, 5),
    "a.weight": torch.randn(5),
    "scalar": torch.tensor(2.5),
    "none": torch.zeros(0, 4),
    "half": torch.randn(3).half(),
    "brain": torch.randn(3, 1).bfloat16(),
    "double": torch.randn(2).double(),
    "count": torch.tensor([7, -1]),
    "short": torch.tensor([7, -1], dtype=torch.int32),
    "bytes": torch.tensor([7], dtype=torch.uint8),
    "flags": torch.tensor([True, False]),
    'ü "quoted"': torch.randn(1),
}


def test_weights_are_written_as_the_safetensors_library_writes_them(tmp_path: Path) -> None:
    with sealed(tmp_path / "weights") as file:
        write_weights(WEIGHTS, file)
    assert (tmp_path / "weights").read_bytes() == save(WEIGHTS)


def test_the_sum_is_that_of_the_file(tmp_path: Path) -> None:
    with sealed(tmp_path / "training") as file:
        torch.save({"w": WEIGHTS, "text": "ü", "numbers": [1, 2.5]}, file)  # type: ignore[arg-type]
    content = (tmp_path / "training").read_bytes()
    assert file.seal == Seal(bytes=len(content), sha256=sha256(content).hexdigest())
    assert file.seal == Seal.of(tmp_path / "training")
    assert torch.load(tmp_path / "training", weights_only=True)["w"]["count"].tolist() == [7, -1]


@pytest.mark.parametrize("content", ["weights", "training"])
def test_a_full_disk_is_an_error_that_names_the_file(content: str) -> None:
    many = {"w": torch.zeros(2**20)}
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"), sealed(Path("/dev/full")) as file:
        write_weights(many, file) if content == "weights" else torch.save(many, file)  # type: ignore[arg-type]
