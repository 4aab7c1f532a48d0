from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute, Runtime
from petechia.data import Preprocess
from petechia.models.classifier import Classifier
from tests.core.rerunning import Rerunning

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)


class Means(nn.Module):
    """The mean of the upper and of the lower half."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(1, 3)).reshape(len(images), 2, -1).mean(dim=2)


class Fails(Means):
    def forward(self, images: Tensor) -> Tensor:
        raise RuntimeError("no such kernel\nand more")


class Squeezes(Means):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).squeeze()


class Drops(Means):
    """Dropout that was left on."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(images, 0.3))


def of(network: nn.Module) -> Classifier:
    runtime = Compute(device="cpu", precision="fp32", threads=1).start()
    return Classifier("mine", ("A", "B"), Preprocess(size=8), network.eval(), runtime, network)


def test_an_error_of_the_network_is_one_sentence() -> None:
    with pytest.raises(
        PetechiaError, match=r"^mine cannot be called with float32 \[12, 1, 8, 8\] \(no such kernel\); check the"
    ):
        of(Fails()).logits(IMAGES)


def test_the_dimension_of_the_images_must_stay() -> None:
    assert of(Squeezes()).logits(IMAGES).shape == (12, 2)
    with pytest.raises(PetechiaError, match=r"^mine gives \[2\] for 1 images, not \[1, classes\]"):
        of(Squeezes()).logits(IMAGES[:1])


def test_a_model_that_answers_at_random_is_told() -> None:
    of(Means()).require_steady(IMAGES)
    torch.manual_seed(0)
    with pytest.raises(PetechiaError, match=r"^mine gives other scores for the same images .*turn off dropout"):
        of(Drops()).require_steady(IMAGES)


def test_a_recorded_classifier_gives_the_same_logits() -> None:
    plain = of(Means())
    recorded = replace(plain, runtime=Runtime(torch.device("cpu"), bf16=False, recorder=Rerunning()))
    for shift in range(6):
        images = np.roll(IMAGES, shift, axis=1)
        assert torch.equal(recorded.logits(images, batch=5), plain.logits(images, batch=5))
    assert len(recorded._answers.recordings) == 2  # batches of 5, and the 2 that are left
    seen: list[int] = []
    assert recorded.network is not None
    with recorded.network.register_forward_hook(lambda _module, given, _output: seen.append(len(given[0]))):
        recorded.logits(IMAGES, batch=5)
    assert seen == [5, 5, 2]  # a replay would not call the hook
    assert replace(recorded, network=None)._answers.recorder is None  # a black box may run anywhere
