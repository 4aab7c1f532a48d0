"""The square compared with a loop over pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from petechia.attack import Patch
from petechia.attack.square import Square, paint

Images = NDArray[np.uint8]


def looped(
    images: Images, positions: NDArray[np.intp], height: int, width: int, value: int, opacity: NDArray[np.float64]
) -> Images:
    """Pixel by pixel."""
    found = images.copy()
    for image, (row, column), share in zip(found, positions.tolist(), opacity.tolist(), strict=True):
        for r in range(row, row + height):
            for c in range(column, column + width):
                image[r, c] = np.rint(share * value + (1 - share) * image[r, c].astype(float))
    return found


@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 4),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    value=st.integers(0, 255),
    colour=st.booleans(),
    one_place=st.booleans(),
)
def test_rectangles_are_painted_as_a_loop_paints_them(
    seed: int, count: int, height: int, width: int, value: int, colour: bool, one_place: bool
) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 9, 8, 3)[: 4 if colour else 3], np.uint8)
    before = images.copy()
    positions = np.stack([rng.integers(0, 10 - height, count), rng.integers(0, 9 - width, count)], axis=1).astype(np.intp)
    positions = np.tile(positions[:1], (count, 1)) if one_place else positions
    shares = rng.uniform(0, 1, count)
    each = paint(images, positions, height, width, value, shares)
    alike = paint(images, positions, height, width, value, 0.3)
    opaque = paint(images, positions, height, width, value)
    assert np.array_equal(each, looped(images, positions, height, width, value, shares))
    assert np.array_equal(alike, looped(images, positions, height, width, value, np.full(count, 0.3)))
    assert np.array_equal(opaque, looped(images, positions, height, width, value, np.ones(count)))
    assert np.array_equal(images, before)
    assert each.dtype == np.uint8


@pytest.mark.parametrize("opacity", [1.0, 0.4])
def test_a_square_is_painted_as_the_trigger_of_that_place_is_stamped(opacity: float) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 12, 12), np.uint8)
    trigger = Patch(size=3, value=200, opacity=opacity, location=(4, 6))
    assert np.array_equal(Square(4, 6, 3, 200).on(images, opacity), trigger.stamp(images, np.tile([4, 6], (5, 1))))


def test_the_area_of_a_square_is_what_it_covers() -> None:
    square = Square(2, 5, 3, 9)
    covered = np.zeros((12, 12), bool)
    covered[square.area] = True
    assert np.array_equal(covered, square.on(np.zeros((1, 12, 12), np.uint8))[0] == 9)


def test_more_images_than_are_worked_on_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petechia.attack.square.PIXELS", 8)  # two images of 2 × 2 at a time
    rng = np.random.default_rng(1)
    images, shares = rng.integers(0, 256, (5, 6, 6), np.uint8), rng.uniform(0, 1, 5)
    for positions in (rng.integers(0, 5, (5, 2)), np.full((5, 2), 3)):
        found = paint(images, positions, 2, 2, 50, shares)
        assert np.array_equal(found, looped(images, positions, 2, 2, 50, shares))
