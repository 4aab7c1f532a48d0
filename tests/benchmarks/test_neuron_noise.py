import copy

import pytest
import torch
from torch import Tensor, nn

from benchmarks.peers.neuron_noise import Noise
from petechia.core.runtime import Compute
from petechia.data import Preprocess
from petechia.models.classifier import Classifier

IMAGES = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))


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
    family, strength = Noise(network), 0.2
    direction = torch.rand(2, *family.shape(IMAGES)) * 2 - 1
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
