"""An encoder of timm with a linear head of its own, compared with the two in a row."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute
from petechia.data import Preprocess
from petechia.models.openers import open_classifier
from petechia.saliency import cam
from petechia.testing import check_opener

RUNTIME = Compute(device="cpu", precision="fp32", threads=1).start()
SIDE = 64
CARD = {"classes": ["A", "B"], "preprocess": {"size": SIDE, "crop": 1.0}, "mean": [0.5] * 3, "std": [0.25] * 3}


def write_encoder(
    folder: Path, arch: str = "test_resnet", prefix: str = "", names: tuple[str, str] = ("weight", "bias"), **options: Any
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Write an encoder and a head with random weights, and return what computes their logits."""
    torch.manual_seed(0)
    encoder: Any = timm.create_model(arch, num_classes=0, **options).eval()
    head = torch.nn.Linear(encoder.num_features, 2)
    folder.mkdir(exist_ok=True)
    save_file({prefix + name: one for name, one in encoder.state_dict().items()}, folder / "encoder.safetensors")
    save_file({names[0]: head.weight.data, names[1]: head.bias.data}, folder / "head.safetensors")
    (folder / "petechia.json").write_text(json.dumps({"arch": arch, **CARD}))

    def logits(images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return torch.as_tensor(head(encoder((images - 0.5) / 0.25)))

    return logits


def opened(folder: Path) -> Any:
    return open_classifier(f"encoder:{folder}", RUNTIME)


@pytest.mark.parametrize(
    ("arch", "options", "prefix", "names"),
    [
        ("test_resnet", {}, "", ("weight", "bias")),
        ("test_resnet", {}, "module.backbone.", ("fc.weight", "fc.bias")),
        ("test_vit", {"img_size": SIDE}, "encoder.", ("classifier.weight", "classifier.bias")),
        ("test_efficientnet", {}, "", ("0.weight", "0.bias")),
    ],
)
def test_the_logits_are_those_of_the_head_on_the_encoder(
    arch: str, options: Any, prefix: str, names: tuple[str, str], tmp_path: Path
) -> None:
    wanted = write_encoder(tmp_path / "m", arch, prefix, names, **options)
    found, images = opened(tmp_path / "m"), torch.rand(3, 3, SIDE, SIDE)
    assert (found.classes, found.name, found.public_name) == (("A", "B"), f"encoder:{tmp_path / 'm'}", "encoder:m")
    assert found.preprocess == Preprocess(crop=1.0, size=SIDE, resample="bilinear")
    np.testing.assert_allclose(found.logits(images), wanted(images), atol=1e-4)
    assert cam(found.require_network(), images, targets=1)["last"].shape[0] == 3


def test_it_passes_the_suite(tmp_path: Path) -> None:
    write_encoder(tmp_path / "m")
    check_opener(f"encoder:{tmp_path / 'm'}", runtime=RUNTIME)


def test_the_head_that_an_encoder_was_trained_with_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wanted = write_encoder(tmp_path / "m")
    weights, digest = load_file(tmp_path / "m" / "encoder.safetensors"), opened(tmp_path / "m").digest
    save_file({**weights, "fc.weight": torch.ones(9, 4), "fc.bias": torch.ones(9)}, tmp_path / "m" / "encoder.safetensors")
    images = torch.rand(3, 3, SIDE, SIDE)
    np.testing.assert_allclose(opened(tmp_path / "m").logits(images), wanted(images), atol=1e-4)
    assert "fc.bias, fc.weight is not part of the encoder and was left out" in caplog.text
    assert opened(tmp_path / "m").digest != digest


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    write_encoder(tmp_path / "m")
    encoder, head = tmp_path / "m" / "encoder.safetensors", tmp_path / "m" / "head.safetensors"
    weights = load_file(encoder)
    save_file({name: one for name, one in weights.items() if name != "layer2.0.conv1.weight"}, encoder)
    with pytest.raises(PetechiaError, match=r"test_resnet without its head \(it lacks layer2.0.conv1.weight\)"):
        opened(tmp_path / "m")
    save_file({**weights, "evil.weight": torch.ones(2)}, encoder)
    with pytest.raises(PetechiaError, match="it has evil.weight, which the network has not"):
        opened(tmp_path / "m")
    save_file(weights, encoder)
    for wrong, sentence in (
        ({"weight": torch.ones(2, 7), "bias": torch.ones(2)}, r"fc.weight is \[2, 7\] instead of \[2, "),
        (
            {"a.weight": torch.ones(2, 7), "b.weight": torch.ones(2, 2)},
            r"a.weight \[2, 7\], b.weight \[2, 2\], but a head is",
        ),
        ({"weight": torch.ones(2, 7, 1, 1)}, "but a head is one linear layer"),
        ({"bias": torch.ones(2)}, "but a head is one linear layer"),
    ):
        save_file(wrong, head)
        with pytest.raises(PetechiaError, match=sentence):
            opened(tmp_path / "m")
    head.unlink()
    with pytest.raises(PetechiaError, match="has no head.safetensors, so it is not an encoder with a head"):
        opened(tmp_path / "m")


@pytest.mark.parametrize(
    ("card", "sentence"),
    [
        ({"classes": ["A", "B"]}, "does not name the network of the encoder; add its name in timm"),
        ({"arch": "hf-hub:evil/model"}, "timm does not know a network"),
        ({"arch": "test_vit"}, "does not contain the weights of timm's test_vit without its head"),
        ({"arch": "test_resnet", "classes": ["A"]}, "gives 2 scores, but petechia.json names 1 classes"),
        ({"arch": 3}, "petechia.json, the description of m, cannot be used"),
    ],
)
def test_a_card_that_does_not_fit(card: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    write_encoder(tmp_path / "m")
    (tmp_path / "m" / "petechia.json").write_text(json.dumps(card))
    with pytest.raises(PetechiaError, match=sentence):
        opened(tmp_path / "m")


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    write_encoder(tmp_path / "m")
    (tmp_path / "m" / "head.safetensors").rename(tmp_path / "head.safetensors")
    (tmp_path / "m" / "head.safetensors").symlink_to("../head.safetensors")
    with pytest.raises(PetechiaError, match="leads out of its folder"):
        opened(tmp_path / "m")
