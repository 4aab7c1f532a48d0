"""What the scores of a network mean: logits, probabilities, or their logarithms."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import petechia
from petechia.models.model import log_odds


class Scored(nn.Module):
    """Three logits of an image, far apart, through a last function."""

    def __init__(self, last: nn.Module, scale: float) -> None:
        super().__init__()
        self.last, self.scale = last, scale
        self.body = nn.Sequential(nn.Conv2d(1, 4, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

    def logits(self, images: Tensor) -> Tensor:
        found: Tensor = self.scale * self.body(images)
        return found

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.last(self.logits(images))
        return found


IMAGES = np.random.default_rng(0).integers(0, 256, (6, 16, 16), dtype=np.uint8)


def opened(network: nn.Module, **card: object) -> Tensor:
    model = petechia.open_model(network, classes=["a", "b", "c"], size=16, **card)  # type: ignore[arg-type]
    images = model.tensor(IMAGES).requires_grad_(True)
    logits = model.answer(images)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), images)
    assert gradient.abs().amax(dim=(1, 2, 3)).min() > 0
    return logits.detach()


@pytest.mark.parametrize("scale", [1.0, 80.0])
@pytest.mark.parametrize("last", [nn.Softmax(dim=1), nn.LogSoftmax(dim=1)], ids=["softmax", "log-softmax"])
def test_a_softmax_inside_a_network_however_sure_gives_the_log_odds_of_its_logits(
    last: nn.Module, scale: float, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    network = Scored(last, scale).eval()
    with torch.inference_mode():
        expected = log_odds(network.logits(torch.from_numpy(IMAGES)[:, None].float() / 255).double())
    if scale > 1:
        assert expected.max() > 10  # 1 - p is rounded to few digits, or to none
    with caplog.at_level(logging.WARNING):
        found = opened(network)
    bound = 27.0 if isinstance(last, nn.Softmax) else 200.0  # shares below 1e-12 are not told apart
    assert found.numpy() == pytest.approx(expected.clamp(-bound, bound).numpy(), rel=1e-3, abs=0.7 if bound < 30 else 1e-3)
    assert ("logarithms of probabilities" in caplog.text) == isinstance(last, nn.LogSoftmax)


def test_a_small_probability_keeps_its_size_and_its_gradient() -> None:
    torch.manual_seed(0)
    network = Scored(nn.Sigmoid(), 1.0).eval()
    nn.init.constant_(network.body[4].bias, -20.0)  # type: ignore[arg-type]
    with torch.inference_mode():
        expected = network.logits(torch.from_numpy(IMAGES)[:, None].float() / 255)
    assert opened(network).numpy() == pytest.approx(expected.numpy(), rel=1e-3)


def test_quantised_probabilities_may_reach_just_above_1() -> None:
    torch.manual_seed(0)

    class Quantised(nn.Module):
        def forward(self, scores: Tensor) -> Tensor:
            shares: Tensor = scores.softmax(dim=1)
            return shares + (shares * 256).round().div(255).sub(shares).detach()

    network = Scored(Quantised(), 1.0).eval()
    found = opened(network).sigmoid().sum(dim=1)
    assert found.numpy() == pytest.approx(1, abs=0.02)
