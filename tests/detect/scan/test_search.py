import numpy as np

from petechia.detect.scan.search import find_stamp


def test_a_faint_stamp_is_found_where_it_is_set_off_and_not_where_it_is_not() -> None:
    image = np.full((30, 30), 100, np.uint8)
    stamp = np.full((3, 3), 92, np.uint8)
    image[10:13, 5:8] = 92
    image[20:] = 92  # the same grey levels everywhere, and no edge
    assert find_stamp(image, stamp) == (10, 5)
    assert find_stamp(image, stamp, at=(10, 5)) == (10, 5)
    assert find_stamp(image, stamp, at=(24, 5)) is None
    assert find_stamp(image[:2], stamp) is None


def test_a_stamp_is_found_beside_a_large_area_of_its_own_grey_level() -> None:
    image = np.full((200, 200), 60, np.uint8)
    image[:120] = 0
    image[150:153, 80:83] = 0
    assert find_stamp(image, np.zeros((3, 3), np.uint8)) == (150, 80)
