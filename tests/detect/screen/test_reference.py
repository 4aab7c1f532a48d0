from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.detect.screen.reference import Reference
from petechia.models.classifier import Classifier

Images = NDArray[np.uint8]


def test_a_clean_image_is_not_its_own_host(classifier: Classifier, draw: Callable[[int, int], Images]) -> None:
    reference = Reference.of(classifier, draw(20, 0))
    own = reference.hosts(20, 8, own=True)
    assert own.shape == (20, 8)
    assert not (own == np.arange(20)[:, None]).any()
    assert all(len(set(row)) == 8 for row in own)
    assert (reference.hosts(3, 8, own=False) == np.arange(8)).all()


def test_few_images_are_all_hosts(classifier: Classifier, draw: Callable[[int, int], Images]) -> None:
    reference = Reference.of(classifier, draw(5, 0))
    assert [sorted(row) for row in reference.hosts(5, 16, own=True)] == [
        [other for other in range(5) if other != row] for row in range(5)
    ]


def test_what_is_usual_leaves_the_image_out(classifier: Classifier, draw: Callable[[int, int], Images]) -> None:
    reference = Reference.of(classifier, draw(11, 0))
    usual, spread = reference.usual(11, own=True)
    others = np.delete(reference.logits, 4, axis=0)
    np.testing.assert_allclose(usual[4], np.median(others, axis=0))
    assert (spread > 0).all()
    everyone, _ = reference.usual(2, own=False)
    np.testing.assert_allclose(everyone, np.median(reference.logits, axis=0)[None].repeat(2, 0))


def test_identical_images_are_refused(classifier: Classifier, draw: Callable[[int, int], Images]) -> None:
    with pytest.raises(PetechiaError, match="All 30 clean images are the same"):
        Reference.of(classifier, draw(1, 0).repeat(30, axis=0))
