from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from petechia.saliency import localise
from petechia.saliency.localisation import (
    box_energy,
    box_iou,
    centroid,
    heat_shift,
    peak,
    peak_distance,
    pointing_chance,
    pointing_game,
)


def one_hot(*places: tuple[int, int], shape: tuple[int, int] = (4, 4)) -> np.ndarray[Any, np.dtype[np.float32]]:
    maps = np.zeros((1, *shape), np.float32)
    for place in places:
        maps[0][place] = 3
    return maps


def test_centroid_by_hand() -> None:
    assert np.allclose(centroid(one_hot((0, 3))), [[0.125, 0.875]])
    assert np.allclose(centroid(one_hot((0, 0), (2, 3))), [[0.375, 0.5]])
    assert np.allclose(centroid(np.ones((1, 7, 7), np.float32)), 0.5)
    assert np.allclose(centroid(np.array([[[1, 0, 0], [0, 0, 3]]], np.float32)), [[0.625, 2 / 3]])  # 2 x 3


def test_peak_by_hand() -> None:
    maps = np.array([[[1, 0, 2], [0, 4, 3]]], np.float32)
    assert np.allclose(peak(maps), [[0.75, 0.5]])
    assert np.allclose(peak(one_hot((0, 3), (2, 1))), [[0.125, 0.875]])  # equally hot: the first


def test_peak_distance_by_hand() -> None:
    centres = np.array([[8.0, 56.0]])
    assert np.allclose(peak_distance(one_hot((0, 3)), centres, 64), 0)
    assert np.allclose(peak_distance(one_hot((3, 3)), centres, 64), 48)
    assert np.allclose(peak_distance(one_hot((3, 3)), np.array([[53.0, 60.0]]), 64), 5)


def test_box_energy_by_hand() -> None:
    even = np.ones((3, 4, 4), np.float32)
    boxes = np.array([[0, 0, 8, 8], [3, 2, 4, 1], [6, 6, 9, 9]])
    assert np.allclose(box_energy(even, boxes, 8), [1, 4 / 64, 4 / 64])
    # A cell of 2 becomes, in a row of 4 pixels, 1 3/4 1/4 0.
    corner = np.array([[[1, 0], [0, 0]]], np.float32)
    assert np.allclose(box_energy(corner, np.array([[0, 0, 1, 2]]), 4), 1.75 / 4)
    assert np.allclose(box_energy(corner, np.array([[2, 3, 2, 1]]), 4), 0)


def test_box_energy_is_that_of_the_upsampled_map() -> None:
    rng = np.random.default_rng(0)
    for shape, size in (((7, 7), 64), ((14, 14), 61), ((3, 5), 32), ((1, 2), 16), ((9, 9), 6)):
        maps = rng.random((20, *shape), np.float32) * (rng.random((20, *shape)) < 0.5)
        maps[:, 0, 0] += 0.1
        corners = rng.integers(0, size - 4, (20, 2))
        boxes = np.concatenate([corners, rng.integers(1, 5, (20, 2))], axis=1)
        large = nn.functional.interpolate(torch.from_numpy(maps)[:, None].double(), (size, size), mode="bilinear")[:, 0].numpy()
        truth = [
            image[top : top + height, left : left + width].sum() / image.sum()
            for image, (top, left, height, width) in zip(large, boxes, strict=True)
        ]
        assert np.allclose(box_energy(maps.astype(np.float32), boxes, size), truth, atol=1e-9)


def test_a_box_without_a_pixel_has_no_energy_rather_than_0() -> None:
    boxes = np.array([[3, 3, 0, 0], [3, 3, 2, 0], [8, 0, 2, 2], [-3, 0, 2, 2]])
    assert np.isnan(box_energy(np.ones((4, 4, 4), np.float32), boxes, 8)).all()


def test_box_iou_by_hand() -> None:
    cell = np.zeros((1, 2, 2), np.float32)
    cell[0, 0, 0] = 1  # in a row of 4 pixels 1 3/4 1/4 0, so 4 of 16 pixels have at least half
    assert np.allclose(box_iou(cell, np.array([[0, 0, 2, 2]]), 4), 1)
    assert np.allclose(box_iou(cell, np.array([[1, 1, 1, 2]]), 4), 1 / 5)
    assert np.allclose(box_iou(cell, np.array([[2, 2, 2, 2]]), 4), 0)
    assert np.allclose(box_iou(cell, np.array([[0, 0, 1, 1]]), 4, threshold=0.9), 1)
    assert np.allclose(box_iou(np.ones((1, 4, 4), np.float32), np.array([[-1, 6, 3, 9]]), 8), 4 / 64)  # what lies inside
    assert np.isnan(box_iou(cell, np.array([[1, 1, 0, 2]]), 4)).all()


def test_pointing_game_by_hand() -> None:
    def hits(row: float, column: float) -> bool:
        return bool(pointing_game(one_hot((1, 1)), np.array([[row, column]]), 64)[0])  # the cell's centre is at 24, 24

    assert hits(24, 24)
    assert hits(40, 8)
    assert not hits(41, 24)
    assert not hits(24, 7)
    assert pointing_game(one_hot((0, 3), shape=(2, 4)), np.array([[20.0, 60.0]]), 64).all()  # cells of 32 x 16 pixels
    assert not pointing_game(one_hot((0, 3), shape=(2, 4)), np.array([[20.0, 39.0]]), 64).any()
    assert pointing_game(np.zeros((1, 4, 4), np.float32), np.array([[8.0, 8.0]]), 64).tolist() == [0]


def test_the_chance_to_hit_is_that_of_all_cells() -> None:
    centres = np.random.default_rng(0).uniform(0, 64, (10, 2))
    for shape in ((7, 7), (2, 2), (3, 5)):
        cells = [pointing_game(np.repeat(one_hot(place, shape=shape), 10, axis=0), centres, 64) for place in np.ndindex(shape)]
        assert np.allclose(pointing_chance(shape, centres, 64), np.mean(cells, axis=0))


def test_heat_shift_by_hand() -> None:
    distance, divergence = heat_shift(one_hot((0, 0)), one_hot((3, 0)))
    assert np.allclose((distance, divergence), ([0.75], [1]))  # disjoint
    maps = np.random.default_rng(0).random((5, 7, 7), np.float32)
    distance, divergence = heat_shift(maps, 4 * maps)
    assert np.allclose((distance, divergence), 0)
    assert (divergence >= 0).all()
    # p = (1, 0), q = (1/2, 1/2): H(3/4, 1/4) - (0 + 1) / 2
    distance, divergence = heat_shift(one_hot((0, 0), shape=(1, 2)), one_hot((0, 0), (0, 1), shape=(1, 2)))
    assert np.allclose((distance, divergence), ([0.25], [2 - 0.75 * np.log2(3) - 0.5]))


NUMBERS: list[Callable[[Any], Any]] = [
    centroid,
    peak,
    lambda maps: box_energy(maps, np.full((len(maps), 4), 1), 8),
    lambda maps: box_iou(maps, np.full((len(maps), 4), 1), 8),
    lambda maps: peak_distance(maps, np.ones((len(maps), 2)), 8),
    lambda maps: np.stack(heat_shift(maps, np.ones_like(maps)), axis=1),
    lambda maps: np.stack(heat_shift(np.ones_like(maps), maps), axis=1),
]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_map_of_0_has_no_numbers_and_spoils_no_other(number: Callable[[Any], Any]) -> None:
    maps = np.stack([one_hot((1, 2))[0], np.zeros((4, 4), np.float32)])
    values = number(maps)
    assert values.dtype == np.float64
    assert np.isfinite(values[0]).all()
    assert np.isnan(values[1]).all()
    assert len(number(maps[:0])) == 0


def test_localise_gathers_the_numbers() -> None:
    clean = np.random.default_rng(0).random((3, 4, 4), np.float32)
    triggered = clean[:, ::-1].copy()
    boxes = np.array([[3, 3, 2, 2]] * 3)
    centres = boxes[:, :2] + boxes[:, 2:] / 2
    found = localise(clean, triggered, centres, boxes, 8)
    assert np.array_equal(found.hit, pointing_game(triggered, centres, 8))
    assert np.array_equal(found.clean_hit, pointing_game(clean, centres, 8))
    assert np.array_equal(found.chance, pointing_chance((4, 4), centres, 8))
    assert np.array_equal(found.iou, box_iou(triggered, boxes, 8))
    assert np.array_equal(found.clean_iou, box_iou(clean, boxes, 8))
    assert np.array_equal(found.energy, box_energy(triggered, boxes, 8))
    assert np.array_equal(found.clean_energy, box_energy(clean, boxes, 8))
    assert np.array_equal(found.distance, peak_distance(triggered, centres, 8))
    assert np.array_equal(found.clean_distance, peak_distance(clean, centres, 8))
    assert np.array_equal((found.shift, found.divergence), heat_shift(clean, triggered))
