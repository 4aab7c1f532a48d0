import numpy as np
import pytest
from numpy.typing import NDArray

from petechia.detect.scan.search import Place, Stamp, find_stamp
from tests.detect.scan.test_lookalikes import encoded, smooth_images


def seen(image: NDArray[np.uint8], stamp: Stamp, at: Place | None = None, contrast: float = 6) -> Place | None:
    found = find_stamp(image, stamp, at)
    return found[0] if found and found[1] >= contrast else None


def test_a_faint_stamp_is_found_where_it_is_set_off_and_not_where_it_is_not() -> None:
    image = np.full((30, 30), 100, np.uint8)
    stamp = Stamp(np.full((3, 3), 92, np.uint8))
    image[10:13, 5:8] = 92
    image[20:] = 92  # the same grey levels everywhere, and no edge
    assert seen(image, stamp) == (10, 5)
    assert seen(image, stamp, at=(10, 5)) == (10, 5)
    assert find_stamp(image, stamp, at=(24, 5)) == ((24, 5), 0)
    assert find_stamp(image, stamp, at=(28, 5)) is None
    assert find_stamp(image[:2], stamp) is None


def test_a_stamp_is_found_beside_a_large_area_of_its_own_grey_level() -> None:
    image = np.full((200, 200), 60, np.uint8)
    image[:120] = 0
    image[150:153, 80:83] = 0
    assert seen(image, Stamp(np.zeros((3, 3), np.uint8))) == (150, 80)


def slow_weakest(image: NDArray[np.uint8], row: int, column: int, height: int, width: int) -> int:
    """Step by step across the border of a box."""
    levels, rows, columns = image.astype(int), range(row, row + height), range(column, column + width)
    steps = [abs(levels[row, j] - levels[row - 1, j]) for j in columns if row]
    steps += [abs(levels[row + height - 1, j] - levels[row + height, j]) for j in columns if row + height < len(image)]
    steps += [abs(levels[i, column] - levels[i, column - 1]) for i in rows if column]
    steps += [abs(levels[i, column + width - 1] - levels[i, column + width]) for i in rows if column + width < image.shape[1]]
    return int(min(steps))


@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (5, 2), (1, 1)])
def test_with_a_tolerance_the_contrast_is_the_weakest_step_across_the_border(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 14), np.uint8)
    for row in range(12 - shape[0] + 1):
        for column in range(14 - shape[1] + 1):
            stamp = Stamp(image[row : row + shape[0], column : column + shape[1]], 1)
            assert find_stamp(image, stamp, (row, column)) == ((row, column), slow_weakest(image, row, column, *shape))


def test_up_to_a_tolerance_a_stamp_is_told_from_letters_after_encoding_with_loss() -> None:
    image = smooth_images(1)[0]
    image[5:17, 60:63] = 255  # a letter, with the grey levels of the stamp
    image[14:17, 60:72] = 255
    image[51:54, 30:33] = 255
    found = find_stamp(encoded(image, 85), Stamp(np.full((3, 3), 255, np.uint8), 24))
    assert found is not None
    assert found[0] == (51, 30)
    image[51:54, 30:33] = image[50, 29]
    without = find_stamp(encoded(image, 85), Stamp(np.full((3, 3), 255, np.uint8), 24))
    assert without is None or without[1] < 12
