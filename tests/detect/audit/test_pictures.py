import numpy as np
import pytest
from numpy.typing import NDArray

from petechia.attack.square import Square
from petechia.detect.audit.pictures import AROUND, RING, close_view, framed

IMAGE = np.random.default_rng(0).integers(60, 200, (32, 32), np.uint8)


@pytest.mark.parametrize("image", [IMAGE, np.repeat(IMAGE[..., None], 3, axis=2)], ids=["grey", "colour"])
def test_the_frame_is_two_pixels_away_and_the_rest_is_the_stamped_image(image: NDArray[np.uint8]) -> None:
    square = Square(10, 20, 3, 255)
    found = framed(image, square)
    factor = len(found) // 32
    ring = (found == RING).all(axis=2)
    rows, columns = (np.flatnonzero(ring.any(axis=axis)) for axis in (1, 0))
    assert (rows.min(), rows.max()) == (8 * factor, 15 * factor - 2)
    assert (columns.min(), columns.max()) == (18 * factor, 25 * factor - 2)
    stamped = IMAGE.copy()
    stamped[10:13, 20:23] = 255
    large = stamped.repeat(factor, axis=0).repeat(factor, axis=1)
    assert (found[~ring] == large[~ring][:, None]).all()


def test_a_close_view_in_a_corner_is_cut_at_the_edge() -> None:
    found = close_view(IMAGE, Square(0, 30, 2, 0))
    factor = len(found) // (2 + AROUND)
    assert found.shape == ((2 + AROUND) * factor, (2 + AROUND) * factor)
    assert (found[: 2 * factor, AROUND * factor :] == 0).all()
    assert (found[2 * factor :: factor, ::factor] == IMAGE[2 : 2 + AROUND, 24:32]).all()
