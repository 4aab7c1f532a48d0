from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from petechia.cli.commands import app
from petechia.data import Preprocess
from petechia.data.preprocess import Box
from petechia.detect.screen.files import in_file, picture
from tests.detect.screen.conftest import ByHand, opened, stamped

Images = NDArray[np.uint8]


@pytest.mark.parametrize("resample", ["nearest", "bilinear", "area"])
def test_a_box_in_the_file_holds_what_the_box_in_the_input_shows(resample: str) -> None:
    preprocess = Preprocess(crop=0.6, size=32, resample=resample)
    image = np.zeros((150, 210), np.uint8)
    kept = preprocess.kept(150, 210)
    box = Box(5, 20, 3, 4)
    top, left, height, width = in_file(box, preprocess, 150, 210)
    image[top : top + height, left : left + width] = 255
    assert (preprocess(image)[5:8, 20:24] > 200).all()
    assert kept.top <= top
    assert left + width <= kept.left + kept.width
    assert height <= 3 * kept.height / 32 + 2


def test_without_crop_and_scaling_both_boxes_are_one() -> None:
    assert in_file(Box(3, 4, 5, 6), Preprocess(size=64), 64, 64) == Box(3, 4, 5, 6)


@pytest.mark.parametrize("box", [Box(10, 12, 3, 4), Box(0, 0, 32, 32), Box(30, 0, 2, 2), Box(0, 0, 0, 0)])
def test_the_picture_frames_the_box_and_changes_nothing_else(box: Box) -> None:
    image = np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8)
    found = picture(image, box)
    assert found.shape == (512, 1024, 3)
    whole = found[8:512:16, 8:512:16]  # the centre of every pixel of the input
    assert (whole == image[..., None]).all()
    red = (found[:, :512] == (255, 64, 64)).all(axis=2)
    assert red.any() == (box != Box(0, 0, 32, 32))
    assert not red[box.top * 16 : (box.top + box.height) * 16, box.left * 16 : (box.left + box.width) * 16].any()


@pytest.fixture
def folders(tmp_path: Path, draw: Callable[[int, int], Images], monkeypatch: pytest.MonkeyPatch) -> Path:
    """clean/ with 40 images, given/ with three, the second of them triggered; and a model file."""
    given = draw(3, 1)
    given[1:2] = stamped(given[1:2], 14, 20)
    for name, images in (("clean", draw(40, 0)), ("given", given), ("innocent", draw(3, 2)[1:])):
        (tmp_path / name).mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{number:02d}.png")
    monkeypatch.setattr("petechia.api.open_classifier", lambda _name, _machine: opened(ByHand()))
    return tmp_path


def _screen(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["screen", *map(str, arguments)], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_the_command_flags_and_writes(folders: Path) -> None:
    out = folders / "out"
    status, said = _screen("model", folders / "given", "--clean", folders / "clean", "--fpr", 0.025, "--out", out)
    assert status == 3, said
    assert "1 of 3 images" in said
    assert "not proven clean" in said
    content = json.loads((out / "screen.json").read_text())
    found = content["images"][1]
    assert [image["flagged"] for image in content["images"]] == [False, True, False]
    assert (content["false_positive_rate"], content["clean_images"], found["class"]) == (0.025, 40, "Target")
    assert found["p_value"] == pytest.approx(1 / 41)
    assert found["box"] == found["box_in_file"]
    assert {(14, 20, 0), (16, 22, 0)} & {(one["row"], one["column"], one["value"]) for one in found["pixels"]}
    table = pl.read_csv(out / "screen.csv")
    assert table["flagged"].to_list() == [False, True, False]
    assert table["suspicion"].to_list() == pytest.approx([image["suspicion"] for image in content["images"]])
    assert sorted(file.name for file in out.iterdir()) == ["2.png", "screen.csv", "screen.json"]
    assert Image.open(out / "2.png").size == (1024, 512)


def test_nothing_flagged_is_status_0(folders: Path) -> None:
    status, said = _screen("model", folders / "innocent", "--clean", folders / "clean", "--fpr", 0.025)
    assert status == 0, said
    assert "None of 2 images is flagged" in said
    assert "not proven clean" in said


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--fpr", 0.001), "40 clean images cannot set a threshold"),
        (("--fpr", 0.025, "--target", "Mass"), "'Mass' is not a class"),
        (("--fpr", 0.025, "--out", "."), "exists already"),
    ],
)
def test_what_cannot_be_done_is_status_1(folders: Path, options: tuple[object, ...], sentence: str) -> None:
    status, said = _screen("model", folders / "given", "--clean", folders / "clean", *options)
    assert status == 1
    assert sentence in " ".join(said.split())
