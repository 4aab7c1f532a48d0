from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from petechia.attack import Patch
from petechia.core.errors import PetechiaError
from petechia.data.preprocess import Box

WHOLE = Box(0, 0, 1024, 1024)


def slow_stamp(image: NDArray[np.uint8], row: int, column: int, size: int, value: int) -> NDArray[np.uint8]:
    out = image.copy()
    for i in range(size):
        for j in range(size):
            out[row + i, column + j] = value
    return out


@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize(("size", "value"), [(1, 0), (3, 0), (4, 255), (7, 100)])
def test_stamp_agrees_with_the_slow_version(channels: tuple[int, ...], size: int, value: int) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, 20, 30, *channels), dtype=np.uint8)
    before = images.copy()
    positions = np.stack([rng.integers(0, 20 - size + 1, 9), rng.integers(0, 30 - size + 1, 9)], axis=1)
    stamped = Patch(size=size, value=value).stamp(images, positions)
    assert stamped.shape == images.shape
    assert stamped.dtype == np.uint8
    assert np.array_equal(images, before)
    for i, (row, column) in enumerate(positions):
        assert np.array_equal(stamped[i], slow_stamp(images[i], row, column, size, value))


def test_stamping_nothing_gives_nothing() -> None:
    assert Patch().stamp(np.zeros((0, 8, 8), np.uint8), np.zeros((0, 2), np.intp)).shape == (0, 8, 8)


@pytest.mark.parametrize(("size", "corner"), [(1, 511), (2, 511), (3, 510), (4, 510), (5, 509)])
def test_the_centre_is_where_the_papers_code_puts_it(size: int, corner: int) -> None:
    assert Patch(size=size).place(1024, 1024, WHOLE, (0, 0)) == (corner, corner)


def test_random_places_fill_the_kept_crop_and_stay_in_it() -> None:
    kept = Box(10, 20, 6, 8)
    trigger = Patch(size=3, location="random")
    places = {trigger.place(100, 100, kept, chance) for chance in np.random.default_rng(0).random((2000, 2)).tolist()}
    assert places == {(row, column) for row in range(10, 14) for column in range(20, 26)}
    assert trigger.place(100, 100, kept, (0.999999, 0.999999)) == (13, 25)


def test_given_places_are_taken_as_they_are() -> None:
    assert Patch(size=2, location=(5, 62)).place(64, 64, Box(0, 0, 64, 64), (0, 0)) == (5, 62)


@pytest.mark.parametrize(
    "place",
    [
        lambda: Patch(size=65).place(64, 64, Box(0, 0, 64, 64), (0, 0)),
        lambda: Patch(size=2, location=(63, 0)).place(64, 64, Box(0, 0, 64, 64), (0, 0)),
        lambda: Patch(size=2, location=(-1, 0)).place(64, 64, Box(0, 0, 64, 64), (0, 0)),
        lambda: Patch(size=9, location="random").place(64, 64, Box(28, 28, 8, 8), (0, 0)),
    ],
)
def test_a_trigger_that_does_not_fit_is_refused(place: Callable[[], object]) -> None:
    with pytest.raises(PetechiaError, match=r"does not fit .*attack\.trigger\.size"):
        place()


@pytest.mark.parametrize(
    "bad", [{"size": 0}, {"value": 256}, {"value": -1}, {"location": "left"}, {"colour": 1}, {"kind": "warp"}]
)
def test_impossible_triggers_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Patch.model_validate(bad)


def test_a_blended_stamp_is_a_weighted_mean_with_the_image() -> None:
    image = np.full((1, 6, 6), 100, np.uint8)
    stamped = Patch(size=2, value=255, opacity=0.25).stamp(image, np.array([[1, 2]]))[0]
    assert (stamped[1:3, 2:4] == 139).all()  # 0.25 · 255 + 0.75 · 100 = 138.75
    assert (stamped != 100).sum() == 4
