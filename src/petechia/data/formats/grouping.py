"""Which images of a table belong together, if it names no patients: those of one lesion, case or study."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from petechia.core.errors import printable
from petechia.data.catalog import split_by_patient
from petechia.data.formats.labelling import (
    PATIENTS,
    SPLITS,
    TEST_SHARE,
    LabelOptions,
    find_column,
    identities,
    notes_on_other_splits,
    plain,
    read_patients,
    read_split,
)
from petechia.data.formats.spelling import SUFFIX, one_spelling
from petechia.data.formats.tables import Table

# Names of columns whose cells are ids of something that several images can show, reduced to lower-case letters and digits.
GROUP = re.compile(
    r"(anon|anonymi[sz]ed|deidentified|hashed|dicom|original|new)?"
    r"(patient|subject|subj|person|participant|individual|donor|animal|case|lesion|study|exam|examination|accession|series|scan|"
    r"volume|slide|specimen|session|visit|mrn)"
    r"s?(instance)?(id|uid|no|nr|num|number|code|key|name|hash|index)?|pid"
)
# Parts of paths that are ids of patients.
IN_PATH = re.compile(
    r"(?:^|/)(?:"
    r"((?:patient|person|subject|subj|sub|pat|pid|p)[-_ ]?\d+)(?=[-_. /])"  # patient00001/study1/a.jpg, person1_virus_2.jpeg
    r"|[a-z]+-(\d{5,})-\d+(?=\.)"  # CNV-1016042-1.jpeg, of Kermany's OCT and chest images
    r"|(\d+)_(?:left|right)(?=$|[-_.])"  # 10_left.jpeg, of EyePACS
    r")",
    re.IGNORECASE,
)
# Of these, those that have as many images as there are slices.
WHOLE = re.compile(
    r".*(patient|subj|person|participant|individual|donor|animal|case|study|accession|series|scan|volume|slide|mrn|pid)"
)
FEWEST = 4  # groups: with fewer, a column is a class or a site
LARGEST = 0.25  # share of the images in one group, at most
MEAN = 20  # images of a group on average, at most
NAMED = 0.2  # share of the paths that contain the id of a patient, at least
# What stands before the last numbers or words of a name: 00000013 of 00000013_005, TCGA-A1-A0SB of TCGA-A1-A0SB_tile_7.
LEADING = re.compile(r"(.*(?:^|[-_ (])(?=[^-_ (]*\d)[^-_ (]+)[-_ (]+[^-_ (]")
LONGEST = 255  # letters of the name of a file
GUESSED = 10  # groups, at least, if they are known by their names alone, or if each has many images
# Folders with a number that are no patients: parts of a download.
PART = re.compile(
    r"(images?|imgs?|png|jpe?g|dicoms?|dcm|part|batch|fold|chunk|shard|set|split|dir|data|files?|train|test|val)?[-_ ]?\d+",
    re.I,
)


class Grouped(NamedTuple):
    """Patients and split of N images.

    Attributes:
        patients: str [N].
        split: str [N].
        notes: sentences about images that belong together.
    """

    patients: NDArray[np.str_]
    split: NDArray[np.str_]
    notes: tuple[str, ...]


def read_groups(table: Table, options: LabelOptions, ids: NDArray[np.str_]) -> Grouped:
    """Read the patients and the split of the images in a table.

    If the table has no column of patients, images with one value in a column such as lesion_id, case_id or study_id count as
    those of one patient, unless the table's own split separates them. If no column is left, ids of patients in the paths are
    used in the same way.

    Args:
        table: table with N rows.
        options: how to interpret it; patient="" says that there are no patients.
        ids: str [N], paths of the images.

    Raises:
        PetechiaError: a cell of the patients is empty, or as for `read_split`.
    """
    column = find_column(table, options.patient, PATIENTS)
    patients = read_patients(table, options, ids)
    split = read_split(table, options, patients)
    given = find_column(table, options.split, SPLITS) is not None
    groups = groups_in(table, ids, {column, find_column(table, options.split, SPLITS)}, guess=column is None)
    notes: list[str] = [] if given else list(notes_on_other_splits(table))
    if column is None and options.patient is None:
        used = next((name for name, values in groups.items() if not given or not in_several(values, split)), None)
        if used is not None:
            patients = groups.pop(used)
            split = split if given else split_by_patient(patients, TEST_SHARE)
            notes.append(note_on_use(patients, used))
    return Grouped(patients, split, (*notes, *_notes_on_straddling(groups, split, given)))


def groups_in(table: Table, ids: NDArray[np.str_], others: set[str | None], guess: bool = True) -> dict[str, NDArray[np.str_]]:
    """Return column → group of each image, str [N], the largest groups first; the column "" are ids in the paths.

    An image without an id in a column is its own group.

    Args:
        table: table with N rows.
        ids: str [N], paths of the images.
        others: columns with another meaning.
        guess: see `in_paths`.
    """
    found = {}
    for name in table.frame.columns:
        if name not in others and GROUP.fullmatch(plain(name)):
            cells = identities(table, name)
            cells = cells.zip_with(cells.is_not_null(), pl.Series(ids.tolist()))
            found[name] = one_spelling(cells).to_numpy().astype(np.str_)
    whole = {name for name, values in found.items() if WHOLE.match(plain(name)) and len(np.unique(values)) >= GUESSED}
    grouped = {name: values for name, values in found.items() if is_grouping(values, name in whole)}
    named = in_paths(ids, guess=guess and not grouped)
    if is_grouping(named, sure=True):
        grouped[""] = named
    return dict(sorted(grouped.items(), key=lambda one: (one[0] == "", len(np.unique(one[1])))))


def in_paths(ids: NDArray[np.str_], of_class: int | None = None, guess: bool = True) -> NDArray[np.str_]:
    """Return the id of a patient in each path, str [N]; a path without one is its own group, and so is each if few have one.

    Args:
        ids: str [N], paths.
        of_class: place of the class among the folders of a path; None if the folders are no classes.
        guess: whether, if few paths have an id of a usual form, what many of them share counts as one: the name of a folder
            below that of the class, or what stands before the last number of a name.
    """
    paths = ids.tolist()
    found = [_longest(path) for path in paths]
    if sum(map(bool, found)) >= NAMED * len(ids):
        return _or_itself(found, ids)
    if not guess:
        return ids
    folders = [_numbered(path.split("/")[0 if of_class is None else of_class + 1 : -1], of_class is None) for path in paths]
    classes = 0 if of_class is None else len({path.split("/")[of_class] for path in paths})
    for guessed in (folders, [_leading(path.rpartition("/")[2]) for path in paths]):
        groups = _or_itself(guessed, ids) if any(guessed) else ids
        counts = np.unique(groups, return_counts=True)[1]
        shared = counts[counts > 1]
        if shared.sum() >= NAMED * len(ids) and len(shared) >= max(GUESSED, 2 * classes + 1) and is_grouping(groups, sure=True):
            return groups
    return ids


def _or_itself(found: list[str], ids: NDArray[np.str_]) -> NDArray[np.str_]:
    return np.array([one or path for one, path in zip(found, ids.tolist(), strict=True)], np.str_)


def _numbered(folders: list[str], parts: bool) -> str:
    """Return the first folder with a number, or ""; `parts` says that there may be folders of parts of a download."""
    numbered = (folder for folder in folders if any(map(str.isdigit, folder)))
    return next((folder for folder in numbered if not (parts and PART.fullmatch(folder))), "")


def _leading(name: str) -> str:
    found = LEADING.match(SUFFIX.sub("", name)[:LONGEST])
    return found[1] if found else ""


def _longest(path: str) -> str:
    """Return the longest id of a patient in a path, or "": p10000032 of p10/p10000032/s50414267/a.jpg in MIMIC-CXR."""
    found = (next(filter(None, match.groups())) for match in IN_PATH.finditer(path))
    return max(found, key=len, default="")


def straddling(groups: NDArray[np.str_], split: NDArray[np.str_]) -> int:
    """Return the number of groups with images both in the test split and in another."""
    tested, trained = set(groups[split == "test"].tolist()), set(groups[split != "test"].tolist())
    return len(tested & trained)


def in_several(groups: NDArray[np.str_], split: NDArray[np.str_]) -> bool:
    """Return whether a group has images in more than one split."""
    pairs = set(zip(groups.tolist(), split.tolist(), strict=True))
    return len(pairs) > len({group for group, _ in pairs})


def note_on_dicom(paths: NDArray[np.str_], patients: NDArray[np.str_], wanted: bool) -> tuple[str, ...]:
    """Return a note if images are DICOM files, and each counts as its own patient, though patients are wanted."""
    dicom = sum(path.lower().endswith((".dcm", ".dicom")) for path in paths.tolist())
    if not wanted or 2 * dicom <= len(paths) or len(np.unique(patients)) < len(patients):
        return ()
    return (
        "Each image counts as its own patient, because the patients that DICOM files name are read by dicom:FOLDER alone; use "
        "it, or a table with a column of patients.",
    )


def notes_on_straddling(groups: NDArray[np.str_], split: NDArray[np.str_]) -> tuple[str, ...]:
    """Return a note if ids of patients in the paths, str [N], are in two splits."""
    return _notes_on_straddling({"": groups} if is_grouping(groups, sure=True) else {}, split, given=True)


def is_grouping(values: NDArray[np.str_], sure: bool = False) -> bool:
    """Return whether values, str [N], can be ids of what several images show: neither all different, nor classes.

    Args:
        values: one value for each image.
        sure: whether they are ids, as those in paths, and no classes or sites, however many images have one.
    """
    counts = np.unique(values, return_counts=True)[1]
    several = FEWEST <= len(counts) < len(values)
    few_each = sure or len(values) <= MEAN * len(counts)
    return bool(several and few_each and counts.max() <= max(2, LARGEST * len(values)))


def note_on_use(values: NDArray[np.str_], column: str = "") -> str:
    """Return the note that the values of a column, or ids in the paths, str [N], count as patients."""
    shared = f"{column!r}" if column else f"ids in their paths, such as {_usual(values)!r}"
    return (
        f"No column names patients, so images that share {printable(shared)} count as those of one patient "
        f"({len(np.unique(values)):,} for {len(values):,} images); write patient= if each image is its own patient."
    )


def _usual(values: NDArray[np.str_]) -> str:
    """Return the first of the most frequent values."""
    names, counts = np.unique(values, return_counts=True)
    return str(names[counts.argmax()])


def _notes_on_straddling(groups: dict[str, NDArray[np.str_]], split: NDArray[np.str_], given: bool) -> tuple[str, ...]:
    notes = []
    for name, values in groups.items():
        if count := straddling(values, split):
            among = f"{count:,} of {len(np.unique(values)):,}"
            if not name:
                notes.append(
                    f"{among} patients that the paths seem to name, such as {printable(_usual(values))!r}, have images both in "
                    f"the test split and in another, so the test is not independent of the training."
                )
                continue
            way = f"patient={name},split=" if given else f"patient={name}"
            notes.append(
                f"{among} values of {printable(name)!r} have images both in the test split and in another, so the test is not "
                f"independent of the training; {printable(way)} keeps them together."
            )
    return tuple(notes)
