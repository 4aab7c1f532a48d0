"""The `nifti:` source: a folder of NIfTI volumes, read slice by slice, with or without a table of labels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator

from petechia.core.budget import check
from petechia.core.errors import PetechiaError, listing
from petechia.core.files import expand_home
from petechia.data.catalog import Catalog, split_by_patient
from petechia.data.formats.grouping import in_paths, is_grouping, note_on_use
from petechia.data.formats.labelling import TEST_SHARE, Labelling, LabelOptions
from petechia.data.formats.locate import Missing, locate, refuse_missing
from petechia.data.formats.nifti import Header, NiftiFile, read_header, require_nibabel, slices_of
from petechia.data.formats.slices import SliceOptions, SliceReader, note_on_slices
from petechia.data.formats.walking import MASK, NIFTI, READABLE, kind_of, masks_among, walk
from petechia.data.not_read import Files, Reason
from petechia.data.sources.folder import read_listed
from petechia.data.sources.options import hint_at_option, split_options

RANGE = re.compile(r"\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*:\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*", re.IGNORECASE)
LABELS_FOLDER = re.compile(r"labels(tr|ts)?", re.IGNORECASE)  # of the Medical Segmentation Decathlon and nnU-Net
END = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)


class NiftiOptions(LabelOptions, SliceOptions):
    """Options of the source, in addition to those in `LabelOptions` and `SliceOptions`.

    Attributes:
        table: table of labels; its column of images contains paths or file names.
        range: values that are black and white, "LOW:HIGH"; None means as the file says, or the range of the volume.
    """

    table: Path | None = None
    range: str | None = None

    @field_validator("range")
    @classmethod
    def _is_a_range(cls, value: str | None) -> str | None:
        try:
            if value is None or cls._ends(value):
                return value
        except ValueError:
            pass
        raise ValueError("give the values that are black and white, as in range=-160:240")

    @staticmethod
    def _ends(text: str) -> tuple[float, float] | None:
        match = RANGE.fullmatch(text)
        low, high = (float(match[1]), float(match[2])) if match else (0.0, 0.0)
        return (low, high) if -1e37 <= low < high <= 1e37 else None

    @property
    def shown(self) -> tuple[float, float] | None:
        """The values that are black and white; None if they are not given."""
        return None if self.range is None else self._ends(self.range)


def open_nifti(source: str, text: str, missing: Missing = "error") -> Catalog:
    """Open a NIfTI source: read the headers of all volumes. Each slice is an image; those of a volume are of one patient.

    Args:
        source: the whole source, for messages.
        text: FOLDER with options, see `NiftiOptions`.
        missing: what to do if the table lists volumes that the folder does not contain.

    Raises:
        PetechiaError: nibabel is not installed, there is no volume, a row of the table is invalid (the message names it), an
            option needs a table, a volume of a table has not the slices that were asked for, or a file is outside the folder.
    """
    require_nibabel()
    name, options = split_options(source, text, NiftiOptions)
    root = expand_home(name)
    if not root.is_dir():
        hint = hint_at_option(name, NiftiOptions)
        raise PetechiaError(f"The data source {source!r} names {root}, which is not a folder; correct the path{hint}.")
    files = Files()
    if options.table is None:
        catalog = _without_table(source, root, options, files)
    else:
        catalog = _with_table(root, options, expand_home(options.table), missing, files)
    return replace(catalog, not_read=files.frozen)


def _without_table(source: str, root: Path, options: NiftiOptions, files: Files) -> Catalog:
    given = [key for key in LabelOptions.model_fields if key in options.model_fields_set and getattr(options, key)]
    if given:
        raise PetechiaError(f"{given[0]!r} in the data source {source!r} is about a table, and none is given; add table=FILE.")
    found = list(_volumes_in(root, files))
    drawn = _masks_among(found)
    for path in sorted(drawn):
        files.add(Reason.MASK, path)
    paths = np.array([path for path in found if path not in drawn], np.str_)
    if not len(paths):
        said = str(files.frozen)
        raise PetechiaError(f"{root} has no .nii or .nii.gz file; give a folder of NIfTI files.{f' {said}' if said else ''}")
    patients = paths if options.patient == "" else in_paths(paths)
    notes = (note_on_use(patients),) if is_grouping(patients, sure=True) else ()
    labels, labelling = np.zeros((len(paths), 0), np.int8), Labelling((), "multi-label", ())
    volumes = _Volumes(paths, patients, split_by_patient(patients, TEST_SHARE), labels)
    return _catalog(root, volumes, options, labelling, notes, files)


def _volumes_in(root: Path, files: Files) -> Iterator[str]:
    """Yield the NIfTI files below a folder; `files` gets the other images."""
    for path in walk(root, files):
        if path.lower().endswith(NIFTI):
            yield path
        elif kind := kind_of(root, path):
            files.add(Reason.NO_NIFTI if kind == READABLE else kind, path)


def _add_unlisted(root: Path, listed: set[str], left_out: set[str], files: Files) -> None:
    """Note the volumes that a table does not list; `left_out` are names of those that it leaves out on purpose."""
    for path in _volumes_in(root, files):
        name = path.rpartition("/")[2]
        if path not in listed and left_out.isdisjoint({path, name, END.sub("", path), END.sub("", name)}):
            files.add(Reason.UNLISTED, path)


def _masks_among(paths: list[str]) -> set[str]:
    """Return the segmentations of other volumes: A_seg.nii.gz beside A.nii.gz or A_t1.nii.gz, labelsTr/ beside imagesTr/."""
    plain = {END.sub(".nii", path): path for path in paths}
    found = {plain[path] for path in masks_among(plain)}
    for path in paths:
        folder, _, name = path.rpartition("/")
        match = MASK.match(END.sub("", name))
        beside = folder.rpartition("/")[0]
        if match and any(other.startswith(f"{folder}/{match['of']}".lstrip("/")) and other != path for other in paths):
            found.add(path)
        images = re.sub("labels", "images", folder.rpartition("/")[2], flags=re.IGNORECASE)
        where = f"{beside}/{images}/".lstrip("/").casefold()
        if LABELS_FOLDER.fullmatch(folder.rpartition("/")[2]) and any(other.casefold().startswith(where) for other in paths):
            found.add(path)
    return found


def _with_table(root: Path, options: NiftiOptions, path: Path, missing: Missing, files: Files) -> Catalog:
    listed = read_listed(path, options, root)
    paths, here = locate(root, listed.ids, options.near)
    refuse_missing(root, path, listed.ids, here, missing, "check the folder and the table", "add near=accept to the source")
    for name in listed.ids[~here].tolist():
        files.add(Reason.MISSING, name)
    _add_unlisted(root, set(paths[here].tolist()), set(listed.left_out.tolist()), files)
    volumes = _Volumes(paths[here], listed.patients[here], listed.split[here], listed.labels[here])
    return _catalog(root, volumes, options, listed.labelling, listed.notes, None)


class _Volumes(NamedTuple):
    """N volumes: paths, patients and split, str [N], and labels, int8 [N, K]."""

    paths: NDArray[np.str_]
    patients: NDArray[np.str_]
    split: NDArray[np.str_]
    labels: NDArray[np.int8]


def _catalog(
    root: Path, volumes: _Volumes, options: NiftiOptions, labelling: Labelling, notes: tuple[str, ...], files: Files | None
) -> Catalog:
    """Make a catalog of the slices; `files` gets volumes without the slices that were asked for, None refuses them."""
    axis = options.axis or "axial"
    ids: list[str] = []
    which: list[int] = []
    numbers: list[int] = []
    headers: dict[str, Header] = {}
    there, few = 0, ""
    for row, path in enumerate(volumes.paths.tolist()):
        count, chosen = 1, np.arange(1)
        try:
            headers[path] = header = read_header(root / path)
        except PetechiaError:
            ids.append(path)  # reading it raises the error again, where it can be skipped
        else:
            count = slices_of(header, axis)
            chosen = options.chosen(count)
            ids += [f"{path}#{axis}-{number + 1}" for number in chosen.tolist()]
        if not len(chosen):
            few = f"{root / path} has {count:,} {axis} slices, too few for slices={options.slices}"
            if files is None:
                raise PetechiaError(f"{few}; change slices=.")
            files.add(Reason.SLICES, path)
            continue
        there += count
        check("array_images", there, f"{root} has {there:,} slices or more")
        which += [row] * len(chosen)
        numbers += chosen.tolist()
    if not ids:
        raise PetechiaError(f"No slice is left: {few}; change slices=.")
    files_read = tuple(NiftiFile(path, axis, options.shown) for path in volumes.paths.tolist())
    rows = np.array(which, np.intp)
    return Catalog(
        name=root.resolve().name,
        classes=labelling.classes,
        ids=np.array(ids, np.str_),
        patients=volumes.patients[rows],
        split=volumes.split[rows],
        labels=volumes.labels[rows],
        reader=SliceReader(root, files_read, rows, np.array(numbers, np.intp)),
        task=labelling.task,
        notes=(*notes, *labelling.notes, *_notes_on_headers(headers), *note_on_slices(len(ids), there, options)),
    )


def _notes_on_headers(headers: dict[str, Header]) -> tuple[str, ...]:
    several = [path for path, header in headers.items() if header.volumes > 1]
    unplaced = [path for path, header in headers.items() if not header.placed]
    notes = []
    if several:
        notes.append(
            f"{len(several):,} NIfTI files have several volumes, such as points in time; the first of each is read, and the "
            f"others are not looked at: {listing(several)}."
        )
    if unplaced:
        notes.append(
            f"{len(unplaced):,} NIfTI files do not say how their axes lie; they are read as if these grew to the left, the "
            f"front and the head: {listing(unplaced)}."
        )
    return tuple(notes)
