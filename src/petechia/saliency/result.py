"""What explaining images gives: scores, and where each map is hottest."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from petechia.core.results import Record, Result
from petechia.data.not_read import EVERYTHING_READ, NotRead


class Place(Record):
    """A point in an image, in pixels of the file, from its top left corner."""

    row: float
    column: float


class LayerMap(Record):
    """The map of one class at one layer.

    Attributes:
        overlay: file of the heat over the image.
        map: file of the raw map, float32 [h, w].
        cells: h and w.
        hottest: largest value of the map.
        peak: centre of the hottest cell; null where the map is 0 everywhere.
        note: what to know about it; empty where there is nothing.
    """

    overlay: str
    map: str
    cells: tuple[int, int]
    hottest: float
    peak: Place | None
    note: str = ""


class ExplainedClass(Record):
    """One class of one image: its score, and layer → map."""

    class_: str = Field(alias="class")
    score: float
    layers: dict[str, LayerMap]


class ExplainedImage(Record):
    """One image: its size, class → score, and the classes that were explained."""

    file: str
    height: int
    width: int
    scores: dict[str, float]
    explained: tuple[ExplainedClass, ...]


class Explanations(Result):
    """Where a model looks in some images. File: explanations.json, beside the overlays and maps that it names.

    Attributes:
        petechia: version that made it.
        model: what is known of the model: its file or name, classes, geometry.
        method: of the maps.
        images: in the order in which they were given.
        not_read: images of a data source that were not read.
        warnings: sentences about how a data source was read.
    """

    file_name: ClassVar[str] = "explanations.json"

    petechia: str
    model: dict[str, Any]
    method: str
    images: tuple[ExplainedImage, ...]
    not_read: NotRead = EVERYTHING_READ
    warnings: tuple[str, ...] = ()

    def _overview(self) -> list[tuple[str, str]]:
        return [(image.file, ", ".join(f"{one.class_} {one.score:.3f}" for one in image.explained)) for image in self.images]
