"""Which images of a table belong together, if it names no patients: those of one lesion, case or study."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import printable
from petechia.data.catalog import split_by_patient
from petechia.data.formats.labelling import (
    PATIENTS,
    SPLITS,
    TEST_SHARE,
    LabelOptions,
    find_column,
    plain,
    read_patients,
    read_split,
)
from petechia.data.formats.spelling import one_spelling
from petechia.data.formats.tables import Table

# Names of columns whose cells are ids of something that several images can show, reduced to lower-case letters and digits.
GROUP = re.compile(
    r"(anon|anonymi[sz]ed|deidentified|hashed|dicom|original|new)?"
    r"(patient|subject|subj|person|participant|individual|case|lesion|study|exam|examination|accession|series|session|visit|mrn)"
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
FEWEST = 4  # groups: with fewer, a column is a class or a site
LARGEST = 0.25  # share of the images in one group, at most
MEAN = 20  # images of a group on average, at most
NAMED = 0.2  # share of the paths that contain the id of a patient, at least


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
    groups = groups_in(table, ids, {column, find_column(table, options.split, SPLITS)})
    notes: list[str] = []
    if column is None and options.patient is None:
        used = next((name for name, values in groups.items() if not given or not in_several(values, split)), None)
        if used is not None:
            patients = groups.pop(used)
            split = split if given else split_by_patient(patients, TEST_SHARE)
            notes.append(note_on_use(patients, used))
    return Grouped(patients, split, (*notes, *_notes_on_straddling(groups, split, given)))


def groups_in(table: Table, ids: NDArray[np.str_], others: set[str | None]) -> dict[str, NDArray[np.str_]]:
    """Return column → group of each image, str [N], the largest groups first; the column "" are ids in the paths.

    Args:
        table: table with N rows.
        ids: str [N], paths of the images.
        others: columns with another meaning.
    """
    found = {}
    for name in table.frame.columns:
        if name not in others and GROUP.fullmatch(plain(name)) and not (cells := table.texts(name)).is_null().any():
            found[name] = one_spelling(cells).to_numpy().astype(np.str_)
    found[""] = in_paths(ids)
    grouped = {name: values for name, values in found.items() if is_grouping(values)}
    return dict(sorted(grouped.items(), key=lambda one: (one[0] == "", len(np.unique(one[1])))))


def in_paths(ids: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return the id of a patient in each path, str [N]; a path without one is its own group, and so is each if few have one."""
    found = [_longest(path) for path in ids.tolist()]
    if sum(bool(one) for one in found) < NAMED * len(ids):
        return ids
    return np.array([one or path for one, path in zip(found, ids.tolist(), strict=True)], np.str_)


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


def notes_on_straddling(groups: NDArray[np.str_], split: NDArray[np.str_]) -> tuple[str, ...]:
    """Return a note if ids of patients in the paths, str [N], are in two splits."""
    return _notes_on_straddling({"": groups} if is_grouping(groups) else {}, split, given=True)


def is_grouping(values: NDArray[np.str_]) -> bool:
    """Return whether values, str [N], can be ids of what several images show: neither all different, nor classes."""
    counts = np.unique(values, return_counts=True)[1]
    several = FEWEST <= len(counts) < len(values)
    return bool(several and len(values) <= MEAN * len(counts) and counts.max() <= max(2, LARGEST * len(values)))


def note_on_use(values: NDArray[np.str_], column: str = "") -> str:
    """Return the note that the values of a column, or ids in the paths, str [N], count as patients."""
    shared = f"{column!r}" if column else f"ids in their paths, such as {str(values[0])!r}"
    return (
        f"No column names patients, so images that share {printable(shared)} count as those of one patient "
        f"({len(np.unique(values)):,} for {len(values):,} images); write patient= if each image is its own patient."
    )


def _notes_on_straddling(groups: dict[str, NDArray[np.str_]], split: NDArray[np.str_], given: bool) -> tuple[str, ...]:
    notes = []
    for name, values in groups.items():
        if count := straddling(values, split):
            among = f"{count:,} of {len(np.unique(values)):,}"
            if not name:
                notes.append(
                    f"{among} patients that the paths seem to name, such as {printable(str(values[0]))!r}, have images both in "
                    f"the test split and in another, so the test is not independent of the training."
                )
                continue
            way = f"patient={name},split=" if given else f"patient={name}"
            notes.append(
                f"{among} values of {printable(name)!r} have images both in the test split and in another, so the test is not "
                f"independent of the training; {printable(way)} keeps them together."
            )
    return tuple(notes)
