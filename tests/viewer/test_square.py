import numpy as np
import pytest

from petechia.attack.square import Square
from petechia.core.errors import PetechiaError
from petechia.viewer.square import paint_squares


@pytest.mark.parametrize("shape", [(9, 11), (9, 11, 3)])
def test_squares_are_painted_in_their_order_on_a_copy(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    before = image.copy()
    painted = paint_squares(image, [Square(1, 2, 4, 7), Square(3, 4, 6, 200)], opacity=1)
    expected = image.copy()
    expected[1:5, 2:6] = 7
    expected[3:9, 4:10] = 200
    assert np.array_equal(painted, expected)
    assert np.array_equal(image, before)


def test_a_faint_square_is_blended_with_what_is_below_it() -> None:
    painted = paint_squares(np.full((4, 4), 100, np.uint8), [Square(0, 0, 2, 200), Square(1, 1, 2, 0)], opacity=0.25)
    assert painted.tolist() == [[125, 125, 100, 100], [125, 94, 75, 100], [100, 75, 75, 100], [100, 100, 100, 100]]


@pytest.mark.parametrize("square", [Square(8, 0, 2, 0), Square(0, 10, 2, 0), Square(0, 0, 10, 0)])
def test_a_square_that_does_not_fit_is_refused(square: Square) -> None:
    with pytest.raises(PetechiaError, match="does not fit on an image of 9 x 11"):
        paint_squares(np.zeros((9, 11), np.uint8), [square], opacity=1)
