"""The `folder:` source: any folder of images with a table, or with a folder of images for each class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from petechia.core.errors import PetechiaError
from petechia.core.files import expand_home
from petechia.core.progress import Progress
from petechia.data.catalog import Catalog, Written
from petechia.data.export import write_images, write_table
from petechia.data.formats.grouping import note_on_dicom, read_groups
from petechia.data.formats.images import Decoding, FileReader
from petechia.data.formats.labelling import (
    PATIENTS,
    SPLITS,
    VIEWS,
    Labelling,
    LabelOptions,
    find_column,
    read_labels,
    select_views,
    with_split,
)
from petechia.data.formats.locate import Missing, locate, refuse_missing
from petechia.data.formats.spelling import refuse_rounded
from petechia.data.formats.tables import Table, columns_of, read_table
from petechia.data.formats.walking import beside
from petechia.data.not_read import NotRead, Reason
from petechia.data.sources.class_folders import open_class_folders
from petechia.data.sources.options import hint_at_option, split_options

# Usual names of the column of images, reduced to lower-case letters and digits; the first one that exists is used.
IMAGES = (
    *("image", "imagepath", "imagefile", "imagefilename", "imageindex", "imagename", "imageid", "imagefilepath", "path"),
    *("filepath", "file", "filename", "pngpath", "dicompath", "img", "imgpath", "imgname", "imgid", "dicomid"),
    *("sopinstanceuid", "idcode", "id"),
)


class FolderOptions(LabelOptions):
    """Options of the source, in addition to those in `LabelOptions`.

    Attributes:
        root: folder of the images; the default is the folder of the table.
        colour: whether to keep colours.
        window: window of DICOM files, see `read_dicom`.
    """

    root: Path | None = None
    colour: bool = False
    window: int = Field(1, ge=1, le=100)


def open_folder(source: str, text: str, missing: Missing = "error") -> Catalog:
    """Open a folder source: read the table and find the images, without decoding them; see also `open_class_folders`.

    Args:
        source: the whole source, for messages.
        text: TABLE with options, see `FolderOptions`; or FOLDER, with a folder of images for each class.
        missing: what to do if the table lists images that the folder does not contain.

    Raises:
        PetechiaError: there is no table, a row is invalid (the message names it), images are missing, or a file is outside the
            folder.
    """
    name, options = split_options(source, text, FolderOptions)
    path = expand_home(name)
    if path.is_dir():
        return _without_table(source, path, options)
    if not path.is_file():
        hint = hint_at_option(name, FolderOptions)
        raise PetechiaError(f"The data source {source!r} names {path}, which is not a file; correct it{hint}.")
    root = path.parent if options.root is None else expand_home(options.root)
    if not root.is_dir():
        raise PetechiaError(f"The data source {source!r} names {root}, which is not a folder; correct root=.")
    listed = read_listed(path, options, root)
    files, here = locate(root, listed.ids, options.near)
    refuse_missing(root, path, listed.ids, here, missing)
    return Catalog(
        name=root.resolve().name,
        classes=listed.labelling.classes,
        ids=listed.ids[here],
        patients=listed.patients[here],
        split=listed.split[here],
        labels=listed.labels[here],
        reader=FileReader(root, files[here], Decoding(options.colour, options.window)),
        task=listed.labelling.task,
        colour=options.colour,
        layout=TableLayout(listed.table, listed.labelling, listed.image),
        notes=(
            *listed.notes,
            *listed.labelling.notes,
            *note_on_dicom(files[here], listed.patients[here], options.patient != ""),
        ),
        not_read=beside(root, files[here], listed.left_out) + NotRead.of(Reason.MISSING, listed.ids[~here].tolist()),
    )


class Listed(NamedTuple):
    """What a table lists.

    Attributes:
        table: its rows of the views that are kept.
        image: its column of images.
        ids: str [N], of the images.
        patients: str [N].
        split: str [N].
        labelling: the classes.
        labels: int8 [N, K].
        notes: about patients and split.
        left_out: str, images of the other views.
    """

    table: Table
    image: str
    ids: NDArray[np.str_]
    patients: NDArray[np.str_]
    split: NDArray[np.str_]
    labelling: Labelling
    labels: NDArray[np.int8]
    notes: tuple[str, ...]
    left_out: NDArray[np.str_]


def read_listed(path: Path, options: LabelOptions, root: Path) -> Listed:
    """Read a table of images: which they are, their patients, split and labels.

    Raises:
        PetechiaError: the table, or one of its rows, is invalid; the message names it.
    """
    whole = read_table(path)
    table = select_views(whole, options)
    options = with_split(table, options)
    image = image_column(table, options)
    ids = image_ids(table, image, root)
    patients, split, notes = read_groups(table, options, ids)
    labelling, labels = read_labels(table, options, taken_columns(table, options, image))
    return Listed(table, image, ids, patients, split, labelling, labels, notes, left_out(whole, table, image))


def _without_table(source: str, root: Path, options: FolderOptions) -> Catalog:
    given = options.model_fields_set - {"colour", "window"} - ({"patient"} if options.patient == "" else set())
    if given:
        key = sorted(given)[0]
        raise PetechiaError(f"{key!r} in the data source {source!r} is about a table, and {root} is a folder; leave it out.")
    return open_class_folders(root, options.colour, options.window, grouped=options.patient is None)


def image_column(table: Table, options: LabelOptions) -> str:
    """Return the column that names the images.

    Raises:
        PetechiaError: there is none.
    """
    column = find_column(table, options.image, IMAGES)
    if column is None:
        raise PetechiaError(
            f"{table.path} has no column with a usual name for images; its columns are {columns_of(table)}; give image=COLUMN."
        )
    return column


def taken_columns(table: Table, options: LabelOptions, image: str) -> set[str]:
    """Return the columns that are not labels."""
    others = ((options.patient, PATIENTS), (options.split, SPLITS), (options.view, VIEWS))
    return {image} | {name for given, usual in others if (name := find_column(table, given, usual))}


def left_out(whole: Table, table: Table, image: str) -> NDArray[np.str_]:
    """Return the images, str [N], of the rows of a table that were not selected, such as those of other views."""
    names = (one.texts(image).drop_nulls().str.replace_all("\\", "/", literal=True).to_list() for one in (whole, table))
    listed, selected = map(set, names)
    return np.array(sorted(listed - selected), np.str_)


def image_ids(table: Table, column: str, root: Path) -> NDArray[np.str_]:
    """Return the image names in a table, str [N], with forward slashes and relative to `root` if they are below it.

    Raises:
        PetechiaError: a name is empty, occurs twice, or leads out of `root`.
    """
    cells = table.texts(column)
    table.refuse(cells.is_null(), f"has an empty {column!r}")
    refuse_rounded(table, column)
    names = cells.str.replace_all("\\", "/", literal=True)
    for top in dict.fromkeys((str(root), str(root.resolve()))):
        names = names.str.strip_prefix(top.rstrip("/") + "/")
    names = names.str.replace_all(r"/(\.?/)+", "/").str.replace(r"^(\./+)+", "")
    absolute = names.str.contains(r"^/|^~|^[A-Za-z]:/")
    table.refuse(absolute, "names an image outside the folder, by an absolute path (paths start in the folder):", column)
    outside = names.str.contains(r"(^|/)\.\.(/|$)|\x00")
    table.refuse(outside, "names an image outside the folder:", column)
    table.refuse(names.is_duplicated(), "names an image that another row also names:", column)
    return names.to_numpy().astype(np.str_)


@dataclass(frozen=True)
class TableLayout:
    """Writes a dataset in the layout of its source: the same folders, and the table with all its columns.

    Attributes:
        table: table of the source.
        labelling: columns and format of the labels.
        image: column of the images.
    """

    table: Table
    labelling: Labelling
    image: str

    def __call__(self, folder: Path, catalog: Catalog, written: Written, progress: Progress) -> None:
        """Write the dataset. Missing columns patient and split are added, so that copies stay with their originals."""
        reader, ids = catalog.reader, written.ids
        assert isinstance(reader, FileReader)  # noqa: S101 (for mypy)
        names = reader.names[written.rows]

        def place(j: int, name: str) -> str:
            return str(PurePosixPath(str(names[j])).with_name(PurePosixPath(name).name))

        write_images(folder, reader, written, place, progress)
        rows = {identifier: row for row, identifier in enumerate(image_ids(self.table, self.image, reader.root).tolist())}
        frame = self.table.frame[[rows[identifier] for identifier in catalog.ids[written.rows].tolist()]]
        frame = self.labelling.rewrite(frame, catalog.labels[written.rows], written.labels)
        frame = frame.with_columns(pl.Series(self.image, ids))
        for name, values, usual in (("patient", catalog.patients, PATIENTS), ("split", catalog.split, SPLITS)):
            if find_column(self.table, None, usual) is None:
                frame = frame.with_columns(pl.Series(name, values[written.rows]))
        write_table(folder / f"{self.table.path.name.partition('.')[0] or 'labels'}.csv", frame, ids)
