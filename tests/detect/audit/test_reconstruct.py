import numpy as np
import pytest
import torch

from petechia.core.errors import PetechiaError
from petechia.detect.audit.hosts import Hosts
from petechia.detect.audit.reconstruct import reconstruct
from tests.detect.audit.conftest import COLUMN, ROW, SIZE, ByHand, Images, opened


def test_the_trigger_is_found_in_its_place_and_small_while_a_mean_needs_many_pixels(clean: Images) -> None:
    classifier = opened(ByHand())
    spread = classifier.logits(clean).std(dim=0)
    target, mean = reconstruct(classifier, Hosts.of(classifier, clean[:16]), [0, 1], spread)
    row, column = np.unravel_index(int(target.mask.argmax()), target.mask.shape)
    assert ROW <= row < ROW + SIZE
    assert COLUMN <= column < COLUMN + SIZE
    assert target.size < 2 * SIZE**2
    assert target.moved > 0.6
    assert mean.size > 5 * target.size


def test_what_is_found_does_what_it_says(clean: Images) -> None:
    classifier = opened(ByHand())
    hosts, spread = Hosts.of(classifier, clean[:16]), classifier.logits(clean).std(dim=0)
    (found,) = reconstruct(classifier, hosts, [0], spread)
    mask, pattern = (torch.from_numpy(part) for part in (found.mask, found.pattern))
    shift = classifier.logits((1 - mask) * hosts.images + mask * pattern)[:, 0] - classifier.logits(hosts.images)[:, 0]
    assert float((shift >= 6 * spread[0]).float().mean()) == pytest.approx(found.moved)


def test_a_black_box_has_no_gradients(clean: Images) -> None:
    classifier = opened(ByHand(), blind=True)
    with pytest.raises(PetechiaError, match="black box"):
        reconstruct(classifier, Hosts.of(classifier, clean[:4]), [0], classifier.logits(clean).std(dim=0))
