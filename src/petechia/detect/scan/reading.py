"""Reads the images of a catalog and keeps their traces in temporary files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.core.parallel import in_parallel
from petechia.core.progress import SILENT, Progress
from petechia.data.catalog import Catalog
from petechia.data.formats.images import FileReader
from petechia.data.formats.slices import SliceReader
from petechia.data.levels import to_grey
from petechia.data.preparation import OnError
from petechia.detect.scan.traces import FINE, GRID, Grey, Spot, Trace, trace


class Traces(NamedTuple):
    """Traces of N images.

    Attributes:
        blocks: float32 [N, GRID, GRID], on disk; see `Trace`. 0 for an image that cannot be decoded.
        textures: int8 [N, FINE, FINE], on disk.
        shapes: int32 [N, 2], height and width; 0 for an image that cannot be decoded.
        spots: `Spot` of all images.
        unread: index → why the image cannot be decoded.
    """

    blocks: NDArray[np.float32]
    textures: NDArray[np.int8]
    shapes: NDArray[np.int32]
    spots: NDArray[np.void]
    unread: dict[int, str]


def read_traces(catalog: Catalog, folder: Path, on_error: OnError = "error", progress: Progress = SILENT) -> Traces:
    """Read every image once.

    Args:
        catalog: N images.
        folder: for temporary files, about 6 kB an image. It must outlive the result.
        on_error: "skip" notes images that cannot be decoded in `unread`.
        progress: gets the phase "looking at images".

    Raises:
        PetechiaError: an image cannot be decoded and `on_error` is "error".
    """
    blocks = np.memmap(folder / "blocks.f32", np.float32, "w+", shape=(len(catalog), GRID, GRID))
    textures = np.memmap(folder / "textures.i8", np.int8, "w+", shape=(len(catalog), FINE, FINE))
    shapes = np.zeros((len(catalog), 2), np.int32)
    unread: dict[int, str] = {}

    def work(rows: NDArray[np.intp]) -> list[Trace | PetechiaError]:
        images = zip(rows.tolist(), read_grey(catalog, rows), strict=True)
        return [image if isinstance(image, PetechiaError) else trace(image, row) for row, image in images]

    progress.phase("looking at images", len(catalog))
    with (folder / "spots").open("wb") as file:
        for index, item in enumerate(in_parallel(work, len(catalog))):
            progress.advance()
            if isinstance(item, PetechiaError):
                if on_error == "error":
                    raise item
                unread[index] = str(item)
                continue
            blocks[index], textures[index], shapes[index] = item.blocks, item.texture, item.shape
            file.write(item.spots.tobytes())
    return Traces(blocks, textures, shapes, np.fromfile(folder / "spots", Spot), unread)


def read_grey(catalog: Catalog, rows: NDArray[np.intp]) -> Iterator[Grey | PetechiaError]:
    """Read some of the images of a catalog; values that a window of the file cuts off are told apart.

    Yields:
        For each row, uint8 or int16 [H, W], see `petechia.data.levels.uncut`, or the error if the image cannot be decoded.
    """
    reader = catalog.reader
    for image in reader.read_uncut(rows) if isinstance(reader, FileReader | SliceReader) else reader.read(rows):
        yield image if isinstance(image, PetechiaError) or image.ndim == 2 else to_grey(image.astype(np.uint8, copy=False))


def read_grey_image(catalog: Catalog, index: int) -> Grey:
    """Read one image again, as `read_grey` does.

    Raises:
        PetechiaError: it cannot be decoded.
    """
    image = next(read_grey(catalog, np.array([index])))
    if isinstance(image, PetechiaError):
        raise image
    return image
