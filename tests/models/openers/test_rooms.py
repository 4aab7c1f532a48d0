"""Models of others, and colour models, in every function that takes any model."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from petechia.cli.commands import app
from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute
from petechia.data import Preprocess
from petechia.detect.audit import AuditResult, Origin, examine_model
from petechia.detect.collection import read_collection
from petechia.detect.repair import read_clean
from petechia.models.model import Model
from petechia.models.openers import open_classifier
from petechia.reports.audit import attach_report
from petechia.saliency import cam
from petechia.saliency.files import Request, explain_files
from petechia.saliency.overlays import overlay
from petechia.viewer.subject import Subject
from tests.conftest import unasked
from tests.models.openers.test_openers import write_onnx
from tests.viewer.conftest import client_of

RUNTIME = Compute(device="cpu", precision="fp32", threads=1).start()
Images = NDArray[np.uint8]
COLOURS = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)


@pytest.fixture(scope="module")
def of_timm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A timm network for colour images, with weights from a file."""
    folder = tmp_path_factory.mktemp("timm")
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=3, in_chans=3)
    save_file(network.state_dict(), folder / "m.safetensors")
    (folder / "m.json").write_text(json.dumps({"classes": ["A", "B", "C"], "preprocess": {"size": 32, "crop": 1}}))
    return f"timm:test_resnet:{folder / 'm.safetensors'}"


def folder_of(path: Path, images: Images) -> Path:
    path.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(path / f"{number:02d}.png")
    return path


def as_seen(image: Images) -> Tensor:
    """A model's input of 32 × 32 pixels for an image, float32 [1, 3, 32, 32]."""
    seen = Preprocess(size=32, resample="bilinear")(image)
    return torch.from_numpy(seen).permute(2, 0, 1)[None].float() / 255


def test_colours_are_kept_for_who_takes_them(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images", np.stack([COLOURS, np.repeat(COLOURS[..., :1], 3, axis=2)]))
    Image.fromarray(COLOURS[..., 0]).save(folder / "grey.png")
    grey, coloured = (read_collection([str(folder)], unasked("A", size=32, colour=colour)).images for colour in (False, True))
    assert grey.shape == (3, 32, 32)
    assert coloured.shape == (3, 32, 32, 3)
    assert np.array_equal(coloured[0], unasked("A", size=32).preprocess(COLOURS))
    assert np.array_equal(coloured[1], coloured[2])  # a grey image is repeated
    (folder / "labels.csv").write_text("image,A,B\n00.png,1,0\n01.png,0,1\ngrey.png,0,0\n")
    for source in (f"folder:{folder / 'labels.csv'},colour=true", f"folder:{folder / 'labels.csv'}"):
        for wants in (False, True):
            model = unasked("A", "B", size=32, colour=wants)
            for images in (read_collection([source], model).images, read_clean(source, model).images):
                assert images.shape[1:] in (((32, 32), (32, 32, 3)) if wants else ((32, 32),))
    both = read_clean(f"folder:{folder / 'labels.csv'},colour=true", unasked("A", "B", size=32, colour=True)).images
    assert np.array_equal(both[np.arange(3)], coloured)


def test_explaining_a_network_of_others_in_colour(of_timm: str, tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    opened = open_classifier(of_timm, RUNTIME)
    content = explain_files(opened, [tmp_path / "a.png"], tmp_path / "out", Request(("B",), ("last",))).to_dict()
    network = open_classifier(of_timm, RUNTIME).require_network()
    truth = cam(network, as_seen(COLOURS), 1, ["last"])["last"][0].numpy()
    said = content["images"][0]["explained"][0]
    stored = np.load(tmp_path / "out" / said["layers"]["last"]["map"])
    np.testing.assert_allclose(stored, truth, atol=1e-6)
    assert said["score"] == pytest.approx(float(network(as_seen(COLOURS))[0, 1].sigmoid()), abs=1e-6)
    picture = np.asarray(Image.open(tmp_path / "out" / said["layers"]["last"]["overlay"]))
    assert np.array_equal(picture, overlay(COLOURS, stored))
    assert content["model"] == {"name": "timm:test_resnet:m.safetensors"} | content["model"]


def test_a_black_box_is_explained_by_what_is_covered(tmp_path: Path) -> None:
    weights = np.zeros((64, 1), np.float32)
    weights[9] = 8  # row 1, column 1 alone counts
    path = write_onnx(tmp_path / "m.onnx", weights=weights)
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(tmp_path / "a.png")
    asked = (open_classifier(str(path), RUNTIME), [tmp_path / "a.png"], tmp_path / "out")
    with pytest.raises(PetechiaError, match=r"m.onnx is a black box, without layers .* --method occlusion or rise"):
        explain_files(*asked, Request())
    assert not (tmp_path / "out").exists()
    (tmp_path / "b.png").write_bytes(b"")
    dark = np.full((8, 8), 255, np.uint8)
    dark[5:] = 0  # so that the mean, which covers, is not white
    Image.fromarray(dark).save(tmp_path / "a.png")
    content = explain_files(*asked, Request(method="occlusion")).to_dict()
    peak = content["images"][0]["explained"][0]["layers"]["input"]["peak"]
    assert max(abs(peak["row"] - 1.5), abs(peak["column"] - 1.5)) <= 1


def test_the_viewer_shows_colours_and_asks_the_network_of_others(of_timm: str, tmp_path: Path) -> None:
    subject = Subject(of_timm, RUNTIME)
    client = client_of(subject)
    assert client.get("/api/session").json()["classes"] == ["A", "B", "C"]
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    Image.fromarray(np.repeat(COLOURS[..., :1], 3, axis=2)).save(tmp_path / "grey.png")
    found = client.post("/api/images", content=(tmp_path / "a.png").read_bytes()).json()
    assert found["colour"]
    shown = np.frombuffer(client.get(f"/api/images/{found['image']}/levels").content, np.uint8)
    assert np.array_equal(shown.reshape(COLOURS.shape), COLOURS)
    question = {"image": found["image"], "arm": "model", "seed": 0, "epoch": 0, "target": 2}
    stamp = {"row": 5, "column": 6, "size": 4, "value": 0}
    answer = client.post("/api/explain", json=question | {"stamps": [stamp]}).json()
    network = open_classifier(of_timm, RUNTIME).require_network()
    triggered = COLOURS.copy()
    triggered[5:9, 6:10] = 0
    for scores, image in zip(answer["scores"], (COLOURS, triggered), strict=True):
        np.testing.assert_allclose(scores, network(as_seen(image))[0].sigmoid().tolist(), atol=2e-5)
    assert answer["changed"] == int((as_seen(COLOURS) != as_seen(triggered))[0].any(dim=0).sum())
    grey = client.post("/api/images", content=(tmp_path / "grey.png").read_bytes()).json()
    assert not grey["colour"]
    assert len(client.get(f"/api/images/{grey['image']}/levels").content) == 2 * 40 * 48
    answer = client.post("/api/explain", json=question | {"image": grey["image"]}).json()
    wanted = network(as_seen(np.repeat(COLOURS[..., :1], 3, axis=2)))[0].sigmoid().tolist()
    np.testing.assert_allclose(answer["scores"][0], wanted, atol=2e-5)


def test_the_viewer_refuses_a_black_box(tmp_path: Path) -> None:
    with pytest.raises(PetechiaError, match=r"m.onnx is a black box: .* or petechia screen, which work with scores alone"):
        Subject(write_onnx(tmp_path / "m.onnx"), RUNTIME)


def test_repairing_a_network_of_timm(of_timm: str, tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (160, 32, 32, 3), np.uint8)
    clean, out = folder_of(tmp_path / "clean", images), tmp_path / "repaired.safetensors"
    stamp = "class=B,row=3,column=4,size=3,value=0"
    command = ["repair", of_timm, "--clean", str(clean), "--stamp", stamp, "--epochs", "1", "--out", str(out)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    description = Model.load(out).description
    assert description.architecture.channels == 3
    assert description.classes == ("A", "B", "C")
    weights = Path(of_timm.rpartition(":")[2])
    told = {"file": "timm:test_resnet:m.safetensors", "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    record = out.with_suffix(".repair.json").read_text()
    assert json.loads(record)["model"] == told
    assert json.loads(record)["clean"] == "clean"
    assert str(tmp_path) not in record
    refused = CliRunner().invoke(
        app, ["repair", write_onnx(tmp_path / "m.onnx"), *command[2:-1], str(tmp_path / "b.safetensors")]
    )
    assert refused.exit_code == 1
    assert "m.onnx cannot be trained further" in " ".join(refused.output.split())


def test_an_audit_in_colour_has_a_report(of_timm: str, tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (24, 32, 32, 3), np.uint8)
    found = examine_model(open_classifier(of_timm, RUNTIME), images, quick=False)
    assert found.picture.shape == (32, 32, 3)
    result = AuditResult.of(found, Origin(of_timm, None, "here"))
    attach_report(result)
    result.save(tmp_path / "out")
    assert "data:image/png" in (tmp_path / "out" / "report.html").read_text()
