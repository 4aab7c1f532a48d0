import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.uid import SegmentationStorage
from torch import nn

import petechia
from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute
from petechia.data import Preprocess
from petechia.data.formats.images import encode_png
from petechia.data.not_read import Reason
from petechia.models.model import Architecture, Model, create
from petechia.models.openers import open_classifier
from petechia.saliency import cam, occlusion, rise
from petechia.saliency.files import Request, explain_files
from petechia.saliency.overlays import coloured, enlarged, overlay
from tests.data.formats.test_dicom import RAMP, made, written
from tests.data.sources.test_dicom_volumes import frames_of
from tests.saliency.test_activation_maps import CLASSES, network

GREY = np.random.default_rng(0).integers(0, 256, (100, 120), dtype=np.uint8)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = network("test_resnet")
    model.description = model.description.model_copy(update={"preprocess": Preprocess(crop=0.8, size=64)})
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model.save(path)
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(encode_png(GREY))
    return path


def make(model: Path, images: list[Path], out: Path, **request: Any) -> dict[str, Any]:
    runtime = Compute(threads=1, device="cpu", precision="fp32").start()
    return explain_files(open_classifier(str(model), runtime), images, out, Request(**request)).to_dict()


def test_what_is_written_is_what_the_model_says(model_file: Path, image: Path, tmp_path: Path) -> None:
    content = make(model_file, [image], tmp_path / "out", targets=("B", "C"))
    assert content == json.loads((tmp_path / "out" / "explanations.json").read_text())
    model = Model.load(model_file).eval()
    batch = torch.from_numpy(Preprocess(crop=0.8, size=64)(GREY)).float()[None, None] / 255
    (one,) = content["images"]
    assert np.allclose(list(one["scores"].values()), model(batch)[0].sigmoid().tolist(), atol=1e-6)
    truth = cam(model, batch, [[1, 2]])
    for row, explained in enumerate(one["explained"]):
        assert explained["class"] == CLASSES[1 + row]
        for layer, said in explained["layers"].items():
            stored = np.load(tmp_path / "out" / said["map"])
            assert np.allclose(stored, truth[layer][0, row], atol=1e-6)
            assert said["hottest"] == pytest.approx(stored.max())
            r, c = np.unravel_index(stored.argmax(), stored.shape)
            height, width = stored.shape  # the crop keeps 80 x 96 pixels from row 10, column 12 on
            assert said["peak"] == {"row": 10 + (r + 0.5) / height * 80, "column": 12 + (c + 0.5) / width * 96}
            picture = np.asarray(Image.open(tmp_path / "out" / said["overlay"]))
            assert np.array_equal(picture[10:90, 12:108], overlay(GREY[10:90, 12:108], stored))
            assert np.array_equal(picture[:10, :, 0], GREY[:10])


def test_without_targets_the_highest_class_is_explained(model_file: Path, image: Path, tmp_path: Path) -> None:
    (one,) = make(model_file, [image], tmp_path / "out", layers=("last",))["images"]
    (explained,) = one["explained"]
    assert explained["score"] == max(one["scores"].values()) == one["scores"][explained["class"]]
    assert list(explained["layers"]) == ["last"]


@pytest.mark.parametrize("method", ["occlusion", "rise"])
def test_black_boxes_are_explained_by_their_input(model_file: Path, image: Path, tmp_path: Path, method: str) -> None:
    (one,) = make(model_file, [image], tmp_path / "out", targets=("B",), method=method)["images"]
    stored = np.load(tmp_path / "out" / one["explained"][0]["layers"]["input"]["map"])
    model = Model.load(model_file).eval()
    batch = torch.from_numpy(Preprocess(crop=0.8, size=64)(GREY)).float()[None, None] / 255
    arguments = lambda x: model(x).sigmoid(), batch, torch.tensor([1])
    truth = rise(*arguments) if method == "rise" else occlusion(*arguments, 8, 4, float(batch.mean()))
    assert np.allclose(stored, truth[0], atol=1e-5)


def test_dicom_in_and_secondary_capture_out(model_file: Path, image: Path, tmp_path: Path) -> None:
    source = made(RAMP, PatientID="17", StudyInstanceUID="1.2.3.4")
    (tmp_path / "a.dcm").write_bytes(written(source))
    content = make(model_file, [tmp_path / "a.dcm", image], tmp_path / "out", targets=("B",), layers=("last",), dicom=True)
    assert [one["explained"][0]["layers"]["last"]["map"] for one in content["images"]] == ["a-B-last.npy", "a-2-B-last.npy"]
    with_source, without = (pydicom.dcmread(tmp_path / "out" / f"{name}-B-last.dcm") for name in ("a", "a-2"))
    assert with_source.PatientID == "17"
    assert with_source.DerivationDescription.startswith("gradcam of layer last for class B, score 0.")
    assert np.array_equal(with_source.pixel_array, np.asarray(Image.open(tmp_path / "out" / "a-B-last.png")))
    assert not without.PatientID


def test_an_image_without_heat_has_a_note_and_a_map_of_0(image: Path, tmp_path: Path) -> None:
    model = create(Architecture(arch="test_resnet"), CLASSES, Preprocess(size=64), 0)
    torch.nn.init.zeros_(model.network.get_parameter("fc.weight"))
    model.save(tmp_path / "m.safetensors")
    (one,) = make(tmp_path / "m.safetensors", [image], tmp_path / "out", layers=("last",))["images"]
    said = one["explained"][0]["layers"]["last"]
    assert said["peak"] is None
    assert said["note"].startswith("No heat")
    assert not np.load(tmp_path / "out" / said["map"]).any()
    assert "NaN" not in (tmp_path / "out" / "explanations.json").read_text()


def test_a_network_that_answers_nan_is_not_explained(image: Path, tmp_path: Path) -> None:
    model = create(Architecture(arch="test_resnet"), CLASSES, Preprocess(size=64), 0)
    torch.nn.init.constant_(model.network.get_parameter("fc.weight"), float("nan"))
    model.save(tmp_path / "m.safetensors")
    for method in ("gradcam", "occlusion"):
        with pytest.raises(PetechiaError, match="NaN or infinity|what is no number"):
            make(tmp_path / "m.safetensors", [image], tmp_path / "out", method=method)
    assert not (tmp_path / "out").exists()


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("sprung"),)


def test_bad_input_is_a_sentence_and_leaves_nothing(
    model_file: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trap.safetensors").write_bytes(pickle.dumps(Trap()))
    torch.save({"weights": Trap()}, tmp_path / "trap.pt")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "there").mkdir()
    out = tmp_path / "out"
    cases: list[tuple[str, dict[str, Any]]] = [
        ("not a safetensors file", {"model": tmp_path / "trap.safetensors"}),
        ("is a pickle, which can run arbitrary code", {"model": tmp_path / "trap.pt"}),
        ("is a folder, not a model; give a .safetensors, .onnx", {"model": tmp_path}),
        ("text.png is not a PNG, JPEG or TIFF image", {"images": [image, tmp_path / "text.png"]}),
        ("gone.png cannot be read", {"images": [tmp_path / "gone.png"]}),
        ("has no class 'X'; its classes are A, B, C", {"targets": ("X",)}),
        ("has no layer 'lst'; near names: last", {"layers": ("lst",)}),
        ("'cam' is not a method", {"method": "cam"}),
        ("exists already", {"out": tmp_path / "there"}),
    ]
    for sentence, changes in cases:
        given: dict[str, Any] = {"model": model_file, "images": [image], "out": out} | changes
        with pytest.raises(PetechiaError, match=sentence):
            make(**given)
        assert not out.exists()
    assert not (tmp_path / "sprung").exists()


def test_colours_by_hand() -> None:
    heat = np.array([[0, 1], [2, 4]], np.float32)
    assert np.allclose(coloured(heat)[..., 3], [[0, 0.175], [0.35, 0.7]])
    assert not coloured(0 * heat).any()
    assert np.allclose(enlarged(heat, 2, 2), heat)
    assert enlarged(heat, 5, 7).shape == (5, 7)
    image = np.full((2, 2), 100, np.uint8)
    assert overlay(image, heat)[0, 0].tolist() == [100, 100, 100]
    assert np.array_equal(overlay(image, 0 * heat), np.full((2, 2, 3), 100))
    bright = overlay(image, heat).astype(int).sum(axis=2)
    assert bright[1, 1] > bright[0, 0]


def test_classes_whose_names_make_one_file_name_have_a_file_each(image: Path, tmp_path: Path) -> None:
    class Regions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.last = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.last(self.body(images).relu()).abs().mean(dim=(2, 3))
            return found

    classes = ["A/B", "A B", "..", "x" * 300]
    torch.manual_seed(0)
    model = petechia.open_model(Regions().eval(), classes=classes, size=16, outputs="logits")
    found = petechia.explain(model, [image], out=tmp_path / "out", targets=classes)
    (one,) = found.images
    layers = [layer for each in one.explained for layer in each.layers.values()]
    assert len({layer.overlay for layer in layers}) == len(layers)
    for each in one.explained:
        for layer in each.layers.values():
            assert np.load(tmp_path / "out" / layer.map).max() == pytest.approx(layer.hottest, rel=1e-3)


def test_images_of_a_data_source_are_explained(model_file: Path, tmp_path: Path) -> None:
    root = tmp_path / "d"
    root.mkdir()
    about = {"StudyInstanceUID": "1.3.5", "PatientID": "P7"}
    frames = np.stack([GREY, GREY.T.copy().reshape(GREY.shape), 255 - GREY])
    (root / "cine.dcm").write_bytes(written(frames_of(frames, **about)))
    (root / "bad.dcm").write_bytes(written(made(GREY, **about))[:-50])
    (root / "report.dcm").write_bytes(written(frames_of(frames, SOPClassUID=SegmentationStorage)))
    source = f"dicom:{root}"
    found = petechia.explain(model_file, source, targets=["B"], layers=["last"], dicom=True, out=tmp_path / "out")
    assert [one.file for one in found.images] == ["cine.dcm#1", "cine.dcm#2", "cine.dcm#3"]
    assert {one.reason: one.names for one in found.not_read.reasons} == {
        Reason.MASK: ("report.dcm",),
        Reason.DAMAGED: ("bad.dcm",),
    }
    alone = petechia.explain(model_file, frames, targets=["B"], layers=["last"])
    assert [one.scores for one in found.images] == [one.scores for one in alone.images]
    capture = pydicom.dcmread(tmp_path / "out" / "cine.dcm_2-B-last.dcm")
    assert (capture.StudyInstanceUID, capture.PatientID) == ("1.3.5", "P7")
    assert json.loads((tmp_path / "out" / "explanations.json").read_text())["not_read"]["images"] == 2
    (root / "cine.dcm").unlink()
    with pytest.raises(PetechiaError, match="None of the 1 images can be read; the first problem: .*bad.dcm"):
        petechia.explain(model_file, source, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_data_source_is_given_alone(model_file: Path, image: Path, tmp_path: Path) -> None:
    phantoms = "phantom:images=3,size=64"
    with pytest.raises(PetechiaError, match="'phantom:images=3,size=64' is a data source, which is given alone"):
        petechia.explain(model_file, [str(image), phantoms], out=tmp_path / "out")
    with pytest.raises(PetechiaError, match="which is given alone; leave out the others"):
        petechia.screen(model_file, str(image), [phantoms, str(image)])
    with pytest.raises(PetechiaError, match="'nosuch:x.png' is not a data source; use phantom"):
        petechia.explain(model_file, "nosuch:x.png")
    named = image.rename(image.with_name("phantom:a.png"))  # a file comes first
    assert [one.file for one in petechia.explain(model_file, [named, named]).images] == [str(named)] * 2
