import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks.peers.mm_bd import MaximumMargin, largest_logits, order_statistic
from benchmarks.peers.neuron_noise import NeuronNoise
from petechia.core.runtime import Compute
from petechia.data import Preprocess
from petechia.detect.protocol import Findings, ModelUnderTest
from petechia.models.classifier import Classifier

RUNTIME = Compute(threads=1, precision="fp32", device="cpu").start()
CLEAN = np.random.default_rng(0).integers(0, 256, (40, 16, 16), np.uint8)
CLASSES = tuple("abcdefgh")


class Linear(torch.nn.Module):
    """Scores of batch-normalized pixels; the third class has weights of its own size."""

    def __init__(self, own: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.norm = torch.nn.BatchNorm2d(1)
        weights = torch.randn(len(CLASSES), 256, generator=generator) / 16
        weights[2] *= own
        self.weights = torch.nn.Parameter(weights)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.norm(images).flatten(1) @ self.weights.T
        return found


def opened(own: float) -> Classifier:
    network = Linear(own).eval()
    return Classifier("linear", CLASSES, Preprocess(size=16), network, RUNTIME, network)


def test_the_largest_logit_of_a_linear_model_is_that_of_its_positive_weights() -> None:
    classifier = opened(1)
    weights = classifier.require_network().get_parameter("weights").detach().numpy()
    expected = np.clip(weights, 0, None).sum(axis=1) / np.sqrt(1 + 1e-5)
    assert largest_logits(classifier, (1, 16, 16)) == pytest.approx(expected, rel=1e-3)


def test_the_statistic_holds_for_exponential_margins() -> None:
    rng = np.random.default_rng(0)
    found = [order_statistic(rng.exponential(3, 200)).min() for _ in range(300)]
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert order_statistic(np.array([1.0, 1, 1, 1, 1, 40])).min() < 1e-10


@pytest.mark.parametrize("peer", [MaximumMargin(), NeuronNoise()], ids=lambda one: one.name)
def test_a_class_of_its_own_size_is_flagged_and_no_other(peer: MaximumMargin | NeuronNoise) -> None:
    def said(own: float) -> Findings:
        return peer.examine(ModelUnderTest(opened(own), CLEAN), peer.calibrate([]))

    strong = said(30)
    assert [one.about for one in strong.findings if one.flagged] == ["c"]
    assert max(strong.findings, key=lambda one: one.score).about == "c"
    if peer.name == "MM-BD":  # what answers as all others do
        assert not any(one.flagged for one in said(1).findings)
