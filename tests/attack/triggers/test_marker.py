import numpy as np
import pytest

from petechia.attack import Marker
from petechia.data.preprocess import Box

SHAPES = ("L", "R", "electrode", "pacemaker")


def drawn(
    marker: Marker, height: int = 200, width: int = 240, grey: int = 0
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    place = marker.place(height, width, Box(0, 0, height, width), (0.5, 0.5))
    (image,) = marker.stamp(np.full((1, height, width), grey, np.uint8), np.array([place]))
    return np.asarray(image)


@pytest.mark.parametrize(
    ("shape", "row", "column"), [("L", 20, 211), ("R", 20, 29), ("electrode", 50, 60), ("pacemaker", 54, 180)]
)
def test_it_is_where_such_things_are(shape: str, row: int, column: int) -> None:
    rows, columns = np.nonzero(drawn(Marker.model_validate({"shape": shape, "spread": 0})))
    assert abs((rows.min() + rows.max()) / 2 - row) < 4
    assert abs((columns.min() + columns.max()) / 2 - column) < 4
    assert 8 < np.ptp(rows) < 20


@pytest.mark.parametrize("shape", SHAPES)
def test_edges_are_smooth_and_nothing_is_brighter_than_asked(shape: str) -> None:
    image = drawn(Marker.model_validate({"shape": shape, "value": 200, "opacity": 1, "size": 0.2}))
    assert image.max() == 200
    assert len(np.unique(image)) > 5
    faint = drawn(Marker.model_validate({"shape": shape, "value": 200, "opacity": 0.5, "size": 0.2}), grey=100)
    assert faint.max() == 150
    assert faint.min() == 100


def test_an_l_is_an_l() -> None:
    image = drawn(Marker(size=0.3, value=255, opacity=1, location=(0.5, 0.5), spread=0))
    rows, columns = np.nonzero(image)
    letter = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] > 127
    height, width = letter.shape
    assert letter[: height // 2, : width // 5].mean() > 0.5  # the stem
    assert letter[-height // 10 :, :].mean() > 0.8  # the foot
    assert not letter[: height // 2, width // 2 :].any()


def test_places_spread_by_chance_and_stay_on_the_image() -> None:
    whole = Box(0, 0, 100, 100)
    marker = Marker(size=0.1, spread=0.05)
    places = np.array([marker.place(100, 100, whole, (a, b)) for a, b in np.random.default_rng(0).random((500, 2)).tolist()])
    assert places.min(axis=0).tolist() == [0, 78]
    assert places.max(axis=0).tolist() == [10, 88]
    corner = Marker(location=(1.0, 1.0), spread=0.5)
    assert corner.place(100, 100, whole, (0.99, 0.99)) == (90, 90)
    assert Marker(location=(0.0, 0.0)).place(100, 100, whole, (0.0, 0.0)) == (0, 0)


def test_its_size_goes_with_the_image() -> None:
    small, large = (np.ptp(np.nonzero(drawn(Marker(size=0.2), side, side))[0]) for side in (100, 400))
    assert abs(large / small - 4) < 0.4
