"""The `nih:` source: NIH ChestX-ray14 (Wang et al., CVPR 2017) in its official layout or Kaggle's, and writing this layout."""

from __future__ import annotations

import csv
import io
import os
import zlib
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from petechia.core.budget import read_file
from petechia.core.errors import PetechiaError, first_line, listing, printable
from petechia.core.files import expand_home
from petechia.core.progress import Progress
from petechia.data.catalog import Catalog, Written, split_by_patient
from petechia.data.export import warn_of_formulas, write_images
from petechia.data.formats.images import FileReader
from petechia.data.formats.labelling import TEST_SHARE
from petechia.data.formats.locate import Missing, refuse_missing
from petechia.data.formats.spelling import one_spelling
from petechia.data.formats.tables import Table, cleaned, read_text, table_of
from petechia.data.formats.walking import beside, refuse_outside
from petechia.data.not_read import NotRead, Reason

CLASSES = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
NO_FINDING = "No Finding"
TABLE = "Data_Entry_2017*.csv"
IMAGE, FINDINGS, PATIENT, FOLLOW_UP = "Image Index", "Finding Labels", "Patient ID", "Follow-up #"
TRAIN_LIST, TEST_LIST = "train_val_list.txt", "test_list.txt"


def open_nih_source(source: str, text: str, missing: Missing = "error") -> Catalog:
    """Open a folder that a source names.

    Args:
        source: the whole source, for messages.
        text: the folder.
        missing: as for `open_nih`.

    Raises:
        PetechiaError: it is not a folder, or as `open_nih`.
    """
    folder = expand_home(text)
    if not folder.is_dir():
        raise PetechiaError(f"The data source {source!r} names {folder}, which is not a folder; correct the path.")
    return open_nih(folder, missing)


def open_nih(root: Path, missing: Missing = "error") -> Catalog:
    """Open the dataset: read the table and find the images, without decoding them.

    Args:
        root: folder with `Data_Entry_2017*.csv` and `images/` or `images_001/images/` … `images_012/images/`.
        missing: what to do if the table lists images that the folder does not contain.

    Raises:
        PetechiaError: there is no table, a row is invalid (the message names it), images are missing, or a file is outside
            `root`.
    """
    table = read_table(root)
    ids = table.frame[IMAGE].to_numpy().astype(np.str_)
    labels = _labels(table)
    patients = one_spelling(table.frame[PATIENT]).to_numpy().astype(np.str_)
    names = find_images(root)
    here = np.array([i in names for i in ids], bool)
    folders = "correct the folder: the images are expected in images/ or images_001/images/"
    refuse_missing(root, table.path, ids, here, missing, folders, "rename it")
    split, notes = _split(root, ids, patients)
    files = np.array([names[i] for i in ids[here]])
    arrays = (ids[here], patients[here], split[here], labels[here])
    not_read = beside(root, files) + NotRead.of(Reason.MISSING, ids[~here].tolist())
    return Catalog(
        "NIH ChestX-ray14", CLASSES, *arrays, FileReader(root, files), layout=write_nih, not_read=not_read, notes=notes
    )


def table_path(root: Path) -> Path:
    """Return the path of the dataset's table; if both published versions are present, the newer one.

    Raises:
        PetechiaError: there is none.
    """
    found = sorted(path for path in root.glob(TABLE) if path.is_file())
    if not found:
        raise PetechiaError(f"{root} has no {TABLE}; give the folder that contains the table and the images.")
    refuse_outside(root, found[-1])
    return found[-1]


def read_table(root: Path) -> Table:
    """Read the columns that are used, as text. The header of 2017 has more commas than the rows; extra names are ignored.

    Raises:
        PetechiaError: the table cannot be read, lacks a column, or has a row with an empty cell, a duplicate image or a path.
    """
    path = table_path(root)
    try:
        text = read_text(path)
        frame = pl.read_csv(text.content, infer_schema=False, truncate_ragged_lines=True, separator=text.separator)
    except (pl.exceptions.PolarsError, OSError, EOFError, zlib.error) as error:
        raise PetechiaError(f"{path} cannot be read as a table ({first_line(error)}); restore it.") from None
    spelled = {name.strip().casefold(): name for name in frame.columns}
    columns = {}
    for wanted in (IMAGE, FINDINGS, PATIENT):
        if wanted.casefold() not in spelled:
            raise PetechiaError(f"{path} has no column {wanted!r}; its columns are {listing(frame.columns, 12)}.")
        columns[spelled[wanted.casefold()]] = wanted
    table = table_of(path, frame, text.row + 1)
    kept = table.frame.select(cleaned(table.frame[old]).alias(new) for old, new in columns.items())
    table = Table(path, kept, table.rows)
    for column in (IMAGE, FINDINGS, PATIENT):
        table.refuse(kept[column].is_null(), f"has an empty {column!r}")
    outside = kept[IMAGE].str.contains(r"[/\\\x00]|^\.")
    table.refuse(outside, "names a path instead of a file, which could lead out of the dataset:", IMAGE)
    table.refuse(kept[IMAGE].is_duplicated(), "occurs more than once:", IMAGE)
    return table


def _labels(table: Table) -> NDArray[np.int8]:
    """Return the labels, int8 [N, 14], from the column of findings separated by bars."""
    findings = table.frame.select(pl.col(FINDINGS).str.split("|")).with_row_index("row").explode(FINDINGS, empty_as_null=True)
    findings = findings.with_columns(pl.col(FINDINGS).str.strip_chars().str.replace_all(" ", "_"))
    index = {name: k for k, name in enumerate(CLASSES)} | {NO_FINDING.replace(" ", "_"): -1}
    unknown = findings.filter(~pl.col(FINDINGS).is_in(list(index)))
    if len(unknown):
        row, name = unknown.row(0)
        said = f"an unknown finding {printable(name)!r}" if name else "an empty finding between its bars"
        raise PetechiaError(
            f"{table.path}, row {table.rows[row]}, has {said}; the findings are {', '.join(CLASSES)} or {NO_FINDING}."
        )
    said_none = findings.filter(pl.col(FINDINGS) == NO_FINDING.replace(" ", "_"), pl.len().over("row") > 1)
    if len(said_none):
        raise PetechiaError(
            f"{table.path}, row {table.rows[said_none['row'][0]]}, has {NO_FINDING} and another finding; correct the table."
        )
    present = findings.with_columns(pl.col(FINDINGS).replace_strict(index, return_dtype=pl.Int64).alias("k")).filter(
        pl.col("k") >= 0
    )
    labels = np.zeros((len(table.frame), len(CLASSES)), np.int8)
    labels[present["row"].to_numpy(), present["k"].to_numpy()] = 1
    return labels


def find_images(root: Path) -> dict[str, str]:
    """Return file name → path relative to `root`, for every file in images/ and images_*/images/.

    Raises:
        PetechiaError: a link leads out of `root`, or a file name occurs in two folders.
    """
    names: dict[str, str] = {}
    folders = [folder for folder in (root / "images", *sorted(root.glob("images_*/images"))) if folder.is_dir()]
    for folder in folders:
        refuse_outside(root, folder)
        below = folder.relative_to(root)
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_symlink():
                    refuse_outside(root, Path(entry.path))
                if not entry.is_file():
                    continue
                relative = f"{below}/{entry.name}"
                if entry.name in names:
                    raise PetechiaError(
                        f"{entry.name} is both {names[entry.name]} and {relative} in {root}; remove one of them."
                    )
                names[entry.name] = relative
    return names


def write_nih(folder: Path, catalog: Catalog, written: Written, progress: Progress) -> None:
    """Write a dataset in NIH's layout. If the source has this layout, other columns of its table and its lists are kept."""
    reader, rows, ids = catalog.reader, written.rows, written.ids
    names = reader.names[rows] if isinstance(reader, FileReader) else np.char.add("images/", ids)
    write_images(folder, reader, written, lambda j, name: str(Path(str(names[j])).with_name(name)), progress)
    has_lists = not isinstance(reader, FileReader) or (reader.root / TEST_LIST).is_file()
    header, entries = _entries(catalog)
    _write_table(folder, header, [entries[row] for row in rows], ids, written.labels, catalog)
    if has_lists:
        test = catalog.split[rows] == "test"
        for name, chosen in ((TRAIN_LIST, ~test), (TEST_LIST, test)):
            (folder / name).write_text("".join(f"{i}\n" for i in sorted(ids[chosen].tolist())), encoding="utf-8")


def _entries(catalog: Catalog) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the source's table, in the order of the catalog."""
    if isinstance(catalog.reader, FileReader):
        path = table_path(catalog.reader.root)
        text = read_text(path)
        header, *lines = csv.reader(io.StringIO(text.content.decode(), newline=""), delimiter=text.separator)
        column = [name.strip().casefold() for name in header].index(IMAGE.casefold())
        lines = [line for line in lines if len(line) > column]
        by_id = dict(zip(cleaned(pl.Series([line[column] for line in lines], dtype=pl.String)), lines, strict=True))
        return header, [by_id[i] for i in catalog.ids.tolist()]
    return [IMAGE, FINDINGS, FOLLOW_UP, PATIENT], [["", "", "", p] for p in catalog.patients.tolist()]


def _write_table(
    folder: Path,
    header: list[str],
    entries: list[list[str]],
    ids: NDArray[np.str_],
    labels: NDArray[np.int8],
    catalog: Catalog,
) -> None:
    spelled = [name.strip().casefold() for name in header]
    image, findings = spelled.index(IMAGE.casefold()), spelled.index(FINDINGS.casefold())
    follow_up = spelled.index(FOLLOW_UP.casefold()) if FOLLOW_UP.casefold() in spelled else None
    lines = []
    for entry, identifier, vector in zip(entries, ids.tolist(), labels, strict=True):
        line = list(entry)
        line[image] = identifier
        line[findings] = "|".join(catalog.classes[k] for k in np.flatnonzero(vector == 1)) or NO_FINDING
        visit = Path(identifier).stem.rpartition("_")[2]
        if follow_up is not None and visit.isdigit():
            line[follow_up] = str(int(visit))
        lines.append(line)
    cells = pl.Series([*header, *chain.from_iterable(lines)], dtype=pl.String)
    warn_of_formulas(folder / "Data_Entry_2017.csv", cells)
    with (folder / "Data_Entry_2017.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(lines[j] for j in np.argsort(ids, kind="stable"))


def _split(root: Path, ids: NDArray[np.str_], patients: NDArray[np.str_]) -> tuple[NDArray[np.str_], tuple[str, ...]]:
    """Split by the two official lists if both exist, and otherwise by patient; with a note if one list lacks."""
    files = {name: _list_in(root, name) for name in (TRAIN_LIST, TEST_LIST)}
    if None in files.values():
        alone = [file for file in files.values() if file]
        notes = [
            f"{one} is there without the other list, so the split is made anew, by patient; add the other." for one in alone
        ]
        return split_by_patient(patients, TEST_SHARE), tuple(notes)
    listed = {name: _names(root, file or name) for name, file in files.items()}
    test = np.array([i in listed[TEST_LIST] for i in ids])
    train = np.array([i in listed[TRAIN_LIST] for i in ids])
    unlisted = ids[~(train | test)]
    if len(unlisted):
        raise PetechiaError(
            f"{len(unlisted):,} images are neither in {TRAIN_LIST} nor in {TEST_LIST} of {root}: {listing(list(unlisted))}; "
            f"complete the lists, or remove both to split by patient."
        )
    both = np.intersect1d(patients[train], patients[test])
    if len(both):
        raise PetechiaError(
            f"{len(both):,} patients of {root} are both in {TRAIN_LIST} and in {TEST_LIST}: {listing(list(both))}; "
            f"correct the lists."
        )
    return np.where(test, "test", "train"), ()


def _list_in(root: Path, name: str) -> str | None:
    """The file of a list, whatever the case of its name; None if there is none."""
    return next((one.name for one in sorted(root.iterdir()) if one.name.lower() == name.lower() and one.is_file()), None)


def _names(root: Path, name: str) -> set[str]:
    refuse_outside(root, root / name)
    return set(read_file(root / name, "list_bytes", "restore the list").decode("utf-8-sig", errors="replace").split())
