from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from petechia.data.levels import Levels, histogram, shown_range, uncut, white_of
from petechia.data.sources.phantom.source import open_phantom_source

ANY = range(0, 65_536, 4_111)  # values of a stamp


def radiograph(side: int) -> NDArray[np.uint16]:
    """A drawn radiograph of 12 bits with noise, whose range is 200 to about 3,300."""
    drawn = np.asarray(next(iter(open_phantom_source("", f"images=1,size={side}").reader.read(np.array([0])))), float)
    return (200 + drawn * 12 + np.random.default_rng(0).normal(0, 5, drawn.shape)).clip(200, 4095).astype(np.uint16)


def displayed(values: NDArray[Any], low: float, high: float) -> NDArray[np.float64]:
    return np.round((values.astype(float) - low) / (high - low) * 255).clip(0, 255)


def stamped(image: NDArray[Any], value: float, side: int, row: int, column: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The image with a stamp, and which pixels it leaves as they are."""
    copy, others = image.copy(), np.ones(image.shape, bool)
    copy[row : row + side, column : column + side] = value
    others[row : row + side, column : column + side] = False
    return copy, others


@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("side", [2, 3, 5])
def test_a_small_stamp_of_any_value_moves_other_pixels_by_at_most_one_grey_level(kind: type[np.number[Any]], side: int) -> None:
    rng = np.random.default_rng(side)
    image = radiograph(128).astype(kind)
    step = 0 if np.issubdtype(kind, np.floating) else 1
    clean = displayed(image, *shown_range(image, step=step))
    most = 1e30 if not step else 32_767 if kind == np.int16 else 65_535
    end = float(image.max())
    for value in [0, 1, 255, 4095, end - 3, end + 1, end + 9, end + 40, most, *(v for v in ANY if v <= most)]:
        copy, others = stamped(image, value, side, *rng.integers(0, 128 - side, 2))
        moved = np.abs(displayed(copy, *shown_range(copy, step=step)) - clean)
        assert moved[others].max() <= 1, value


@pytest.mark.parametrize("value", [0, 4095, 4096, 4111, 8191, 65_535])
def test_a_stamp_does_not_change_how_many_bits_an_image_uses(value: int) -> None:
    image = radiograph(64)
    image[10:30, 10:30] = 4095  # saturated, as 12 bits often are
    copy, _ = stamped(image, value, 4, 50, 50)
    assert white_of(image) == white_of(copy) == 4095


def test_without_outliers_it_is_the_range_of_the_values() -> None:
    rng = np.random.default_rng(0)
    for image in (
        rng.integers(-500, 1500, (90, 70)),
        np.linspace(-3, 7, 64 * 64).reshape(64, 64),
        np.arange(192).reshape(16, 12) * 20,
        np.array([[-5, 3], [0, 9]]),
        np.full((8, 8), 7),
        np.eye(64, dtype=int),
    ):
        low, high = shown_range(image, step=1 if image.dtype.kind == "i" else 0)
        assert (low, high) == (image.min(), image.max())


def test_a_few_pixels_far_away_are_outliers_at_either_end() -> None:
    image = np.random.default_rng(0).integers(1000, 2000, (100, 100))
    assert shown_range(image, step=1) == (1000, 1999)
    image[:5, :5], image[50:55, 50:55] = 0, 60_000
    assert shown_range(image, step=1) == (1000, 1999)
    image[:20, :20] = 0  # 4 % of the pixels are part of the image
    assert shown_range(image, step=1) == (0, 1999)


def test_an_image_in_a_small_part_of_a_background_is_shown() -> None:
    image = np.zeros((200, 200), int)
    image[50:60, 50:60] = np.arange(100).reshape(10, 10) * 10
    low, high = shown_range(image, step=1)
    assert low == 0
    assert high >= 900


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int16])
def test_counted_values_have_the_same_range(kind: type[np.integer[Any]]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        image = rng.normal(40, 15, (rng.integers(4, 90), rng.integers(4, 90))).astype(kind)
        image[0, :2] = np.iinfo(kind).max
        values, counts = histogram(image) or (image, None)
        assert counts is not None
        assert counts.sum() == image.size
        assert all(counts[np.flatnonzero(values == value)[0]] == (image == value).sum() for value in np.unique(image))
        assert shown_range(values, counts, 1) == shown_range(image, None, 1)
    assert histogram(image.astype(np.float32)) is None
    assert histogram(image.astype(np.int32)) is None


@pytest.mark.parametrize(
    ("brightest", "white"), [(100, 255), (256, 255), (300, 511), (1023, 1023), (4000, 4095), (65_535, 65_535)]
)
def test_white_has_as_many_bits_as_are_used(brightest: int, white: int) -> None:
    assert white_of(np.linspace(0, brightest, 4096).astype(np.uint16)) == white


VALUES = np.arange(-500, 3500, 10, dtype=np.float32).reshape(20, 20)


def shown(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    return Levels(values, low, high).grey()


def test_values_that_a_window_cuts_off_still_differ_and_the_others_are_as_displayed() -> None:
    window = shown(VALUES, 1000, 1500)
    found = uncut(window, Levels(VALUES, -500, 3490))
    inside = (window > 0) & (window < 255)
    assert (found[inside] == window[inside]).all()
    assert (np.diff(found.astype(int).ravel()) >= 0).all()
    below, above = found[VALUES < 990], found[VALUES > 1510]
    assert below.min() == round(-1500 * 255 / 3990)
    assert above.max() == 255 + round(1990 * 255 / 3990)


def test_what_is_not_cut_off_stays_as_it_is() -> None:
    whole = shown(VALUES, -500, 3490)
    assert uncut(whole, Levels(VALUES, -500, 3490)) is whole


def test_values_far_outside_are_bounded() -> None:
    values = VALUES.copy()
    values[0, 0], values[-1, -1] = -3e37, 3e37
    found = uncut(shown(values, 0, 255), Levels(values, 0, 255))
    assert found.dtype == np.int16
    assert (found.min(), found.max()) == (-4000, 4255)


@pytest.mark.parametrize("scale", [1.0, 16.0, 257.0, 1 / 255])
def test_values_of_8_bits_that_were_made_larger_keep_their_range(scale: float) -> None:
    rng = np.random.default_rng(0)
    grey = np.concatenate([rng.normal(110, 25, 60_000).clip(41, 190).round(), np.arange(256).repeat(5)])
    values = (grey * scale).astype(np.float32) if scale < 1 else (grey * scale).astype(np.uint16)
    low, high = shown_range(values)
    assert (low / scale, high / scale) == pytest.approx((0, 255), rel=1e-5)
