"""Every explanation method of ours passes the suite, and the suite finds what broken ones do wrong."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from petechia.core.runtime import Compute
from petechia.models.classifier import Classifier
from petechia.saliency import METHODS, LayerMethod, Recorded, ScoreMethod, of_gradients
from petechia.testing import check_explanation
from tests.saliency.test_activation_maps import network

LAYERS = ("layer3", "layer4")


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    runtime = Compute(device="cpu", precision="fp32", threads=1).start()
    return Classifier.of(network("test_resnet", size=48), runtime)


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS.origin(name) == "petechia"])
def test_our_methods_pass(name: str, classifier: Classifier) -> None:
    if name == "rise":  # 2,000 masks an image: a network of one layer will do
        flat = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(48 * 48, 2)).eval()
        classifier = Classifier("flat", ("A", "B"), classifier.preprocess, flat, classifier.runtime, flat)
    check_explanation(name, classifier, ("layer4",) if name == "gradcam-skip" else LAYERS)


def slopes(change: Callable[[Tensor], Tensor]) -> Callable[[Recorded], dict[str, Tensor]]:
    """Grad-CAM whose maps are changed at the end."""
    sound = of_gradients(lambda activations, gradients: torch.einsum("bchw,tbchw->tbhw", activations, gradients))
    return lambda recorded: {layer: change(one) for layer, one in sound(recorded).items()}


def spoiling(recorded: Recorded) -> dict[str, Tensor]:
    with torch.no_grad():
        next(recorded.model.parameters()).add_(0.25)
    return slopes(lambda maps: maps)(recorded)


def painting(recorded: Recorded) -> dict[str, Tensor]:
    maps = slopes(lambda maps: maps)(recorded)
    recorded.images.zero_()
    return maps


@pytest.mark.parametrize(
    ("maps", "sentence"),
    [
        (slopes(lambda maps: maps - 1), "has values below 0"),
        (slopes(lambda maps: maps[..., :-1]), "has shape"),
        (slopes(lambda maps: maps.double()), "is torch.float64, not float32"),
        (slopes(lambda maps: maps / 0), "has NaN or infinity"),
        (slopes(lambda maps: maps + torch.rand(())), "differs when it is asked for again"),
        (slopes(lambda maps: maps / maps.sum(dim=1, keepdim=True)), "depends on the others of its batch"),
        (slopes(lambda maps: maps / maps.sum(dim=0, keepdim=True).clamp(min=1e-9) + maps), "depends on the others that are"),
        (slopes(lambda maps: maps.requires_grad_()), "still has a graph"),
        (lambda recorded: {"layer3": slopes(lambda maps: maps)(recorded)["layer3"]}, "asked for are layer3, layer4"),
        (spoiling, "changes the weights|differs when it is asked for again"),
        (painting, "changes the images|differs"),
    ],
)
def test_a_broken_method_of_layers_is_found(maps: Any, sentence: str) -> None:
    runtime = Compute(device="cpu", precision="fp32", threads=1).start()
    classifier = Classifier.of(network("test_resnet", size=48), runtime)
    method = LayerMethod("Broken", "broken", "nobody", maps)
    with METHODS.temporarily({"broken": method}), pytest.raises(AssertionError, match=sentence):
        check_explanation("broken", classifier, LAYERS)


def covered(scores: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor) -> Tensor:
    """Brightness times the score: nothing is wrong with it."""
    return images[:, 0] * scores(images).gather(1, targets[:, None])[:, :, None]


def seeding(scores: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor) -> Tensor:
    return covered(scores, images, targets) * torch.rand(())


def of_the_batch(scores: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor) -> Tensor:
    return covered(scores, images, targets) / images.sum()


def painted(scores: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor) -> Tensor:
    images *= 0.5
    return covered(scores, images, targets)


@pytest.mark.parametrize(
    ("heat", "sentence"),
    [
        (lambda *given: covered(*given) - 1, "has values below 0"),
        (lambda *given: covered(*given)[0], "not .B, h, w."),
        (lambda *given: covered(*given)[:2], "has shape .2, 48, 48., not .3, 48, 48."),
        (lambda *given: covered(*given).repeat(1, 2, 1), "gives 96 x 48 cells for images of 48 x 48"),
        (lambda *given: covered(*given) * float("nan"), "has NaN"),
        (seeding, "something else the second time"),
        (of_the_batch, "depends on the others of its batch"),
        (painted, "It changes the images"),
    ],
)
def test_a_broken_method_of_scores_is_found(heat: Any, sentence: str, classifier: Classifier) -> None:
    with METHODS.temporarily({"sound": ScoreMethod("Sound", "sound", "nobody", covered)}):
        check_explanation("sound", classifier)
    broken = {"broken": ScoreMethod("Broken", "broken", "nobody", heat)}
    with METHODS.temporarily(broken), pytest.raises(AssertionError, match=sentence):
        check_explanation("broken", classifier)


def test_facts_are_needed(classifier: Classifier) -> None:
    with METHODS.temporarily({"x": ScoreMethod("X", "x", "", covered)}), pytest.raises(AssertionError, match="has no source"):
        check_explanation("x", classifier)
    with pytest.raises(AssertionError, match="'x' is not among the registered methods, gradcam"):
        check_explanation("x", classifier)
