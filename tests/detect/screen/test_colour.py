"""A screen of images in colour."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

from petechia.core.runtime import Compute
from petechia.data import Preprocess
from petechia.data.levels import to_grey
from petechia.detect.screen import Screen
from petechia.models.classifier import Classifier
from tests.detect.screen.conftest import CLASSES, SIZE, ByHand, stamped

RUNTIME = Compute(device="cpu", precision="fp32", threads=1).start()
Images = NDArray[np.uint8]


class OfGreen(ByHand):
    """The hand-made network, with a square that lacks green."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images[:, 1:2])


def magenta(images: Images, row: int, column: int) -> Images:
    """Squares without green, which grey levels hardly show: the difference is in the other channels."""
    found = images.copy()
    square = found[:, row : row + 3, column : column + 3]
    half = square[..., 1] // 2
    square[..., 0] += half
    square[..., 2] += square[..., 1] - half
    square[..., 1] = 0
    return found


@pytest.mark.parametrize("blind", [False, True])
def test_a_screen_finds_what_only_colours_show(blind: bool, draw: Callable[[int, int], Images]) -> None:
    network = OfGreen().eval()
    seen = None if blind else network
    classifier = Classifier("green", CLASSES, Preprocess(size=SIZE), network, RUNTIME, seen, colour=True)
    coloured = np.stack([np.clip(draw(44, seed), 60, 160) for seed in (0, 1, 2)], axis=-1)
    given = magenta(coloured[40:], 14, 20)
    assert np.abs(to_grey(given[0]).astype(int) - to_grey(coloured[40])).max() <= 1
    screen = Screen.fit(classifier, coloured[:40], 0.025)
    found = screen.evidence(given)
    assert all(one.flagged and one.name == "Target" for one in found)
    assert all(one.box.top <= 14 and one.box.top + one.box.height >= 17 for one in found)
    assert sum(one.flagged for one in screen.evidence(coloured[40:])) <= 1


def test_magenta_is_what_the_network_by_hand_takes_for_black(draw: Callable[[int, int], Images]) -> None:
    coloured = np.repeat(np.clip(draw(2, 0), 60, 160)[..., None], 3, axis=3)
    assert np.array_equal(magenta(coloured, 3, 4)[..., 1], stamped(coloured[..., 1], 3, 4))
