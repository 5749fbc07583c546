"""Rows and columns that slide along themselves."""

import numpy as np
import pytest
import torch

from everest.data.sliding import along_columns, along_rows

FILL = (9, 7, 5)


@pytest.mark.parametrize("bicubic", [False, True])
def test_by_whole_pixels_the_same_ones_are_elsewhere(bicubic: bool) -> None:
    clip = torch.randint(0, 256, (2, 11, 6, 3), dtype=torch.uint8)
    distances = np.array([0, 1, 1, -2, 5, 6, -6, 0, 40, -40, 3])
    expected = torch.tensor(FILL, dtype=torch.uint8).repeat(2, 11, 6, 1)
    for y, distance in enumerate(distances):
        for x in range(6):
            if 0 <= x + distance < 6:
                expected[:, y, x] = clip[:, y, x + distance]
    assert torch.equal(along_rows(clip, distances.astype(float), bicubic, FILL), expected)
    turned = along_columns(clip.transpose(1, 2).contiguous(), distances.astype(float), bicubic, FILL)
    assert torch.equal(turned, expected.transpose(1, 2))


def test_between_two_pixels_is_what_is_between_their_values() -> None:
    clip = torch.tensor([0, 100, 200, 60], dtype=torch.uint8).view(1, 1, 4, 1).repeat(1, 2, 1, 3)
    slid = along_rows(clip, np.array([0.25, -0.25]), False, FILL)
    assert slid[0, :, :, 0].tolist() == [[25, 125, 165, 60], [0, 75, 175, 95]]
