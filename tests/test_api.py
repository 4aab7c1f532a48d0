"""The Python API: its arguments, and that it is complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import petechia
from petechia import PetechiaError, api
from petechia.data import Preprocess
from petechia.detect.audit.examination import measure_model
from petechia.detect.protocol import Calibration
from petechia.models.model import Architecture, create


class Means(nn.Module):
    """The mean of every quarter of an image, as logits."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 1, 1, bias=False)
        nn.init.constant_(self.convolution.weight, 1 / channels)

    def forward(self, images: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(self.convolution(images), 2).flatten(1) - 1


def test_dir_shows_the_api_and_nothing_else() -> None:
    assert dir(petechia) == sorted(petechia.__all__)
    for name in petechia.__all__:
        assert getattr(petechia, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        petechia.trian  # noqa: B018


def test_no_function_hides_a_module() -> None:
    """Every submodule of every package is accessible as an attribute."""
    import importlib
    import pkgutil
    import types

    for found in pkgutil.walk_packages(petechia.__path__, "petechia."):
        if found.name == "petechia.__main__":
            continue
        module = importlib.import_module(found.name)
        parent, _, name = found.name.rpartition(".")
        seen = vars(importlib.import_module(parent)).get(name)
        assert isinstance(seen, types.ModuleType), f"{found.name} is hidden by {seen!r}"
        assert seen is module


def test_a_module_in_memory_becomes_a_classifier_and_stays_as_it_was() -> None:
    network = Means().train()
    model = petechia.open_model(network, classes="ABCD", size=8, device="cpu", precision="fp32", threads=1)
    assert model.classes == ("A", "B", "C", "D")
    assert (model.preprocess.size, model.colour) == (8, False)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    quarters = images.reshape(3, 2, 4, 2, 4).mean(axis=(2, 4)).reshape(3, 4) / 255 - 1
    np.testing.assert_allclose(model.logits(images).numpy(), quarters, atol=1e-5)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert petechia.open_model(model) is model


def test_normalisation_and_softmax_are_as_said() -> None:
    model = petechia.open_model(Means(3), size=8, mean=(0.5,) * 3, std=(0.25,) * 3, task="multi-class", device="cpu", threads=1)
    assert model.colour
    white = np.full((1, 8, 8, 3), 255, np.uint8)
    probabilities = model.logits(white).sigmoid().numpy()
    np.testing.assert_allclose(probabilities, 0.25, atol=1e-3)  # four equal classes


def test_a_function_is_a_black_box() -> None:
    def scores(images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)).sigmoid()

    model = petechia.open_model(scores, size=8, channels=1, device="cpu", threads=1)
    assert model.network is None
    grey = np.full((2, 8, 8), 51, np.uint8)
    np.testing.assert_allclose(model.logits(grey).numpy(), 0.2, atol=1e-3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "does not state the size of its images; give size="),
        ({"size": 8, "classes": ("A", "B")}, "gives 4 scores, but classes= names 2 classes"),
        ({"size": 8, "channels": 3}, r"cannot be called with float32 \[8, 3, 8, 8\]"),
    ],
)
def test_what_does_not_fit_is_one_sentence(given: dict[str, object], said: str) -> None:
    with pytest.raises(PetechiaError, match=said):
        petechia.open_model(Means(), device="cpu", threads=1, **given)  # type: ignore[arg-type]


def test_petechias_own_model_needs_no_further_word() -> None:
    own = create(Architecture(arch="test_resnet"), ("A", "B"), Preprocess(size=32), 0)
    model = petechia.open_model(own, device="cpu", threads=1)
    assert model.classes == ("A", "B")
    assert model.network is not own


def test_arrays_are_a_dataset() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 10, 12), dtype=np.uint8)
    labels = [[1, 0], [0, 1], [0, 0], [1, 1], [-1, 0], [0, 1]]
    catalog = petechia.open_dataset(images, labels, classes=("A", "B"), patients=list("xxyyzz"))
    assert catalog.classes == ("A", "B")
    assert catalog.labels.tolist() == labels
    assert all(len(set(catalog.split[catalog.patients == patient])) == 1 for patient in "xyz")
    read = [one for one in catalog.reader.read(np.array([3, 0])) if not isinstance(one, PetechiaError)]
    assert np.array_equal(np.stack(read), images[[3, 0]])
    assert petechia.open_dataset(catalog) is catalog
    changed = images.copy()
    changed[2, 3, 4] ^= 1
    assert petechia.open_dataset(changed).reader.fingerprint() != catalog.reader.fingerprint()


def test_images_of_pytorch_are_taken_too() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3), dtype=np.uint8)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    (first, second) = petechia.open_dataset(tensor).reader.read(np.arange(2))
    assert np.array_equal(np.stack([first, second]), images)  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("images", "given", "said"),
    [
        (np.zeros((3, 4)), {}, r"The images have the shape \[3, 4\]; give \[N, H, W\]"),
        (np.full((1, 4, 4), 2.0), {}, "float64 from 2 to 2; give uint8 in 0…255, or floating point in 0…1"),
        (np.zeros((2, 4, 4)), {"labels": [[1, 0]]}, r"labels are \[1, 2\] for 2 images"),
        (np.zeros((1, 4, 4)), {"labels": [[2]]}, r"give \[1, classes\] of 1 \(present\)"),
        (np.zeros((1, 4, 4)), {"labels": [[1]], "classes": ("A", "B")}, "classes has 2 names for 1 columns"),
        (np.zeros((2, 4, 4)), {"ids": ("a", "a")}, "with distinct ids"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(images: object, given: dict[str, object], said: str) -> None:
    with pytest.raises(PetechiaError, match=said):
        petechia.open_dataset(images, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"task": "multiclass"}, "task: Input should be 'multi-label' or 'multi-class'"),
        ({"outputs": "logit"}, "outputs: Input should be"),
        ({"resample": "cubic"}, "resample: Input should be"),
        ({"precision": "fp8"}, "precision: Input should be"),
    ],
)
def test_a_wrong_argument_is_one_sentence(given: dict[str, object], said: str) -> None:
    with pytest.raises(PetechiaError, match=said) as raised:
        petechia.open_model(Means(), size=8, **given)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


def test_a_state_dict_is_no_model() -> None:
    with pytest.raises(PetechiaError, match="This is a state dict"):
        petechia.open_model(Means().state_dict(), size=8)  # type: ignore[arg-type]


def test_images_in_memory_are_explained(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32), dtype=np.uint8)
    own = petechia.open_model(
        create(Architecture(arch="test_resnet"), ("A", "B"), Preprocess(size=32), 0), device="cpu", threads=1
    )
    found = petechia.explain(own, images, targets=["B"], layers=["last"])
    assert [one.file for one in found.images] == ["image_1", "image_2"]
    assert {path.name for path in found.save(tmp_path / "out").iterdir()} == {
        "explanations.json", "image_1-B-last.npy", "image_1-B-last.png", "image_2-B-last.npy", "image_2-B-last.png",
    }  # fmt: skip
    again = type(found).load(tmp_path / "out")
    assert again == found


def test_a_calibration_grows_and_is_what_an_audit_compares_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    images = np.clip(rng.normal(120, 30, (30, 1, 1)) + rng.normal(0, 10, (30, 32, 32)), 0, 255).astype(np.uint8)
    files = [tmp_path / f"{seed}.safetensors" for seed in range(3)]
    for seed, file in enumerate(files):
        create(Architecture(arch="test_resnet"), tuple("ABCDE"), Preprocess(size=32), seed).save(file)
    asked: list[str] = []
    monkeypatch.setattr(api, "measure_model", lambda model, *given: asked.append(model.name) or measure_model(model, *given))  # type: ignore[func-returns-value]
    out = tmp_path / "null.json"
    settings: dict[str, Any] = {"out": out, "quick": True, "device": "cpu", "threads": 1}
    petechia.calibrate(files[:2], images, **settings)
    grown = petechia.calibrate(files, images, **settings)
    assert asked == [str(file) for file in files]  # none twice
    assert Calibration.load(out) == grown
    assert [one["name"] for one in grown.values["models"]] == ["0.safetensors", "1.safetensors", "2.safetensors"]
    audit = petechia.audit(files[0], images, quick=True, calibration=out, device="cpu", threads=1)
    assert audit.compared == 3
    assert audit.level == pytest.approx(1 / 4)
    assert "3 clean models of 5 classes for images of 32 pixels a side" in audit.limits
    asking: dict[str, Any] = {"quick": True, "calibration": out, "device": "cpu", "threads": 1}
    update = petechia.audit(files[0], images, baseline=files[0], reference=files[1], **asking)
    assert (update.outcome, update.baseline, update.compared) == ("nothing", files[0].name, 3)
    assert "No new backdoor was found" in update.verdict
    assert all(one.natural is not None for one in update.classes)
    with pytest.raises(PetechiaError, match="better 60; there is 1"):
        petechia.calibrate(files[:1], images, quick=True, device="cpu", threads=1)


def test_clean_models_of_few_classes_are_not_measured_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 32, 32), dtype=np.uint8)
    files = [tmp_path / f"{seed}.safetensors" for seed in range(2)]
    for seed, file in enumerate(files):
        create(Architecture(arch="test_resnet"), ("sick", "well"), Preprocess(size=32), seed).save(file)
    petechia.calibrate(files, images, tmp_path / "null.json", device="cpu", threads=1)
    monkeypatch.setattr(api, "measure_model", lambda *_: pytest.fail("it was measured before"))
    again = petechia.calibrate(files, images, tmp_path / "null.json", device="cpu", threads=1)
    assert [len(one["leads"]) for one in again.values["models"]] == [2, 2]


def test_scan_audit_and_screen_take_what_is_in_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = np.clip(rng.normal(120, 30, (60, 1, 1)) + rng.normal(0, 10, (60, 32, 32)), 0, 255).astype(np.uint8)
    model = petechia.open_model(Means(), classes="ABCD", size=32, device="cpu", precision="fp32", threads=1)
    audit = petechia.audit(model, images, images=24, quick=True)
    assert not audit.backdoor
    assert "Finding nothing does not prove" in str(audit)
    assert audit.limits.split(".")[0] in audit._repr_html_()
    assert {"audit.json", "report.html"} <= {path.name for path in audit.save(tmp_path / "audit").iterdir()}
    screen = petechia.screen(model, images[:3], images[3:], fpr=0.05)
    assert [one.id for one in screen.images] == ["1", "2", "3"]
    scan = petechia.scan(images)
    assert scan.images == 60
    assert len(scan.findings) == 60
