"""Reads the images that a detector examines, from files, folders or a data source, and prepares them for a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.core.parallel import in_parallel
from petechia.core.progress import SILENT, Progress
from petechia.core.rows import evenly_spread
from petechia.data import open_source
from petechia.data.formats.images import Decoding, read_image_file
from petechia.data.formats.locate import SUFFIXES
from petechia.models.classifier import Classifier


class Collection(NamedTuple):
    """N prepared images.

    Attributes:
        ids: their names: the path of the file, or the source's name for the image.
        images: uint8 [N, H, W], or [N, H, W, 3] for a model that takes colour.
        shapes: int [N, 2], height and width in pixels before preprocessing.
        labels: int8 [N, K] and the names of the K classes; None where there are no labels.
    """

    ids: tuple[str, ...]
    images: NDArray[np.uint8]
    shapes: NDArray[np.intp]
    labels: tuple[NDArray[np.int8], tuple[str, ...]] | None = None


def read_collection(
    names: Sequence[str],
    classifier: Classifier,
    most: int | None = None,
    progress: Progress = SILENT,
) -> Collection:
    """Read images and prepare them for a model.

    Args:
        names: files and folders, or one data source such as `nih:FOLDER` or `phantom:size=64`. All image files in a folder
            and in the folders below it are read.
        classifier: the model. Its preprocessing is applied, and colours become grey if it takes grey images.
        most: the largest number of images to read, evenly spread over all of them; None reads all.
        progress: advances by one for every image.

    Raises:
        PetechiaError: there is no image, or an image cannot be read.
    """
    if len(names) == 1 and ":" in names[0] and not Path(names[0]).exists():
        return _from_source(names[0], classifier, most, progress)
    files = [file for name in names for file in _files(Path(name))]
    if not files:
        raise PetechiaError(
            f"There is no PNG, JPEG, TIFF or DICOM image in {', '.join(names)}; check the path, or give other files."
        )
    chosen = [files[row] for row in evenly_spread(len(files), most)]
    decoding = Decoding(classifier.colour)

    def work(rows: NDArray[np.intp]) -> list[tuple[NDArray[np.uint8], tuple[int, ...]]]:
        found = [decoding.decode(read_image_file(chosen[row]), str(chosen[row])) for row in rows]
        return [(classifier.prepare(image), image.shape[:2]) for image in found]

    images, shapes = [], []
    for image, shape in in_parallel(work, len(chosen)):
        images.append(image)
        shapes.append(shape)
        progress.advance(1)
    return Collection(tuple(map(str, chosen)), np.stack(images), np.array(shapes, np.intp))


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.suffix.lower() in (*SUFFIXES, "") and file.is_file())
    if not path.exists():
        raise PetechiaError(f"{path} does not exist; give images, folders of images, or a data source such as nih:FOLDER.")
    return [path]


def _from_source(source: str, classifier: Classifier, most: int | None, progress: Progress) -> Collection:
    catalog = open_source(source)
    if not len(catalog):
        raise PetechiaError(f"{source} has no images; check the source.")
    catalog = catalog.take(evenly_spread(len(catalog), most))

    def work(rows: NDArray[np.intp]) -> list[NDArray[np.uint8] | PetechiaError]:
        return list(catalog.reader.read(rows))

    images, shapes = [], []
    for item in in_parallel(work, len(catalog)):
        if isinstance(item, PetechiaError):
            raise item
        images.append(classifier.prepare(item))
        shapes.append(item.shape[:2])
        progress.advance(1)
    labels = (catalog.labels, catalog.classes)
    return Collection(tuple(catalog.ids.tolist()), np.stack(images), np.array(shapes, np.intp), labels)
