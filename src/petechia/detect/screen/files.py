"""What a screen found, as files: every image's suspicion, and a picture of what was found in those that are flagged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from petechia.core.files import building, refuse_existing
from petechia.data.formats.images import encode_png
from petechia.data.levels import in_colour
from petechia.data.preprocess import Box, Preprocess
from petechia.detect.collection import Collection
from petechia.detect.screen.screen import ImageEvidence, Screen

CLEAN = 200  # clean images that are taken at most; they are examined as the others are
SIDE = 512  # pixels of a picture's side, about
MARGIN = 2  # pixels of the input around the box that are shown with it
FRAME = (255, 64, 64)
LIMITS = (
    "An image that is not flagged is not proven clean. What is looked for is a class that stands out because of a small part "
    "of the image. Not found: triggers that cover much of it or are faint everywhere (blended, sinusoidal, warped), triggers "
    "that make the model miss a class, backdoors that hardly took, and attackers who train against a screen like this one. "
    "The clean images must be clean, and of the same kind as the screened ones."
)


def report_of(screen: Screen, given: Collection, evidence: Sequence[ImageEvidence]) -> dict[str, Any]:
    """What screen.json holds; images in the order in which they were given."""
    preprocess = screen.classifier.preprocess
    return {
        "schema": 1,
        "model": screen.classifier.name,
        "black_box": screen.classifier.network is None,
        "clean_images": len(screen.reference.images),
        "false_positive_rate": screen.calibration.fpr,
        "threshold": screen.calibration.threshold,
        "weights": screen.calibration.weights,
        "flagged": sum(one.flagged for one in evidence),
        "warnings": list(screen.warnings),
        "limits": LIMITS,
        "images": [
            _image(name, image, one, preprocess, (int(height), int(width)))
            for name, image, one, (height, width) in zip(given.ids, given.images, evidence, given.shapes, strict=True)
        ],
    }


def _image(
    name: str, image: NDArray[np.uint8], one: ImageEvidence, preprocess: Preprocess, shape: tuple[int, int]
) -> dict[str, Any]:
    rows, columns = np.nonzero(one.pixels)
    return {
        "id": name,
        "suspicion": one.suspicion,
        "p_value": one.p_value,
        "flagged": one.flagged,
        "class": one.name,
        "box": one.box._asdict(),
        "box_in_file": in_file(one.box, preprocess, *shape)._asdict(),
        "pixels": [
            {"row": int(row), "column": int(column), "value": image[row, column].tolist()}
            for row, column in zip(rows, columns, strict=True)
        ],
        "parts": one.parts,
    }


def in_file(box: Box, preprocess: Preprocess, height: int, width: int) -> Box:
    """The part of an image of height x width pixels that a box of the model's input comes from."""
    kept = preprocess.kept(height, width)
    top, bottom = _stretch(box.top, box.height, kept.height / preprocess.size)
    left, right = _stretch(box.left, box.width, kept.width / preprocess.size)
    return Box(kept.top + top, kept.left + left, bottom - top, right - left)


def _stretch(start: int, extent: int, scale: float) -> tuple[int, int]:
    return int(np.floor(start * scale)), int(np.ceil((start + extent) * scale))


def write_screen(report: dict[str, Any], given: Collection, evidence: Sequence[ImageEvidence], folder: Path) -> None:
    """Write screen.json, screen.csv and, of every flagged image, NUMBER.png into a new folder.

    The number is the image's place in the files, from 1. The picture shows the image as the model gets it with the box, and
    beside it the box enlarged.

    Raises:
        PetechiaError: the folder exists.
    """
    refuse_existing(folder)
    with building(folder) as temporary:
        (temporary / "screen.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        table_of(report).write_csv(temporary / "screen.csv")
        for number, (image, one) in enumerate(zip(given.images, evidence, strict=True), 1):
            if one.flagged:
                (temporary / f"{number}.png").write_bytes(encode_png(picture(image, one.box)))


def table_of(report: dict[str, Any]) -> pl.DataFrame:
    """One row an image: id, suspicion, p_value, flagged, class, the box in both scales, and the parts."""
    return pl.DataFrame(
        [
            {name: image[name] for name in ("id", "suspicion", "p_value", "flagged", "class")}
            | image["box"]
            | {f"file_{name}": value for name, value in image["box_in_file"].items()}
            | image["parts"]
            for image in report["images"]
        ]
    )


def picture(image: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """An image, grey or in colour, with a frame around the box, and beside it the box with its margin; uint8 [h, w, 3]."""
    size = len(image)
    scale = max(1, SIDE // size)
    top, left = max(box.top - MARGIN, 0), max(box.left - MARGIN, 0)
    crop = image[top : box.top + box.height + MARGIN, left : box.left + box.width + MARGIN]
    whole = _enlarged(image, scale)
    bottom, right = ((start + extent) * scale for start, extent in ((box.top, box.height), (box.left, box.width)))
    rows = slice(max(box.top * scale - 2, 0), bottom + 2)
    columns = slice(max(box.left * scale - 2, 0), right + 2)
    inside = whole[box.top * scale : bottom, box.left * scale : right].copy()
    whole[rows, columns] = FRAME
    whole[box.top * scale : bottom, box.left * scale : right] = inside
    near = _enlarged(crop, max(1, len(whole) // max(crop.shape[:2])))
    beside = np.zeros((len(whole), len(whole), 3), np.uint8)
    beside[: near.shape[0], : near.shape[1]] = near
    return np.concatenate([whole, beside], axis=1)


def _enlarged(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    return in_colour(image.repeat(scale, axis=0).repeat(scale, axis=1))
