"""Write images and labels as a dataset that can be opened again: in the layout of its source, or as PNGs with a table."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import polars as pl
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError, shown
from petechia.core.files import copy_file, naming
from petechia.core.parallel import in_parallel
from petechia.core.progress import SILENT, Progress
from petechia.core.spreadsheets import formulas
from petechia.data.catalog import Catalog, Written
from petechia.data.formats.images import FileReader
from petechia.data.formats.walking import SUFFIXES

LOGGER = logging.getLogger(__name__)
TABLE = "labels.csv"  # table of a dataset whose source has no layout of its own
LABEL = "label"  # column of multi-class labels in this table


def write_dataset(folder: Path, catalog: Catalog, written: Written, progress: Progress = SILENT) -> None:
    """Write a dataset into a folder.

    Args:
        folder: existing folder to write into.
        catalog: catalog of the original images.
        written: images to write.
        progress: advances with every written image.

    Raises:
        PetechiaError: an image cannot be read.
    """
    (catalog.layout or write_plain)(folder, catalog, written, progress)


def as_png(ids: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return ids for images that are written as PNG: .png replaces another image suffix; distinct ids stay distinct."""
    named = np.array([str(PurePosixPath(i).with_suffix(".png")) if _has_suffix(i) else i for i in ids.tolist()], np.str_)
    return named if len(np.unique(named)) == len(np.unique(ids)) else np.char.add(ids, ".png")


def write_images(folder: Path, reader: object, written: Written, place: Callable[[int, str], str], progress: Progress) -> None:
    """Write the image files.

    Args:
        folder: folder to write into.
        reader: reader of the catalog.
        written: images to write.
        place: function from the index of an image and its file name to a path below `folder`.
        progress: advances with every written image.

    Raises:
        PetechiaError: an image cannot be read.
    """

    def write(chunk: NDArray[np.intp]) -> list[int]:
        for j in chunk.tolist():
            made = written.content(j)
            identifier = str(written.ids[j])
            if made is not None:
                target = _target(folder, place(j, identifier if _has_suffix(identifier) else f"{identifier}.png"))
                with naming(target):
                    target.write_bytes(made)
                continue
            if not isinstance(reader, FileReader):
                raise PetechiaError(f"{identifier} is not in a file and cannot be copied.")
            original = reader.path(int(written.rows[j]))
            suffix = original.suffix if _has_suffix(original.name) and not _has_suffix(identifier) else ""
            copy_file(original, _target(folder, place(j, identifier + suffix)))
        return [1] * len(chunk)

    for done in in_parallel(write, len(written.ids)):
        progress.advance(done)


def _target(folder: Path, name: str) -> Path:
    """Return the path of an image below a folder, in which it can be written."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name:
        raise PetechiaError(f"An image is named {shown(name)}, which leads out of the dataset; rename it.")
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def write_plain(folder: Path, catalog: Catalog, written: Written, progress: Progress) -> None:
    """Write image files named by their ids, and `labels.csv`, which a `folder:` source can read.

    Its columns are image, patient, split, and one column per class (1, 0, empty if unknown); for multi-class data, a single
    column contains the name of the class.
    """
    write_images(folder, catalog.reader, written, lambda _, name: name, progress)
    frame = pl.DataFrame(
        {"image": written.ids, "patient": catalog.patients[written.rows], "split": catalog.split[written.rows]},
    )
    if catalog.task == "multi-class":
        names = [catalog.classes[k] for k in written.labels.argmax(axis=1)]
        frame = frame.with_columns(pl.Series(LABEL, names, pl.String))
    else:
        known = [pl.Series(name, written.labels[:, k]) for k, name in enumerate(catalog.classes)]
        frame = frame.with_columns(known).with_columns(
            pl.when(pl.col(name) >= 0).then(pl.col(name)) for name in catalog.classes
        )
    write_table(folder / TABLE, frame, written.ids)


def write_table(path: Path, frame: pl.DataFrame, ids: NDArray[np.str_]) -> None:
    """Write a table, sorted by id, so that a copy is next to its original.

    Its cells are what the source has, also those that a spreadsheet would run: a trainer must find the files that it names.
    """
    warn_of_formulas(path, pl.Series(frame.columns), *(column for column in frame if column.dtype == pl.String))
    frame[np.argsort(ids, kind="stable")].write_csv(path)


def warn_of_formulas(path: Path, *texts: pl.Series) -> None:
    """Log that a dataset's table, whose cells are the source's, is not for a spreadsheet."""
    odd = pl.concat([formulas(one).rename("") for one in texts])
    if len(odd):
        LOGGER.warning(
            "%s has %d cells that a spreadsheet would run, such as %s, as in its source; do not open it in one",
            path.name,
            len(odd),
            shown(odd[0]),
        )


def _has_suffix(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)
