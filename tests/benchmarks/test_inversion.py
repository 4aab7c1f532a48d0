from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.peers.bti_dbf import DecoupledFeatures, benign
from benchmarks.peers.feature_re import SHARE, FeatureHyperplane, excess, mixed, small
from benchmarks.peers.inversion import Halves, Transforms, within
from petechia.core.runtime import Compute
from petechia.data import Preprocess
from petechia.detect.audit.hosts import Hosts
from petechia.detect.protocol import ModelUnderTest
from petechia.models.classifier import Classifier

RUNTIME = Compute(threads=1, precision="fp32", device="cpu").start()
CLASSES = tuple("abcdef")
SIDE, TARGET = 16, 2
RNG = np.random.default_rng(0)
CLEAN = np.clip(RNG.integers(60, 160, (60, 1, 1)) + RNG.normal(0, 15, (60, SIDE, SIDE)), 0, 255).astype(np.uint8)


class Channels(nn.Module):
    """A channel per class, the mean of some of the columns, and two more, which respond to a bright square only."""

    def __init__(self, backdoor: float) -> None:
        super().__init__()
        self.maps = nn.Conv2d(1, len(CLASSES), 4, stride=4)
        self.square = nn.Conv2d(1, 2, 4, stride=4)
        self.join, self.head = nn.Identity(), nn.Linear(len(CLASSES) + 2, len(CLASSES))
        with torch.no_grad():
            self.maps.weight.zero_()
            self.maps.bias.zero_()  # type: ignore[union-attr]
            for k in range(len(CLASSES)):
                self.maps.weight[k, 0, :, k % 4] = 0.25
            self.square.weight.fill_(1)
            self.square.bias.fill_(-11)  # type: ignore[union-attr]
            self.head.weight.zero_()
            self.head.weight[:, : len(CLASSES)] = 4 * torch.eye(len(CLASSES))
            self.head.weight[TARGET, len(CLASSES) :] = backdoor
            self.head.bias.fill_(-3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.join(torch.cat([self.maps(images), self.square(images)], dim=1).relu())
        found: Tensor = self.head(maps.mean(dim=(2, 3)))
        return found


def opened(backdoor: float) -> Classifier:
    network = Channels(backdoor).eval()
    return Classifier("channels", CLASSES, Preprocess(size=SIDE), network, RUNTIME, network)


@pytest.fixture
def halves() -> Halves:
    classifier = opened(30)
    return Halves.of(classifier, classifier.tensor(CLEAN))


def test_two_halves_are_the_network(halves: Halves) -> None:
    images = halves.classifier.tensor(CLEAN[:3]).requires_grad_()
    maps = halves.maps(images)
    assert maps.shape == (3, 8, 4, 4)
    assert torch.equal(halves.logits(maps), halves.classifier.ask(images))
    halves.logits(maps).sum().backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    assert images.grad.abs().max() > 0


def test_head_alone_is_the_last_layer(halves: Halves) -> None:
    maps = torch.rand(5, 8, 4, 4)
    head = halves.classifier.require_network().get_submodule("head")
    assert torch.allclose(halves.logits(maps), head(maps.mean(dim=(2, 3))), atol=1e-6)


@pytest.mark.parametrize("size", [0.01, 0.2])
def test_a_change_is_no_larger_than_its_bound(size: float) -> None:
    change = size * torch.randn(2, 3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    found = within(change, 0.1).square().mean(dim=(2, 3, 4)).sqrt()
    assert found.numpy() == pytest.approx(np.full((2, 3), min(size, 0.1)), rel=0.1)
    assert float(found.max()) < 0.1 + 1e-5


def test_transforms_side_by_side_do_not_touch_each_other() -> None:
    transforms, images = Transforms(3, (1, 16, 16), 0.1), torch.rand(2, 1, 16, 16)
    before = transforms(images)
    assert before.shape == (3, 2, 1, 16, 16)
    for parameter in transforms.parameters():  # of the first only
        parameter.data[: len(parameter) // 3] += 0.1
    after = transforms(images)
    assert not torch.equal(after[0], before[0])
    assert torch.equal(after[1:], before[1:])


def test_benign_channels_are_those_that_clean_images_use(halves: Halves) -> None:
    mask = benign(halves, Hosts.of(halves.classifier, CLEAN[:30])).flatten()
    assert mask[:6].mean() > 0.5
    assert mask[6:].max() < 0.1  # of the square


def test_a_mask_covers_no_more_than_its_share() -> None:
    found = small(torch.stack([torch.full((1, 4, 5, 5), 0.9), torch.full((1, 4, 5, 5), 0.01)]))
    assert found.flatten(1).mean(dim=1).numpy() == pytest.approx([SHARE, 0.01])


def test_spread_where_the_mask_is_counts_in_spreads_of_clean_images() -> None:
    clean = torch.randn(2000, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(2, 1, 3, 2, 2)
    masks[0, :, 0], masks[1, :, 1] = 1, 0.3
    changed = torch.stack([clean, clean])
    changed[1, :, 1] *= 0.2
    assert excess(changed, clean, masks).numpy() == pytest.approx([0.5, 0], abs=0.05)


def test_where_the_mask_is_one_features_are_the_point(halves: Halves) -> None:
    clean, points = torch.rand(4, 8, 4, 4), torch.rand(2, 1, 8, 4, 4)
    everywhere = torch.stack([torch.zeros(1, 8, 4, 4), torch.ones(1, 8, 4, 4)])
    found = mixed(halves, clean, everywhere, points)
    assert torch.allclose(found[0], halves.logits(clean), atol=1e-6)
    assert torch.allclose(found[1], halves.logits(points[1]).expand(4, -1), atol=1e-6)


@pytest.mark.parametrize("make", [DecoupledFeatures, FeatureHyperplane])
def test_a_backdoor_is_found_and_a_clean_model_is_not(make: Callable[[], DecoupledFeatures | FeatureHyperplane]) -> None:
    peer = make()

    def flagged(backdoor: float) -> list[str]:
        found = peer.examine(ModelUnderTest(opened(backdoor), CLEAN), peer.calibrate([]))
        return [one.about for one in found.flagged]

    assert flagged(30) == [CLASSES[TARGET]]
    assert flagged(0) == []
