"""Every kind of model of ours passes the suite, and the suite finds what broken ones do wrong."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute, Runtime
from petechia.data import Preprocess
from petechia.models.classifier import Classifier
from petechia.models.registry import OPENERS, ModelOpener
from petechia.testing import check_classifier, check_opener
from tests.models.openers import test_exported
from tests.models.openers.conftest import write_huggingface, write_open_clip
from tests.models.openers.test_encoder import write_encoder
from tests.models.openers.test_openers import write_onnx
from tests.saliency.test_activation_maps import network

RUNTIME = Compute(device="cpu", precision="fp32", threads=1).start()


def safetensors(folder: Path) -> str:
    network("test_resnet", size=32).save(folder / "m.safetensors")
    return str(folder / "m.safetensors")


def onnx(folder: Path) -> str:
    return write_onnx(folder / "m.onnx")


def program(folder: Path) -> str:
    return test_exported.export(test_exported.network(), folder / "m.pt2", batch=2)


def of_timm(folder: Path) -> str:
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=3, in_chans=3).state_dict(), folder / "t.safetensors")
    (folder / "t.json").write_text('{"preprocess": {"size": 32}}')
    return f"timm:test_resnet:{folder / 't.safetensors'}"


def encoder(folder: Path) -> str:
    write_encoder(folder / "m")
    return f"encoder:{folder / 'm'}"


def huggingface(folder: Path) -> str:
    write_huggingface(folder / "m")
    return f"hf:{folder / 'm'}"


def clip(folder: Path) -> str:
    write_open_clip(folder / "m")
    return f"clip:{folder / 'm'}"


OURS: dict[str, Callable[[Path], str]] = {".safetensors": safetensors, ".onnx": onnx, ".pt2": program, "timm": of_timm}
OURS |= {"encoder": encoder, "hf": huggingface, "clip": clip}


@pytest.mark.parametrize("kind", [kind for kind in OPENERS if OPENERS.origin(kind) == "petechia"])
def test_our_models_pass(kind: str, tmp_path: Path) -> None:
    if kind == "xrv":  # it would fetch weights; what it makes of them is checked in tests/models/openers/test_openers.py
        pytest.skip("the weights of torchxrayvision are fetched over the network")
    if kind == "mlflow":
        pytest.skip("it needs a registry; see tests/models/openers/test_registered.py")
    check_opener(OURS[kind](tmp_path), runtime=RUNTIME)


class Linear(nn.Module):
    """Two logits of images of 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = nn.Parameter(torch.randn(64, 2, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = images.flatten(1) @ self.weights
        return logits


def classifier(answer: Callable[[Tensor], Tensor] | None = None, **changes: Any) -> Classifier:
    model = Linear().eval()
    return replace(Classifier("made", ("A", "B"), Preprocess(size=8), answer or model, RUNTIME, None), **changes)


def of_the_batch(images: Tensor) -> Tensor:
    """As a batch norm in training does."""
    logits: Tensor = Linear()(images)
    return logits - logits.mean(dim=0)


def at_random(images: Tensor) -> Tensor:
    return torch.rand(len(images), 2)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (classifier(of_the_batch), "an image depends on the others"),
        (classifier(at_random), "It says something else the second time"),
        (classifier(classes=("A", "A")), "A class is there twice"),
        (classifier(classes=()), "It has no classes"),
        (classifier(network=Linear()), "in training mode"),
        (classifier(lambda images: 2 * Linear()(images), network=Linear().eval()), "Its network and its answer differ"),
    ],
)
def test_a_broken_classifier_is_found(broken: Classifier, sentence: str) -> None:
    check_classifier(classifier(network=Linear().eval()))
    with pytest.raises(AssertionError, match=sentence):
        check_classifier(broken)


def test_a_network_without_gradients_is_found() -> None:
    class Cut(Linear):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).detach()

    with pytest.raises(AssertionError, match="Its network has no gradients"):
        check_classifier(classifier(network=Cut().eval()))


def test_a_broken_opener_is_found() -> None:
    def everything(_text: str, _runtime: Runtime) -> Classifier:
        return classifier()

    def crash(text: str, runtime: Runtime) -> Classifier:
        if text != "x":
            raise KeyError(text)
        return classifier()

    def another(text: str, runtime: Runtime) -> Classifier:
        if text != "x":
            raise PetechiaError("It is not there.")
        factor = float(torch.rand(1)) + 1
        return classifier(lambda images: factor * Linear()(images))

    def told(text: str, runtime: Runtime) -> Classifier:
        if text != "/home/x":
            raise PetechiaError("It is not there.")
        return replace(classifier(network=Linear().eval()), name=f"made:{text}")

    for opened, sentence in (
        (everything, "It opens made:/no/such/model, which is not there"),
        (crash, "it raises KeyError; raise PetechiaError"),
        (another, "Opened again, made:x gives other logits"),
    ):
        with (
            OPENERS.temporarily({"made": ModelOpener("made:X", "Made up", opened)}),
            pytest.raises(AssertionError, match=sentence),
        ):
            check_opener("made:x", runtime=RUNTIME)
    with (
        OPENERS.temporarily({"made": ModelOpener("made:X", "Made up", told)}),
        pytest.raises(AssertionError, match="Results, which others read, would call it made:/home/x; set the title"),
    ):
        check_opener("made:/home/x", runtime=RUNTIME)
    with pytest.raises(AssertionError, match="begins with no prefix and ends in no suffix"):
        check_opener("made:x", runtime=RUNTIME)
