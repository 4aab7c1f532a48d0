"""The `dicom:` source: a folder or a DICOMDIR of DICOM images, with or without a table of labels."""

from __future__ import annotations

import hashlib
import io
import os
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydantic import Field
from pydicom.filereader import read_file_meta_info

from petechia.core.errors import PetechiaError, printable
from petechia.data.catalog import Catalog, split_by_patient
from petechia.data.formats.dicom import DEFLATED, is_dicom, quiet
from petechia.data.formats.images import Decoding, FileReader
from petechia.data.formats.labelling import (
    TEST_SHARE,
    Labelling,
    LabelOptions,
    read_labels,
    read_patients,
    read_split,
    select_views,
)
from petechia.data.formats.locate import SUFFIXES, Missing, refuse_missing, refuse_outside, walk
from petechia.data.formats.spelling import accept_near
from petechia.data.formats.tables import read_table
from petechia.data.sources.folder import image_column, image_ids, taken_columns
from petechia.data.sources.options import hint_at_option, split_options

TAGS = ["SOPInstanceUID", "PatientID", "StudyInstanceUID", "Rows", "ViewPosition"]


class DicomOptions(LabelOptions):
    """Options of the source, in addition to those in `LabelOptions`.

    Attributes:
        table: table of labels; its column of images contains SOPInstanceUIDs, paths or file names.
        colour: whether to keep colours.
        window: number of the VOI LUT or window, see `read_dicom`.
    """

    table: Path | None = None
    colour: bool = False
    window: int = Field(1, ge=1, le=100)


class _Header(NamedTuple):
    path: str  # relative to the folder
    uid: str
    patient: str
    view: str


def open_dicom(source: str, text: str, missing: Missing = "error") -> Catalog:
    """Open a DICOM source: read the headers of all images, without decoding pixels.

    Patients are identified by a digest of their PatientID.

    Args:
        source: the whole source, for messages.
        text: FOLDER or DICOMDIR with options, see `DicomOptions`.
        missing: what to do if the table lists images that the folder does not contain.

    Raises:
        PetechiaError: there is no DICOM image, a row of the table is invalid (the message names it), or a file is outside the
            folder.
    """
    name, options = split_options(source, text, DicomOptions)
    path = Path(name).expanduser()
    if not path.exists():
        hint = hint_at_option(name, DicomOptions)
        raise PetechiaError(f"The data source {source!r} names {path}, which does not exist; correct the path{hint}.")
    root = path if path.is_dir() else path.parent
    headers = _headers(root, path if path.is_file() else root / "DICOMDIR")
    if not headers:
        raise PetechiaError(f"{path} has no DICOM image; give a folder of DICOM files, or a DICOMDIR.")
    if options.table is None:
        return _without_table(root, headers, options)
    return _with_table(root, headers, options, options.table.expanduser(), missing)


def _without_table(root: Path, headers: list[_Header], options: DicomOptions) -> Catalog:
    if options.view_is:
        wanted = {view.strip().casefold() for view in options.view_is.split("|")}
        headers = [one for one in headers if one.view.casefold() in wanted]
        if not headers:
            raise PetechiaError(f"No DICOM image in {root} has the view {options.view_is}; leave out view_is.")
    patients = np.array([one.patient for one in headers], np.str_)
    labels = np.zeros((len(headers), 0), np.int8)
    return _catalog(
        root, headers, options, Labelling((), "multi-label", ()), labels, patients, split_by_patient(patients, TEST_SHARE)
    )


def _with_table(root: Path, headers: list[_Header], options: DicomOptions, path: Path, missing: Missing) -> Catalog:
    table = select_views(read_table(path), options)
    image = image_column(table, options)
    listed = image_ids(table, image, root)
    index = _index(headers)
    several = next((name for name in listed.tolist() if len(index.get(name, ())) > 1), None)
    if several is not None:
        raise PetechiaError(f"{path} names {several!r}, which occurs more than once in {root}; give paths in {image!r}.")
    if options.near == "accept":
        absent = [name for name in listed.tolist() if name not in index]
        rows = {one.path: row for row, one in enumerate(headers)}
        index |= {name: [rows[path]] for name, path in accept_near(rows, absent, root).items()}
    here = np.array([name in index for name in listed.tolist()])
    refuse_missing(root, path, listed, here, missing, "check the folder and the table")
    table = table.take(np.flatnonzero(here))
    headers = [headers[index[name][0]] for name in listed[here].tolist()]
    patients = np.array([one.patient for one in headers], np.str_)
    if options.patient:
        patients = read_patients(table, options, patients)
    split = read_split(table, options, patients)
    labelling, labels = read_labels(table, options, taken_columns(table, options, image))
    return _catalog(root, headers, options, labelling, labels, patients, split)


def _catalog(
    root: Path,
    headers: list[_Header],
    options: DicomOptions,
    labelling: Labelling,
    labels: NDArray[np.int8],
    patients: NDArray[np.str_],
    split: NDArray[np.str_],
) -> Catalog:
    paths = np.array([one.path for one in headers], np.str_)
    if len(np.unique(paths)) < len(paths):
        raise PetechiaError(f"{options.table} names an image of {root} in two ways; keep only one of the rows.")
    return Catalog(
        name=root.resolve().name,
        classes=labelling.classes,
        ids=paths,
        patients=patients,
        split=split,
        labels=labels,
        reader=FileReader(root, paths, Decoding(options.colour, options.window)),
        task=labelling.task,
        colour=options.colour,
    )


def _index(headers: list[_Header]) -> dict[str, list[int]]:
    """Index the images by UID, by path, and by file name with and without suffix."""
    found: dict[str, list[int]] = defaultdict(list)
    for row, one in enumerate(headers):
        name = one.path.rpartition("/")[2]
        stem = name.rpartition(".")[0] if name.lower().endswith(SUFFIXES) else name
        for key in {one.uid, one.path, name, stem}:
            found[key].append(row)
    return found


def _headers(root: Path, directory: Path) -> list[_Header]:
    """Read the images in the DICOMDIR or, without one, all images below the folder; files without pixels are left out."""
    if directory.is_file():
        refuse_outside(root, directory)
        paths = _listed(root, directory)
    else:
        paths = list(walk(root))
    with quiet():
        return [one for path in paths if (one := _header(root, path))]


def _listed(root: Path, directory: Path) -> list[str]:
    """Return the files that a DICOMDIR lists, relative to its folder."""
    content = directory.read_bytes()
    paths = []
    with quiet():
        try:
            if is_dicom(content) and _is_deflated(directory):
                raise PetechiaError(f"{directory} is deflated, which is not supported; give a folder without it.")
            records = pydicom.dcmread(io.BytesIO(content)).DirectoryRecordSequence if is_dicom(content) else None
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
    for path in paths:
        if path.startswith("/") or ".." in path.split("/"):
            raise PetechiaError(f"{directory} names a file outside its folder; correct it.")
        refuse_outside(root, root / path)
        if not os.path.isfile(root / path):  # noqa: PTH113 (pathlib raises if a name is too long)
            raise PetechiaError(f"{directory} lists {printable(path)}, which is missing; restore it, or remove the DICOMDIR.")
    return list(dict.fromkeys(paths))


def _is_deflated(path: Path) -> bool:
    """Return whether a file is deflated; pydicom would inflate everything after the meta header, however large that is."""
    return bool(read_file_meta_info(path).get("TransferSyntaxUID") == DEFLATED.decode())


def _header(root: Path, path: str) -> _Header | None:
    """Read the header of one image; None if the file is not a DICOM image."""
    try:
        with (root / path).open("rb") as file:
            if not is_dicom(file.read(132)):
                return None
            file.seek(0)
            if _is_deflated(root / path):  # reading its pixels later raises an error
                return _Header(path, path, _digest(path), "")
            entries = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS)
            if "Rows" not in entries:
                return None
            patient = entries.get("PatientID") or entries.get("StudyInstanceUID") or path
            return _Header(
                path, str(entries.get("SOPInstanceUID", path)), _digest(str(patient)), str(entries.get("ViewPosition") or "")
            )
    except Exception as error:  # a damaged file can make pydicom raise anything
        raise PetechiaError(
            f"{root / path} is damaged and cannot be read ({type(error).__name__}); check the DICOM file."
        ) from None


def _digest(patient: str) -> str:
    return hashlib.sha256(f"petechia:{patient}".encode()).hexdigest()[:16]
