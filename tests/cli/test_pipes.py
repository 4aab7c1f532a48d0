"""A pipe or a device is refused at once wherever a path is given: a reader could wait on it for ever."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from petechia.cli.commands import app
from petechia.data.preprocess import Preprocess
from petechia.models.model import Architecture, create

PATIENCE = 20  # seconds, for all that is not waiting

# What is given, and where the pipe lies; MODEL and IMAGE are fine.
PLACES = {
    "safetensors": ("explain p.safetensors IMAGE --out o", "p.safetensors"),
    "ONNX": ("explain p.onnx IMAGE --out o", "p.onnx"),
    "a program": ("explain p.pt2 IMAGE --out o", "p.pt2"),
    "weights": ("explain timm:test_resnet:p.safetensors IMAGE --out o", "p.safetensors"),
    "a state dict": ("explain timm:test_resnet:p.pth IMAGE --out o", "p.pth"),
    "an image": ("explain MODEL p.png --out o", "p.png"),
    "a DICOM image": ("explain MODEL p.dcm --out o", "p.dcm"),
    "an image to screen": ("screen MODEL p.png --clean . --out o", "p.png"),
    "a table": ("scan folder:p.csv --out o", "p.csv"),
    "a Parquet table": ("scan folder:p.parquet --out o", "p.parquet"),
    "an image of a table": ("scan folder:t.csv --out o", "a.png"),
    "NIH's table": ("scan nih:. --out o", "Data_Entry_2017.csv"),
    "arrays": ("scan medmnist:p.npz --out o", "p.npz"),
    "DICOM": ("scan dicom:p.dcm --out o", "p.dcm"),
    "a DICOMDIR": ("scan dicom:. --out o", "DICOMDIR"),
    "a configuration": ("run p.yaml --out o", "p.yaml"),
    "a design": ("zoo o --design p.yaml", "p.yaml"),
    "triggers": ("repair MODEL --clean . --trigger p.json --out o.safetensors", "p.json"),
    "a calibration": ("audit MODEL --clean . --calibration p.json --out o", "p.json"),
    "a run": ("report . --out o.html", "config.yaml"),
    "a run to serve": ("serve .", "scores"),
    "a study": ("run --resume --out .", "study.json"),
    "a picture of a trigger": ("poison phantom:images=20,size=32 --out o --set attack.trigger.kind=pattern "
                               "--set attack.trigger.image=p.png", "p.png"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("what", ["a pipe", "a device"])
@pytest.mark.parametrize("place", PLACES)
def test_it_is_refused(place: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PETECHIA_CACHE", str(tmp_path / "cache"))
    create(Architecture(arch="test_resnet"), ("A", "B"), Preprocess(size=32), seed=0).save(tmp_path / "model.safetensors")
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "image.png")
    (tmp_path / "t.csv").write_text("image,A\na.png,1\nimage.png,0\n")
    words, name = PLACES[place]
    if what == "a pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to("/dev/zero")
    if place == "a run to serve":
        (tmp_path / "config.yaml").write_text("data: phantom\n")
    result = CliRunner().invoke(app, words.replace("MODEL", "model.safetensors").replace("IMAGE", "image.png").split())
    said = re.sub(r"\s+", " ", result.output)
    assert result.exit_code == 1, said
    assert "it waits" not in said
    assert "Traceback" not in said
    assert said.strip().endswith("."), said
    assert not [path for path in tmp_path.iterdir() if path.name in ("o", "o.html", "o.safetensors")]
