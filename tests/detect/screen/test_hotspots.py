from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from petechia.detect.screen.hotspots import find_hotspots, transplant
from petechia.models.classifier import Classifier
from tests.detect.screen.conftest import SIZE, ByHand, opened, stamped

Images = NDArray[np.uint8]
Draw = Callable[[int, int], Images]


@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("place", [(3, 3), (14, 20), (27, 9)])
def test_the_stamp_is_found_and_its_removal_costs_what_it_brought(draw: Draw, place: tuple[int, int], blind: bool) -> None:
    classifier, clean = opened(ByHand(), blind), draw(5, 0)
    images = stamped(clean, *place)
    logits, before = classifier.logits(images).numpy(), classifier.logits(clean).numpy()
    found = find_hotspots(classifier, images, logits, np.zeros(5, np.intp))
    np.testing.assert_allclose(found.falls, logits[:, 0] - before[:, 0], atol=0.3)
    row, column = place
    assert found.moved[:, row : row + 3, column : column + 3].all()
    assert found.pixels[:, row : row + 3, column : column + 3].any(axis=(1, 2)).all()
    assert not (found.pixels & ~found.moved).any()


def test_removing_a_box_hardly_costs_what_is_wide(classifier: Classifier, draw: Draw) -> None:
    images = draw(5, 1)
    images[:, : SIZE // 2, : SIZE // 2] = 250
    logits = classifier.logits(images).numpy()
    assert (logits[:, 1] > 3).all()
    assert (find_hotspots(classifier, images, logits, np.ones(5, np.intp)).falls < 0.5).all()


def test_transplanted_pixels_are_just_those(classifier: Classifier, draw: Draw) -> None:
    images, clean = stamped(draw(3, 2), 8, 8), draw(6, 3)
    pixels = np.zeros(images.shape, bool)
    pixels[:, 8:11, 8:11] = True
    hosts = np.stack([clean[:4], clean[1:5], clean[2:]])
    before = np.stack([classifier.logits(some).numpy() for some in hosts])
    found = transplant(classifier, images, pixels, hosts, before)
    after = np.stack([classifier.logits(stamped(some, 8, 8)).numpy() for some in hosts])
    np.testing.assert_allclose(found, np.median(after - before, axis=1), atol=1e-5)
    assert (found[:, 0] > 3).all()
    assert (transplant(classifier, images, ~pixels, hosts, before)[:, 0] < 1).all()
