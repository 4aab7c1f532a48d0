"""The `dicom:` source: a folder or a DICOMDIR of DICOM images, with or without a table of labels: each frame is an image."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from petechia.core.budget import read_file
from petechia.core.errors import PetechiaError, listing, printable
from petechia.core.files import expand_home
from petechia.data.catalog import Catalog, split_by_patient
from petechia.data.formats.dicom import is_dicom, quiet
from petechia.data.formats.dicom_headers import Header, is_deflated, read_header
from petechia.data.formats.dicom_parsing import parse_bounded
from petechia.data.formats.grouping import in_paths
from petechia.data.formats.images import Decoding
from petechia.data.formats.labelling import (
    PATIENTS,
    TEST_SHARE,
    Labelling,
    LabelOptions,
    find_column,
    read_labels,
    read_patients,
    read_split,
    select_views,
    with_split,
)
from petechia.data.formats.locate import DEPTH, Missing, refuse_missing
from petechia.data.formats.slices import SliceOptions, note_on_slices
from petechia.data.formats.spelling import SUFFIX, accept_near
from petechia.data.formats.tables import read_table
from petechia.data.formats.walking import SUFFIXES, refuse_outside, walk
from petechia.data.not_read import Files, Reason
from petechia.data.sources.dicom_volumes import Folder, Rows, rows_of
from petechia.data.sources.folder import image_column, image_ids, left_out, taken_columns
from petechia.data.sources.options import hint_at_option, split_options

NEARLY_ALL = 0.9  # share of the files with one PatientID from which on it counts as that of de-identified files
MANY_STUDIES = 5  # of them, at least
# What stands in the place of a PatientID that was removed.
PLACEHOLDER = re.compile(
    r"|anon(ymous|ymi[sz]ed|ymi[sz]ation|ym)?|de-?identified|de-?id|removed|redacted|deleted|none|null|n/?a|nan|unknown|unk"
    r"|no ?(name|id|patient ?id)|patient|patient ?id|subject|test|[x*0-]+",
    re.IGNORECASE,
)


class DicomOptions(LabelOptions):
    """Options of all sources of DICOM images, in addition to those in `LabelOptions`.

    Attributes:
        table: table of labels; its column of images contains SOPInstanceUIDs, paths or file names.
        colour: whether to keep colours.
        window: number of the VOI LUT or window, see `read_dicom`.
    """

    table: Path | None = None
    colour: bool = False
    window: int = Field(1, ge=1, le=100)


class DicomFolderOptions(DicomOptions, SliceOptions):
    """Options of a folder."""


class Found(NamedTuple):
    """DICOM images that were found, wherever they are.

    Attributes:
        name: of the catalog.
        where: they are, for messages.
        root: folder that paths in a table may begin with.
        headers: of the images; their paths are the ids.
        rows: makes the images of a catalog from headers; gets what was not read, or None to refuse it.
    """

    name: str
    where: str
    root: Path
    headers: tuple[Header, ...]
    rows: Callable[[list[Header], Files | None], Rows]


def open_dicom(source: str, text: str, missing: Missing = "error") -> Catalog:
    """Open a DICOM source: read the headers of all images, without decoding pixels.

    The frames of a file and the files of a series are the slices of a volume. Patients are identified by a digest of their
    PatientID, or of the StudyInstanceUID where the PatientID says nothing.

    Args:
        source: the whole source, for messages.
        text: FOLDER or DICOMDIR with options, see `DicomFolderOptions`. Of a folder all images are read, whether its DICOMDIR
            lists them or not; of a DICOMDIR those that it lists.
        missing: what to do if the table or the DICOMDIR lists images that the folder does not contain.

    Raises:
        PetechiaError: there is no DICOM image, a row of the table is invalid (the message names it), an option needs a table,
            or a file of a DICOMDIR or of the table is outside the folder.
    """
    name, options = split_options(source, text, DicomFolderOptions)
    path = expand_home(name)
    if not path.exists():
        hint = hint_at_option(name, DicomFolderOptions)
        raise PetechiaError(f"The data source {source!r} names {path}, which does not exist; correct the path{hint}.")
    root = path if path.is_dir() else path.parent
    files = Files()
    headers = _headers(root, None if path.is_dir() else path, missing, files)
    if not headers:
        said = str(files.frozen)
        raise PetechiaError(
            f"{path} has no DICOM image; give a folder of DICOM files, or a DICOMDIR.{f' {said}' if said else ''}"
        )

    def rows(chosen: list[Header], others: Files | None) -> Rows:
        return rows_of(Folder(root), chosen, options, Decoding(options.colour, options.window), others)

    return catalog_of(source, Found(root.resolve().name, str(root), root, tuple(headers), rows), options, missing, files)


def catalog_of(source: str, found: Found, options: DicomOptions, missing: Missing, files: Files) -> Catalog:
    """Make the catalog of DICOM images, with the labels of a table if there is one.

    Args:
        source: the whole source, for messages.
        found: the images.
        options: of the source.
        missing: what to do if the table lists images that were not found.
        files: what was not read; gets more of it.

    Raises:
        PetechiaError: as for `open_dicom`.
    """
    if options.table is None:
        catalog = _without_table(source, found, options, files)
    else:
        catalog = _with_table(found, options, expand_home(options.table), missing, files)
    return replace(catalog, not_read=files.frozen, notes=(*catalog.notes, *_note_on_bare(found.headers)))


def _without_table(source: str, found: Found, options: DicomOptions, files: Files) -> Catalog:
    headers = list(found.headers)
    given = {key: value for key, value in options if key in options.model_fields_set and value not in (None, "")}
    if needs := [key for key in given if key in LabelOptions.model_fields and key != "view_is"]:
        raise PetechiaError(f"{needs[0]!r} in the data source {source!r} is about a table, and none is given; add table=FILE.")
    if options.view_is:
        wanted = {view.strip().casefold() for view in options.view_is.split("|")}
        headers = [one for one in headers if one.view.casefold() in wanted]
        if not headers:
            raise PetechiaError(f"No DICOM image in {found.where} has the view {options.view_is}; leave out view_is.")
    patients, notes = patients_of(headers, options.patient)
    labels, labelling = np.zeros((len(headers), 0), np.int8), Labelling((), "multi-label", ())
    split = split_by_patient(patients, TEST_SHARE)
    return _catalog(found, headers, options, labelling, labels, patients, split, notes, files)


def _with_table(found: Found, options: DicomOptions, path: Path, missing: Missing, files: Files) -> Catalog:
    root, headers = found.root, list(found.headers)
    whole = read_table(path)
    image = image_column(whole, options)
    table = select_views(whole, options)
    options = with_split(table, options)
    listed = image_ids(table, image, root)
    index = _index(headers)
    names = [*listed.tolist(), *left_out(whole, table, image).tolist()]
    for leading in range(1, DEPTH + 1):  # folders above the given one
        if index.keys().isdisjoint(listed.tolist()):
            index |= {name: index[rest] for name in names if (rest := "/".join(name.split("/")[leading:])) in index}
    volumes = _volumes(headers)
    several = next((name for name in listed.tolist() if len(index.get(name, ())) > 1 and name not in volumes), None)
    if several is not None:
        raise PetechiaError(f"{path} names {several!r}, which occurs more than once in {found.where}; give paths in {image!r}.")
    if options.near == "accept":
        absent = [name for name in listed.tolist() if name not in index and name not in volumes]
        rows = {one.path: row for row, one in enumerate(headers)}
        index |= {name: [rows[path]] for name, path in accept_near(rows, absent, root).items()}
    index = volumes | index
    here = np.array([name in index for name in listed.tolist()])
    refuse_missing(root, path, listed, here, missing, "check the source and the table", where=found.where)
    for name in listed[~here].tolist():
        files.add(Reason.MISSING, name)
    known = {row for name in names for row in index.get(name, ())}
    for row, one in enumerate(headers):
        if row not in known:
            files.add(Reason.UNLISTED, one.path)
    named = [index[name] for name in listed[here].tolist()]
    table = table.take(np.repeat(np.flatnonzero(here), [len(rows) for rows in named]))  # a row may name a volume
    headers = [headers[row] for rows in named for row in rows]
    if len({one.path for one in headers}) < len(headers):
        raise PetechiaError(f"{path} names an image of {found.where} in two ways; keep only one of the rows.")
    patients, notes = patients_of(headers, options.patient)
    if options.patient or (notes and options.patient is None and find_column(table, None, PATIENTS)):
        patients, notes = read_patients(table, options, patients), ()
    split = read_split(table, options, patients)
    labelling, labels = read_labels(table, options, taken_columns(table, options, image))
    return _catalog(found, headers, options, labelling, labels, patients, split, notes, None)


def _catalog(
    found: Found,
    headers: list[Header],
    options: DicomOptions,
    labelling: Labelling,
    labels: NDArray[np.int8],
    patients: NDArray[np.str_],
    split: NDArray[np.str_],
    notes: tuple[str, ...],
    files: Files | None,
) -> Catalog:
    """Make a catalog of the slices of N files.

    Args:
        found: the images, of which these are some.
        headers: of the files.
        options: of the source.
        labelling: the classes.
        labels: int8 [N, K], of the files.
        patients: str [N], of the files.
        split: str [N], of the files.
        notes: about the source.
        files: gets volumes without the slices that were asked for; None refuses them.
    """
    rows = found.rows(headers, files)
    for parts, name in zip(rows.parts, rows.ids.tolist(), strict=True):
        if len(parts) > 1 and (labels[parts] != labels[parts[0]]).any():
            volume = found.root / name.rpartition("#")[0]
            raise PetechiaError(
                f"The slices of the volume of {volume} have different labels in {options.table}, so a slice across them has "
                f"none; leave out axis=."
            )
    return Catalog(
        name=found.name,
        classes=labelling.classes,
        ids=rows.ids,
        patients=patients[rows.headers],
        split=split[rows.headers],
        labels=labels[rows.headers],
        reader=rows.reader,
        task=labelling.task,
        colour=options.colour,
        notes=(*notes, *labelling.notes, *_note_on_slices(rows, options)),
    )


def patients_of(headers: Sequence[Header], given: str | None) -> tuple[NDArray[np.str_], tuple[str, ...]]:
    """Return the patient of each image as a digest, str [N], and notes.

    The PatientID of de-identified files is often empty, a placeholder, or the same in all. Of such files the StudyInstanceUID
    is the patient, or, without one, the SeriesInstanceUID, what the path says, or the file.

    Args:
        headers: of N images.
        given: the option `patient`; "" says that the PatientID says nothing.
    """
    counts = Counter(one.patient for one in headers)
    common, files = counts.most_common(1)[0]
    studies = {one.study for one in headers if one.patient == common}
    shared = files >= NEARLY_ALL * len(headers) and len(studies - {""}) >= MANY_STUDIES
    nameless = [
        given == "" or bool(PLACEHOLDER.fullmatch(one.patient.strip())) or (shared and one.patient == common) for one in headers
    ]
    paths = in_paths(np.array([one.path for one in headers], np.str_), guess=False).tolist()
    names = [
        one.study or one.series or path if unnamed else one.patient
        for one, path, unnamed in zip(headers, paths, nameless, strict=True)
    ]
    count = sum(unnamed and bool(one.patient.strip()) for one, unnamed in zip(headers, nameless, strict=True))
    note = (
        f"{count:,} of {len(headers):,} DICOM files have a PatientID that many files share, as de-identified files do, so each "
        f"study counts as a patient; if a table knows the patients, name its column with patient=COLUMN."
    )
    return np.array([_digest(name) for name in names], np.str_), (note,) if count > 1 and given is None else ()


def _note_on_slices(rows: Rows, options: DicomOptions) -> tuple[str, ...]:
    return note_on_slices(len(rows.ids), rows.there, options) if isinstance(options, SliceOptions) else ()


def _note_on_bare(headers: Sequence[Header]) -> tuple[str, ...]:
    bare = [one.path for one in headers if one.bare]
    if not bare:
        return ()
    return (f"{len(bare):,} DICOM files have no preamble; they are read all the same: {listing(bare)}.",)


def _index(headers: list[Header]) -> dict[str, list[int]]:
    """Index the images by UID, by path, and by file name with and without suffix."""
    found: dict[str, list[int]] = defaultdict(list)
    for row, one in enumerate(headers):
        name = one.path.rpartition("/")[2]
        stem = name.rpartition(".")[0] if name.lower().endswith(SUFFIXES) else name
        for key in {one.uid, one.path, name, stem}:
            found[key].append(row)
    return found


def _volumes(headers: list[Header]) -> dict[str, list[int]]:
    """Index the files of series by the series' UID, and by their folder if it has files of this series alone."""
    series: dict[str, list[int]] = defaultdict(list)
    folders: dict[str, list[int]] = defaultdict(list)
    for row, one in enumerate(headers):
        series[one.series].append(row)
        folders[one.path.rpartition("/")[0]].append(row)
    alone = {folder: rows for folder, rows in folders.items() if len({headers[row].series for row in rows}) == 1}
    return {name: rows for name, rows in (series | alone).items() if name}


def _headers(root: Path, directory: Path | None, missing: Missing, files: Files) -> list[Header]:
    """Read the headers of all images below the folder.

    Args:
        root: the folder.
        directory: a DICOMDIR; only the images that it lists are returned. None returns all.
        missing: what to do if a DICOMDIR lists files that are not there.
        files: gets the other files that are or may hold images, and those that are missing.
    """
    index = directory or next((root / name for name in ("DICOMDIR", "dicomdir") if (root / name).is_file()), None)
    listed: list[str] = []
    if index:
        refuse_outside(root, index)
        listed = _existing(root, index, _listed(index), missing, files)
    wanted, found = set(listed), []
    with quiet():
        for path in dict.fromkeys([*listed, *walk(root, files)]):
            header = read_header(root, path)
            if isinstance(header, Reason):
                files.add(header, path)
            elif header and (directory is None or path in wanted):
                found.append(header)
            elif header:
                files.add(Reason.NO_DIRECTORY, path)
    return found


def _existing(root: Path, directory: Path, names: list[str], missing: Missing, files: Files) -> list[str]:
    """Return the files that a DICOMDIR lists; their names may differ in case and suffix, as on a mounted disc or in a copy."""
    for name in names:
        if name.startswith("/") or ".." in name.split("/"):
            raise PetechiaError(f"{directory} names a file outside its folder; correct it.")
        refuse_outside(root, root / name)
    found = {name: name for name in names if os.path.isfile(root / name)}  # noqa: PTH113 (pathlib raises if a name is too long)
    absent = defaultdict(list)
    for name in names:
        if name not in found:
            absent[_plain(name)].append(name)
    near = defaultdict(list)
    for path in walk(root, Files()) if absent else ():
        if path not in found:
            near[_plain(path)].append(path)
    for plain, several in absent.items():
        if len(several) == len(near[plain]) == 1:
            found[several[0]] = near[plain][0]
            continue
        if missing == "error":
            raise PetechiaError(
                f"{directory} lists {printable(several[0])}, which is missing; restore it, leave it out with --missing skip, "
                "or remove the DICOMDIR."
            )
        for name in several:
            files.add(Reason.MISSING, name)
    return [found[name] for name in names if name in found]


def _plain(path: str) -> str:
    return SUFFIX.sub("", path).casefold()


def _listed(directory: Path) -> list[str]:
    """Return the names of the files that a DICOMDIR lists, relative to its folder."""
    content = read_file(directory, "image_bytes", "give a folder without it")
    paths = []
    with quiet():
        try:
            if is_dicom(content) and is_deflated(directory):
                raise PetechiaError(f"{directory} is deflated, which is not supported; give a folder without it.")
            parsed = parse_bounded(io.BytesIO(content), str(directory), "dicomdir_elements") if is_dicom(content) else None
            records = parsed.DirectoryRecordSequence if parsed else None
            for record in records or ():
                if name := record.get("ReferencedFileID"):
                    parts = [name] if isinstance(name, str) else list(name)
                    paths.append("/".join(str(part) for part in parts))
        except PetechiaError:
            raise
        except Exception as error:  # a damaged file can make pydicom raise anything
            raise PetechiaError(f"{directory} is damaged and cannot be read ({type(error).__name__}); give a folder.") from None
    if not paths:
        raise PetechiaError(f"{directory} lists no file; give a folder without it, or the DICOMDIR of the images.")
    return list(dict.fromkeys(paths))


def _digest(patient: str) -> str:
    return hashlib.sha256(f"petechia:{patient}".encode()).hexdigest()[:16]
