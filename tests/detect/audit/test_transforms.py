import copy

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor, nn

from petechia.core.runtime import Compute
from petechia.data import Preprocess
from petechia.detect.audit.transforms import FAMILIES, Family, Frequency, Noise, Pattern, Warp
from petechia.models.classifier import Classifier
from tests.detect.audit.conftest import ByHand, opened

IMAGES = torch.from_numpy(np.random.default_rng(0).uniform(0.15, 0.85, (3, 1, 32, 40)).astype(np.float32))
CHANGES = [family for family in FAMILIES if not isinstance(family, Noise)]


def direction_of(family: Family, images: Tensor = IMAGES, goals: int = 2) -> Tensor:
    shape = (goals, *family.shape(opened(ByHand()), images))
    return torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32))


@pytest.mark.parametrize("family", CHANGES, ids=lambda one: one.name)
def test_no_strength_changes_nothing_and_more_changes_more(family: Family) -> None:
    direction = direction_of(family)
    none, some, more = ((family.change(IMAGES, direction, share * family.limit) - IMAGES).abs() for share in (0, 0.5, 1))
    assert none.shape == (2, 3, 1, 32, 40)
    assert none.max() < 1e-5
    assert 1e-4 < some.mean() < more.mean() < 0.1


@pytest.mark.parametrize("family", CHANGES, ids=lambda one: one.name)
def test_gradients_reach_every_part_of_a_direction(family: Family) -> None:
    direction = direction_of(family).requires_grad_(True)
    weights = torch.from_numpy(np.random.default_rng(2).normal(size=(3, 1, 32, 40)).astype(np.float32))
    (family.change(IMAGES, direction, family.limit) * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert direction.grad is not None
    assert (direction.grad != 0).float().mean() > 0.6


def test_a_fine_pattern_is_added_as_it_is() -> None:
    family = Pattern(None)
    direction = direction_of(family)
    expected = (IMAGES.numpy()[None] + 0.05 * direction.numpy()[:, None]).clip(0, 1)
    assert family.change(IMAGES, direction, 0.05).numpy() == pytest.approx(expected, abs=1e-6)


def test_frequencies_above_the_band_and_the_mean_stay() -> None:
    family = Frequency()
    changed = family.change(IMAGES, direction_of(family), 0.3)
    ratio = np.abs(np.fft.fft2(changed.numpy())) / np.abs(np.fft.fft2(IMAGES.numpy()))
    rows, columns = np.abs(np.fft.fftfreq(32) * 32), np.abs(np.fft.fftfreq(40) * 40)
    inside = (rows[:, None] <= 3) & (columns[None] <= 4)
    assert np.abs(ratio[..., ~inside] - 1).max() < 1e-3
    assert np.abs(ratio[..., 0, 0] - 1).max() < 1e-4
    assert 0.7 - 1e-3 <= ratio[..., inside].min() < 0.85
    assert 1.15 < ratio[..., inside].max() <= 1.3 + 1e-3


def test_a_constant_warp_moves_the_image_by_a_share_of_its_side() -> None:
    square = torch.nn.functional.avg_pool2d(torch.rand(2, 1, 34, 34, generator=torch.Generator().manual_seed(0)), 3, 1)
    direction = torch.zeros(1, 2, 8, 8)
    direction[:, 0] = 1  # along a row
    moved = Warp().change(square, direction, 1.5 / 32)[0, :, 0].numpy()
    expected = scipy.ndimage.shift(square[:, 0].numpy(), (0, 0, -1.5), order=1, mode="nearest")
    assert moved == pytest.approx(expected, abs=1e-5)


class Normal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.batch = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.flat, self.layer, self.last = nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.last(self.layer(self.batch(self.first(images)).relu().mean(dim=(2, 3))))
        return found


def test_noise_is_that_of_changed_weights() -> None:
    torch.manual_seed(0)
    network = Normal().eval()
    for norm in (network.batch, network.layer):
        nn.init.normal_(norm.weight, 1, 0.3)
        nn.init.normal_(norm.bias, 0, 0.3)
    runtime = Compute(threads=1, precision="fp32", device="cpu").start()
    classifier = Classifier("n", tuple("abcde"), Preprocess(size=32), network, runtime, network)
    family, strength = Noise(), 0.2
    direction = torch.rand(2, *family.shape(classifier, IMAGES)) * 2 - 1
    found = family.logits(classifier, IMAGES, direction, strength)
    for one, noise in zip(found, direction, strict=True):
        changed = copy.deepcopy(network)
        for k, other in enumerate((changed.batch, changed.layer)):
            own = strength * noise[:, 4 * k : 4 * k + 4]
            other.weight.data *= 1 + own[0]
            other.bias.data *= 1 + own[1]
        with torch.inference_mode():
            assert one.detach().numpy() == pytest.approx(changed(IMAGES).numpy(), abs=1e-5)
    with torch.inference_mode():
        before = network(IMAGES)
        assert torch.equal(network(IMAGES), before)  # nothing is left behind
