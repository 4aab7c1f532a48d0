from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from petechia.detect.screen.spots import Boxes, attributions, backgrounds, contrasts, hottest_boxes
from tests.detect.screen.conftest import SIZE, opened

Images = NDArray[np.uint8]


class Linear(nn.Module):
    """Logits that are weighted sums of pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(2, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))

    def forward(self, images: Tensor) -> Tensor:
        return torch.einsum("bhw,khw->bk", images[:, 0], self.weights)


@pytest.mark.parametrize("place", [(0, 0), (20, 31), (58, 58)])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_stamp_of_six_pixels_is_not_in_the_background(place: tuple[int, int], value: int) -> None:
    row, column = place
    images = np.full((1, 64, 64), 90, np.uint8)
    images[0, row : row + 6, column : column + 6] = value
    assert (backgrounds(images) == 90).all()


def test_the_background_keeps_what_is_large() -> None:
    images = np.zeros((1, 64, 64), np.uint8)
    images[0, :, 32:] = 200
    assert (backgrounds(images) == images).all()


def test_the_background_grows_with_the_image() -> None:
    images = np.full((1, 224, 224), 90, np.uint8)
    images[0, 100:120, 30:50] = 0  # 20 of 224 pixels are as 6 of 64
    assert (backgrounds(images) == 90).all()


def test_attributions_of_a_linear_model_are_exact(draw: Callable[[int, int], Images]) -> None:
    network, images = Linear(), draw(3, 0)
    plain, classes = backgrounds(images), np.array([0, 1, 0])
    found = attributions(opened(network), images, plain, classes)
    expected = network.weights.detach().numpy()[classes] * (images.astype(np.float32) - plain) / 255
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert network.weights.grad is None


def test_attributions_do_not_depend_on_the_batch(draw: Callable[[int, int], Images]) -> None:
    classifier, images = opened(Linear()), draw(40, 1)
    classes, plain = np.arange(40) % 2, backgrounds(images)
    alone = attributions(classifier, images[37:38], plain[37:38], classes[37:38])
    np.testing.assert_allclose(attributions(classifier, images, plain, classes)[37], alone[0], atol=1e-6)


def test_contrasts() -> None:
    images = np.array([[[10, 20], [30, 255]]], np.uint8)
    plain = np.array([[[20, 20], [20, 0]]], np.uint8)
    np.testing.assert_allclose(contrasts(images, plain) * 255, [[[10, 0], [10, 255]]])


def test_masks_are_the_boxes() -> None:
    masks = Boxes(np.array([[2, 3], [-1, 5]]), 3).masks(7)
    expected = np.zeros((2, 7, 7), bool)
    expected[0, 2:5, 3:6] = expected[1, 0:2, 5:7] = True
    np.testing.assert_array_equal(masks, expected)


def test_a_widened_box_has_the_same_centre() -> None:
    wide = Boxes(np.array([[10, 12]]), 4).widened()
    assert (wide.corners.tolist(), wide.side) == ([[8, 10]], 8)


def test_hottest_boxes_are_those_of_an_exhaustive_search() -> None:
    maps = np.random.default_rng(0).normal(size=(4, SIZE, SIZE)).astype(np.float32)
    found = hottest_boxes(maps, 1)
    for one, corner in zip(maps, found.corners[:, 0], strict=True):
        every = range(SIZE - found.side + 1)
        sums = {(r, c): one[r : r + found.side, c : c + found.side].sum() for r in every for c in every}
        assert tuple(corner) == max(sums, key=lambda place: sums[place])


def test_further_boxes_are_elsewhere_and_less_hot() -> None:
    maps = np.zeros((1, SIZE, SIZE), np.float32)
    maps[0, 4:6, 4:6], maps[0, 20:22, 25:27], maps[0, 25, 3] = 3, 2, 1
    found = hottest_boxes(maps, 6)
    sums = [maps[0][mask].sum() for mask in found.masks(SIZE)[0]]
    assert sums == sorted(sums, reverse=True)
    assert sums[0] == 12
    apart = np.abs(found.corners[0, :, None] - found.corners[0]).max(axis=2)
    assert (apart[~np.eye(6, dtype=bool)] > found.side // 2).all()
