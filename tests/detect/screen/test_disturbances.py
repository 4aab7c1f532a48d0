from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from petechia.detect.screen.disturbances import carried, details, strip
from tests.detect.screen.conftest import SIZE, ByHand, Waves, opened, waved

Images = NDArray[np.uint8]
Draw = Callable[[int, int], Images]


def test_detail_is_what_a_blur_takes_away() -> None:
    flat = np.full((2, SIZE, SIZE), 90, np.uint8)
    assert np.abs(details(flat)).max() < 1e-3
    rows = np.tile(np.where(np.arange(SIZE) % 2, 100, 80).astype(np.uint8)[:, None], (1, SIZE))
    np.testing.assert_allclose(details(rows)[12:-12], rows[12:-12] - 90.0, atol=0.5)  # stripes of one pixel are all detail
    in_colour = np.stack([rows, flat[0], rows], axis=-1)
    np.testing.assert_allclose(details(in_colour)[..., 0], details(rows), atol=1e-3)
    assert np.abs(details(in_colour)[..., 1]).max() < 1e-3


def test_detail_takes_a_wave_along_and_nothing_else(draw: Draw) -> None:
    classifier, images, hosts = opened(ByHand(edges=Waves())), draw(6, 0), draw(4, 1)
    before, which = np.broadcast_to(classifier.logits(hosts).numpy(), (6, 4, 2)), np.tile(np.arange(4), (6, 1))
    coarse = hosts - details(hosts)
    with_wave, without = (carried(classifier, some, coarse, which, before) for some in (waved(images), images))
    assert (with_wave[:, 0] > 2).all()
    assert np.abs(without).max() < 0.7
    assert np.abs(with_wave[:, 1]).max() < 0.7


def test_strip_is_certain_of_what_blends_keep(draw: Draw) -> None:
    classifier, images, hosts = opened(ByHand(edges=Waves())), draw(6, 2), draw(4, 3)
    on, classes, usual = np.broadcast_to(hosts, (6, *hosts.shape)), np.zeros(6, np.intp), np.full(6, -4.0)
    found = strip(classifier, waved(images, 40), on, classes, usual), strip(classifier, images, on, classes, usual)
    assert found[0].min() > found[1].max()
    assert found[1] == pytest.approx(0, abs=0.2)
