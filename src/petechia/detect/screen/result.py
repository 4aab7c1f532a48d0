"""The result of a screen: how suspicious each image is, and where its trigger would be."""

from __future__ import annotations

from base64 import b64encode
from functools import partial
from html import escape
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from petechia.core.errors import harmless
from petechia.core.results import Number, Record, Result
from petechia.core.spreadsheets import to_csv
from petechia.data.formats.images import encode_png
from petechia.data.not_read import EVERYTHING_READ, NotRead
from petechia.data.preprocess import Box
from petechia.detect.protocol import Finding
from petechia.detect.screen.files import picture

LIMITS = (
    "An image that is not flagged is not proven clean. The screen does not find triggers that make the model miss a class, "
    "backdoors that hardly took, and attacks that were trained to evade a screen like this one. The clean images must be "
    "clean, and of the same kind as the screened images."
)
ROWS, PICTURES = 10, 4  # that a notebook shows, the most suspicious ones


class BoxRecord(Record):
    """A rectangle in pixels."""

    top: int
    left: int
    height: int
    width: int

    @staticmethod
    def of(box: Box) -> BoxRecord:
        """The record of a box."""
        return BoxRecord(top=box.top, left=box.left, height=box.height, width=box.width)


class TriggerPixel(Record):
    """A pixel of the model's input that may belong to a trigger.

    Attributes:
        row: from 0.
        column: from 0.
        value: grey level in 0…255, or red, green and blue.
    """

    row: int
    column: int
    value: int | tuple[int, int, int]


class ScreenedImage(Record):
    """The evidence in one image.

    Attributes:
        id: name of the image.
        suspicion: higher is more suspicious.
        p_value: share of images like the clean ones that would be at least as suspicious.
        flagged: whether the suspicion is above the threshold.
        class_: the class that a trigger would be for; `class` in the file.
        extent: "whole" if the image is flagged for a trigger that lies over all of it, else "part".
        box: where the trigger would be, in pixels of the model's input: all of it if over the whole image; empty where nothing
            stands out.
        box_in_file: the same in pixels of the image's file.
        pixels: the pixels that the trigger would consist of; none if over the whole image.
        parts: name → score of each part of the suspicion; higher is more suspicious.
    """

    id: str
    suspicion: Number
    p_value: Number
    flagged: bool
    class_: str = Field(alias="class")
    extent: Literal["part", "whole"]
    box: BoxRecord
    box_in_file: BoxRecord
    pixels: tuple[TriggerPixel, ...]
    parts: dict[str, Number]


class ScreenResult(Result):
    """Which images may be triggered. File: screen.json, with screen.csv and a picture of every flagged image.

    The pictures are called NUMBER.png, where the number is the image's place in `images`, from 1. A picture shows the image as
    the model gets it, with the box, and beside it the box enlarged; for a trigger over the whole image the detail of the
    image, amplified.

    Attributes:
        model: its name.
        black_box: whether the model was screened without features and gradients.
        clean_images: number of clean images that set the threshold.
        false_positive_rate: share of images like the clean ones that is flagged, at most.
        threshold: the suspicion above which an image is flagged.
        groups: extent of a trigger → the parts that its suspicion is made of; the first limits it. The higher one counts.
        flagged: number of flagged images.
        warnings: sentences about the clean images.
        limits: what the screen does not show.
        images: in the order in which they were given.
        not_read: images that lie beside these and were not read.
        clean_not_read: images that lie beside the clean ones and were not read.
    """

    file_name: ClassVar[str] = "screen.json"

    schema_: int = Field(3, alias="schema")
    model: str
    black_box: bool
    clean_images: int
    false_positive_rate: Number
    threshold: Number
    groups: dict[str, tuple[str, ...]]
    flagged: int
    warnings: tuple[str, ...]
    limits: str = LIMITS
    images: tuple[ScreenedImage, ...]
    not_read: NotRead = EVERYTHING_READ
    clean_not_read: NotRead = EVERYTHING_READ

    def model_post_init(self, context: Any, /) -> None:
        """Attach the table."""
        super().model_post_init(context)
        self.attach("screen.csv", partial(_csv, self))

    def attach_pictures(self, images: NDArray[np.uint8]) -> None:
        """Attach a picture of every flagged image.

        Args:
            images: uint8 [N, H, W] or [N, H, W, 3], the screened images, in the order of `images`.
        """
        for number, (image, one) in enumerate(zip(images, self.images, strict=True), 1):
            if one.flagged:
                self.attach(_picture_name(number), partial(_png, image, one))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """One for each image, in their order."""
        return tuple(
            Finding(
                about=one.id,
                kind="image",
                score=one.suspicion,
                flagged=one.flagged,
                p_value=one.p_value,
                threshold=self.threshold,
                false_positive_rate=self.false_positive_rate,
                reason=_reason(one) if one.flagged else "",
                evidence={"class": one.class_, "extent": one.extent, "box": one.box_in_file.model_dump(), "parts": one.parts},
            )
            for one in self.images
        )

    @property
    def table(self) -> pl.DataFrame:
        """One row an image: id, suspicion, p_value, flagged, class, extent, the boxes in input and file, the parts."""
        return pl.DataFrame([_row(one) for one in self.images], infer_schema_length=None)

    def ranked(self) -> list[tuple[int, ScreenedImage]]:
        """Number, from 1, and image, the most suspicious first."""
        return sorted(enumerate(self.images, 1), key=lambda one: -one[1].suspicion)

    def _overview(self) -> list[tuple[str, str]]:
        rate = f"{100 * self.false_positive_rate:g} %"
        return [
            ("model", self.model),
            ("flagged", f"{self.flagged:,} of {len(self.images):,} images"),
            ("threshold", f"{self.threshold:.2f}, for {rate} false positives, from {self.clean_images:,} clean images"),
            *(("warning", warning) for warning in self.warnings),
            *([("not looked at", f"{self.not_read.images:,} images")] if self.not_read.images else []),
        ]

    def _repr_html_(self) -> str:
        ranked = self.ranked()
        head = "".join(f"<th>{name}</th>" for name in ("image", "suspicion", "p", "flagged", "class"))
        rows = "".join(_html_row(one) for _, one in ranked[:ROWS])
        shown = [(number, one) for number, one in ranked if one.flagged and _picture_name(number) in self._attachments]
        pictures = "".join(self._figure(number, one) for number, one in shown[:PICTURES])
        return f"{super()._repr_html_()}<table><tr>{head}</tr>{rows}</table>{pictures}"

    def _figure(self, number: int, one: ScreenedImage) -> str:
        content = b64encode(self._attachments[_picture_name(number)]()).decode()
        caption = escape(f"{one.id}: {one.class_}")
        return (
            f'<figure><img src="data:image/png;base64,{content}" alt="{caption}" width="512">'
            f"<figcaption>{caption}</figcaption></figure>"
        )


def _picture_name(number: int) -> str:
    return f"{number}.png"


def _png(image: NDArray[np.uint8], one: ScreenedImage) -> bytes:
    box = one.box
    return encode_png(picture(image, None if one.extent == "whole" else Box(box.top, box.left, box.height, box.width)))


def _csv(result: ScreenResult) -> bytes:
    return to_csv(result.table)


def _row(one: ScreenedImage) -> dict[str, Any]:
    return {
        "id": harmless(one.id),
        "suspicion": one.suspicion,
        "p_value": one.p_value,
        "flagged": one.flagged,
        "class": one.class_,
        "extent": one.extent,
        **one.box.model_dump(),
        **{f"file_{name}": value for name, value in one.box_in_file.model_dump().items()},
        **one.parts,
    }


def _html_row(one: ScreenedImage) -> str:
    cells = (one.id, f"{one.suspicion:.2f}", f"{one.p_value:.2g}", "yes" if one.flagged else "", one.class_)
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _reason(one: ScreenedImage) -> str:
    if one.extent == "whole":
        return f"Fine structure all over the image decides for {one.class_}, as a pattern, wave or warp would."
    box = one.box_in_file
    return (
        f"A small part of the image, {box.height} x {box.width} pixels at row {box.top}, column {box.left}, decides for "
        f"{one.class_}, as a trigger would."
    )
