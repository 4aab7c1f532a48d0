import numpy as np
from numpy.typing import NDArray

from petechia.data.levels import Levels, uncut

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
