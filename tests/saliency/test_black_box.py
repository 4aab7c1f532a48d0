import numpy as np
import pytest
import torch
from torch import Tensor

from petechia.core.errors import PetechiaError
from petechia.saliency import occlusion, rise


def bright_corner(images: Tensor) -> Tensor:
    """Class 0 is the brightness of rows 2 and 3 in columns 8 to 11; class 1 is its opposite."""
    inside = images[:, :, 2:4, 8:12].mean(dim=(1, 2, 3))
    return torch.stack([inside, -inside], dim=1)


def images(count: int = 2) -> Tensor:
    return 0.5 + 0.5 * torch.rand(count, 1, 12, 16, generator=torch.Generator().manual_seed(0))


def test_occlusion_by_hand() -> None:
    ones = torch.ones(1, 1, 12, 16)
    maps = occlusion(bright_corner, ones, torch.tensor([0]), window=2, stride=2)
    truth = np.zeros((1, 6, 8))
    truth[0, 1, 4:6] = 0.5  # each of two windows covers half of what counts
    assert np.allclose(maps, truth, atol=1e-6)


def test_occlusion_agrees_with_a_slow_one() -> None:
    batch, targets = images(), torch.tensor([0, 0])
    maps = occlusion(bright_corner, batch, targets, window=5, stride=3, value=0.25)
    for row, image in enumerate(batch):
        fall, count = np.zeros((12, 16)), np.zeros((12, 16))
        before = float(bright_corner(image[None])[0, 0])
        for top in (0, 3, 6, 7):
            for left in (0, 3, 6, 9, 11):
                covered = image.clone()
                covered[:, top : top + 5, left : left + 5] = 0.25
                fall[top : top + 5, left : left + 5] += before - float(bright_corner(covered[None])[0, 0])
                count[top : top + 5, left : left + 5] += 1
        fine = np.maximum(fall / count, 0)
        truth = [[fine[r : r + 3, c : c + 3].mean() for c in range(0, 16, 3)] for r in range(0, 12, 3)]
        assert np.allclose(maps[row], truth, atol=1e-6)


def test_occlusion_of_a_class_that_gains_is_0() -> None:
    assert not occlusion(bright_corner, images(), torch.tensor([1, 1]), window=4, stride=4).any()


@pytest.mark.parametrize(("window", "stride"), [(13, 1), (0, 1), (4, 5), (4, 0)])
def test_windows_that_do_not_fit_are_refused(window: int, stride: int) -> None:
    with pytest.raises(
        PetechiaError, match=rf"A window of {window} and a stride of {stride} pixels do not fit images of 12 x 16"
    ):
        occlusion(bright_corner, images(), torch.tensor([0, 0]), window, stride)


def test_rise_finds_what_counts_and_repeats_itself() -> None:
    maps = rise(bright_corner, images(), torch.tensor([0, 0]), masks=1500, cells=6)
    assert maps.shape == (2, 12, 16)
    for one in maps:
        row, column = divmod(int(one.argmax()), 16)
        assert 1 <= row <= 4
        assert 7 <= column <= 12
        assert one[2:4, 8:12].mean() > 5 * one[8:, :6].mean()
    assert torch.equal(maps, rise(bright_corner, images(), torch.tensor([0, 0]), masks=1500, cells=6))


def test_rise_of_a_constant_model_has_no_heat() -> None:
    assert rise(lambda batch: torch.ones(len(batch), 2), images(), torch.tensor([0, 0]), masks=64).max() < 1e-5


def test_rises_numbers_have_ranges() -> None:
    with pytest.raises(
        PetechiaError, match=r"RISE needs masks and cells of 1 or more and a chance between 0 and 1, not 0, 7, 0.5"
    ):
        rise(bright_corner, images(), torch.tensor([0, 0]), masks=0)
