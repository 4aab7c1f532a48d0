"""Reads the images that a detector examines, from files, folders or a data source, and prepares them for a model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from petechia.core.errors import PetechiaError
from petechia.core.parallel import in_parallel
from petechia.core.progress import SILENT, Progress
from petechia.core.rows import evenly_spread
from petechia.data import Catalog, open_source
from petechia.data.formats.dicom_headers import reason_against
from petechia.data.formats.images import Decoding, FileReader, read_image_file
from petechia.data.formats.walking import find_images
from petechia.data.not_read import EVERYTHING_READ, Files, NotRead, Reason
from petechia.data.sources.arrays import as_images
from petechia.data.sources.registry import named_source, without_folders
from petechia.models.classifier import Classifier


class Collection(NamedTuple):
    """N prepared images.

    Attributes:
        ids: their names: the path of the file, or the source's name for the image.
        images: uint8 [N, H, W], or [N, H, W, 3] for a model that takes colour.
        shapes: int [N, 2], height and width in pixels before preprocessing.
        labels: int8 [N, K] and the names of the K classes; None where there are no labels.
        not_read: images that lie beside these and were not read. With `most`, only the files that were chosen are opened.
        notes: sentences about how they were read.
    """

    ids: tuple[str, ...]
    images: NDArray[np.uint8]
    shapes: NDArray[np.intp]
    labels: tuple[NDArray[np.int8], tuple[str, ...]] | None = None
    not_read: NotRead = EVERYTHING_READ
    notes: tuple[str, ...] = ()


def read_collection(
    names: Sequence[str],
    classifier: Classifier,
    most: int | None = None,
    progress: Progress = SILENT,
) -> Collection:
    """Read images and prepare them for a model.

    Args:
        names: files and folders, or one data source such as `nih:FOLDER` or `phantom:size=64`. All image files in a folder
            and in the folders below it are read; what cannot be read there is left out and named in `not_read`.
        classifier: the model. Its preprocessing is applied, and colours become grey if it takes grey images.
        most: the largest number of images to read, evenly spread over all of them; None reads all.
        progress: advances by one for every image.

    Raises:
        PetechiaError: there is no image, an image that was named itself cannot be read, or a source is not alone.
    """
    if source := named_source(names):
        return _from_catalog(open_source(source, "skip"), classifier, most, progress)  # `not_read` names what is missing
    unread = Files()
    files = [file for name in names for file in _files(Path(name), unread)]
    said = f" {unread.frozen}" if unread.frozen else ""
    if not files:
        raise PetechiaError(
            f"There is no PNG, JPEG, TIFF or DICOM image in {', '.join(names)}; check the path, or give other files.{said}"
        )
    named = {Path(name) for name in names}
    chosen = [files[row] for row in evenly_spread(len(files), most)]
    decoding = Decoding(classifier.colour)

    def work(rows: NDArray[np.intp]) -> list[NDArray[np.uint8] | PetechiaError]:
        return [_decoded(decoding, chosen[row]) for row in rows]

    def reason(row: int, error: PetechiaError) -> Reason:
        if chosen[row] in named:
            raise error
        return reason_against(chosen[row])

    ids = tuple(map(str, chosen))
    return _prepared(ids, in_parallel(work, len(ids)), reason, classifier, unread, progress)


def _decoded(decoding: Decoding, file: Path) -> NDArray[np.uint8] | PetechiaError:
    try:
        return decoding.decode(read_image_file(file), str(file))
    except PetechiaError as error:
        return error


def _prepared(
    ids: Sequence[str],
    images: Generator[NDArray[np.uint8] | PetechiaError, None, None],
    reason: Callable[[int, PetechiaError], Reason],
    classifier: Classifier,
    unread: Files,
    progress: Progress,
) -> Collection:
    """Prepare decoded images; those that cannot be decoded are left out.

    Args:
        ids: of the N images.
        images: of the N images, decoded or the error.
        reason: gives for the row of an image and its error why it is not read.
        classifier: the model.
        unread: gets the images that are left out.
        progress: advances by one for every image.

    Raises:
        PetechiaError: no image is left.
    """
    kept, prepared, shapes, first = [], [], [], None
    with closing(images):  # threads decode on until it is closed
        for row, item in enumerate(images):
            progress.advance(1)
            if isinstance(item, PetechiaError):
                first = first or item
                unread.add(reason(row, item), ids[row])
                continue
            kept.append(ids[row])
            prepared.append(classifier.prepare(item))
            shapes.append(item.shape[:2])
    if not kept:
        raise PetechiaError(f"None of the {len(ids):,} images can be read; the first problem: {first}")
    return Collection(tuple(kept), np.stack(prepared), np.array(shapes, np.intp), None, unread.frozen)


Images = str | Path | Catalog | ArrayLike | Sequence[str | Path]


def collect(given: Images, classifier: Classifier, most: int | None = None, progress: Progress = SILENT) -> Collection:
    """Prepare images for a model, wherever they are.

    Args:
        given: as for `read_collection`; or a catalog; or images in memory, see `petechia.data.sources.arrays.as_images`, which
            are called "1", "2", and so on.
        classifier: the model, whose preprocessing is applied.
        most: the largest number of images to take, evenly spread over all of them; None takes all.
        progress: advances by one for every image.

    Raises:
        PetechiaError: there is no image, or an image cannot be read.
    """
    if isinstance(given, str | Path):
        return read_collection([str(given)], classifier, most, progress)
    if isinstance(given, Catalog):
        return _from_catalog(given, classifier, most, progress)
    if isinstance(given, list | tuple) and given and all(isinstance(one, str | Path) for one in given):
        return read_collection([str(one) for one in given], classifier, most, progress)
    array = as_images(given)  # type: ignore[arg-type]
    rows = evenly_spread(len(array), most)
    images = np.stack([classifier.prepare(image) for image in array[rows]])
    progress.advance(len(rows))
    return Collection(tuple(str(row + 1) for row in rows), images, np.tile(array.shape[1:3], (len(rows), 1)).astype(np.intp))


def described(given: Images, public: bool = False) -> str:
    """Where images come from, in words.

    Args:
        given: as for `collect`.
        public: whether to leave out the folders, for results, which others may read.
    """
    if isinstance(given, Catalog):
        return given.name
    names = [given] if isinstance(given, str | Path) else given
    if not isinstance(names, list | tuple) or not names or not all(isinstance(one, str | Path) for one in names):
        return "images in memory"
    return ", ".join(_public(str(one)) if public else str(one) for one in names)


def _public(name: str) -> str:
    path = Path(name)
    return path.resolve().name if path.exists() else without_folders(name)


def _files(path: Path, unread: Files) -> list[Path]:
    """Return the images in a folder of the user's own, whose links may lead anywhere, or the file itself."""
    if path.is_dir():
        beside = Files(str(path))
        found = sorted(path / name for name in find_images(path, beside, masks=False, outside=True))
        for one in beside.frozen.reasons:
            unread.add_all(one)
        return found
    if not path.exists():
        raise PetechiaError(f"{path} does not exist; give images, folders of images, or a data source such as nih:FOLDER.")
    return [path]


def _from_catalog(catalog: Catalog, classifier: Classifier, most: int | None, progress: Progress) -> Collection:
    if not len(catalog):
        raise PetechiaError(f"{catalog.name} has no images; check the source.")
    catalog = catalog.take(evenly_spread(len(catalog), most))
    reader = catalog.reader

    def work(rows: NDArray[np.intp]) -> list[NDArray[np.uint8] | PetechiaError]:
        return list(reader.read(rows))

    def reason(row: int, _: PetechiaError) -> Reason:
        return reason_against(reader.path(row)) if isinstance(reader, FileReader) else Reason.DAMAGED

    ids, unread = catalog.ids.tolist(), Files()
    found = _prepared(ids, in_parallel(work, len(catalog)), reason, classifier, unread, progress)
    kept = np.isin(catalog.ids, found.ids)
    labels = (catalog.labels[kept], catalog.classes)
    return found._replace(labels=labels, not_read=catalog.not_read + found.not_read, notes=catalog.notes)
