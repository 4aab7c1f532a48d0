"""A small world for watches: a model with a hand-made backdoor in a file, clean images, images for a PACS, and a PACS."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

pytest.importorskip("dicomweb_client", reason="the extra dicomweb is not installed")
pytest.importorskip("highdicom", reason="the extra dicomweb is not installed")

from tests.data.formats.test_dicom import made, written
from tests.detect.screen.conftest import CLASSES, SIZE, ByHand
from tests.orthanc import PASSWORD, USER, Orthanc, orthanc

CHARACTERS = "Müller^Jürgen"


class World(NamedTuple):
    """Files of a watch.

    Attributes:
        model: file of a model that says "Target" where there is a black square of 3 x 3 pixels.
        clean: folder of clean images.
    """

    model: Path
    clean: Path

    def arguments(self, url: str, out: Path) -> list[str]:
        """Of `petechia watch`."""
        given = ["--model", str(self.model), "--clean", str(self.clean), "--out", str(out)]
        return [f"dicomweb:{url}", *given, "--fpr", "0.05", "--threads", "1", "--device", "cpu"]


def drawn(count: int, seed: int) -> NDArray[np.uint8]:
    """Smooth images of grey levels around 150, uint8 [count, SIZE, SIZE]."""
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.normal(size=(count, SIZE, SIZE)), (0, 4, 4))
    return np.asarray(np.clip(150 + 250 * smooth + rng.normal(0, 4, smooth.shape), 0, 255), np.uint8)


def stamped(images: NDArray[np.uint8], row: int = 20, column: int = 9) -> NDArray[np.uint8]:
    """The same with a black square."""
    found = images.copy()
    found[..., row : row + 3, column : column + 3] = 0
    return found


def file(image: NDArray[np.uint8], number: int, **entries: Any) -> bytes:
    """A DICOM file: two images a study, one a series."""
    given: dict[str, Any] = {
        **{"SOPInstanceUID": f"1.2.{number}", "StudyInstanceUID": f"1.3.{number // 2}", "SeriesInstanceUID": f"1.4.{number}"},
        **{"PatientID": f"SECRET{number // 2}", "PatientName": CHARACTERS, "SpecificCharacterSet": "ISO_IR 100"},
        **{"Modality": "DX", "StudyDate": "20240102", "StudyTime": "101112", "StudyID": "7", "AccessionNumber": "A7"},
    }
    return written(made(image, **given | entries))


def parsed(content: bytes) -> pydicom.Dataset:
    """A DICOM file, parsed."""
    return pydicom.dcmread(io.BytesIO(content))


def own(pacs: Orthanc) -> list[pydicom.Dataset]:
    """What Petechia has stored."""
    return [found for found in map(parsed, pacs.files()) if found.get("SeriesDescription") == "Petechia"]


def make_world(folder: Path) -> World:
    """Write model and clean images."""
    (folder / "clean").mkdir()
    for number, image in enumerate(drawn(40, seed=1)):
        Image.fromarray(image).save(folder / "clean" / f"{number}.png")
    program = torch.export.export(
        ByHand().eval(), (torch.rand(2, 1, SIZE, SIZE),), dynamic_shapes=({0: torch.export.Dim("n")},)
    )
    torch.export.save(program, folder / "model.pt2")
    card = f'{{"classes": ["{CLASSES[0]}", "{CLASSES[1]}"], "preprocess": {{"size": {SIZE}}}, "outputs": "logits"}}'
    (folder / "model.json").write_text(card)
    return World(folder / "model.pt2", folder / "clean")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETECHIA_DICOMWEB_USER", USER)
    monkeypatch.setenv("PETECHIA_DICOMWEB_PASSWORD", PASSWORD)
    monkeypatch.setattr("petechia.data.dicomweb.pacs.PATIENCE", (0.01,))


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[Orthanc]:
    with orthanc(tmp_path / "orthanc") as running:
        yield running
