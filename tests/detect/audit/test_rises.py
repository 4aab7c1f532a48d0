from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.core.runtime import Runtime
from petechia.detect.audit.hosts import Hosts
from petechia.detect.audit.rises import PIXELS, SHARES, STEPS, rise
from petechia.detect.audit.transforms import Pattern, Warp
from tests.core.rerunning import Rerunning
from tests.detect.audit.conftest import CLASSES, SIDE, ByHand, Images, opened


class Waves(nn.Module):
    """Like `ByHand`, but "Target" answers to a faint wave over the whole image."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(strength))
        self.plain = ByHand(backdoored=False)
        self.wave = torch.sin(2 * torch.pi * 5 * torch.arange(SIDE) / SIDE)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.plain(images)
        match = (images[:, 0] * self.wave).mean(dim=(1, 2))
        return torch.cat([logits[:, :1] + self.strength * match.clamp(min=0)[:, None], logits[:, 1:]], dim=1)


@pytest.mark.parametrize("strength", [400.0, 0.0])
def test_a_class_that_answers_to_a_wave_rises_far_above_the_others(strength: float, clean: Images) -> None:
    classifier = opened(Waves(strength))
    found = rise(classifier, Hosts.of(classifier, clean[:24]), Hosts.of(classifier, clean[24:44]), Pattern(None))
    assert found.effects.shape == (len(SHARES), len(CLASSES), len(CLASSES))
    assert (np.diff(found.own, axis=0) > 0).all()  # a wider bound allows more
    for values in (found.own, found.margins):
        if strength:
            assert (values[:, 0] > 3 * values[:, 1:].max(axis=1)).all()
        else:
            assert (values[:, 0] < 1.5 * values[:, 1:].max(axis=1)).all()


def test_the_rise_is_that_of_the_direction_on_images_that_it_was_not_fitted_on(clean: Images) -> None:
    classifier = opened(Waves(400.0))
    judge = Hosts.of(classifier, clean[24:44])
    family = Warp()
    found = rise(classifier, Hosts.of(classifier, clean[:24]), judge, family)
    changed = family.change(judge.images, found.directions.float(), SHARES[-1] * family.limit)
    for label in range(len(CLASSES)):
        expected = np.quantile(classifier.logits(changed[label]) - judge.logits, 0.5, axis=0, method="lower")
        assert found.effects[-1, label] == pytest.approx(expected, abs=1e-2)  # directions are kept in half precision
        assert found.own[-1, label] == found.effects[-1, label, label]


def test_classes_that_are_searched_for_apart_give_the_same(clean: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = opened(Waves(400.0))
    hosts = Hosts.of(classifier, clean[:24]), Hosts.of(classifier, clean[24:44])
    together = rise(classifier, *hosts, Pattern(8))
    monkeypatch.setitem(PIXELS, "cpu", 2 * 4 * SIDE**2)  # of four images for each of two classes
    apart = rise(classifier, *hosts, Pattern(8))
    np.testing.assert_allclose(apart.effects, together.effects, atol=1e-3)
    torch.testing.assert_close(apart.directions, together.directions, atol=1e-2, rtol=0)


def test_a_black_box_has_no_gradients(clean: Images) -> None:
    classifier = opened(ByHand(), blind=True)
    hosts = Hosts.of(classifier, clean[:4])
    with pytest.raises(PetechiaError, match="black box"):
        rise(classifier, hosts, hosts, Pattern(None))


def test_a_recorded_search_finds_the_same(clean: Images) -> None:
    recorder = Rerunning()
    plain = opened(Waves(400.0))
    recorded = replace(plain, runtime=Runtime(torch.device("cpu"), bf16=False, recorder=recorder))
    found, expected = (
        rise(one, Hosts.of(one, clean[:24]), Hosts.of(one, clean[24:44]), Pattern(None)) for one in (recorded, plain)
    )
    assert np.array_equal(found.effects, expected.effects)
    assert torch.equal(found.directions, expected.directions)
    assert sum(recorder.recorded) > sum(STEPS) / 2
