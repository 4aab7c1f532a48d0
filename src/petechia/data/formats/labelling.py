"""Interpret the columns of a table: labels, patients, split and views of its images."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from petechia.core.budget import check
from petechia.core.errors import PetechiaError, listing, printable
from petechia.core.settings import Settings
from petechia.core.task import Task
from petechia.data.catalog import split_by_patient
from petechia.data.formats.spelling import Near, one_spelling, refuse_rounded
from petechia.data.formats.tables import Table, cleaned, columns_of, numbers

# Usual column names, reduced to lower-case letters and digits; the first one that exists is used.
PATIENTS = ("patient", "patientid", "subject", "subjectid")
SPLITS = ("split", "subset", "partition")
VIEWS = ("view", "viewposition", "projection", "frontallateral")
LABELS = (
    *("findinglabels", "labels", "label", "findings", "finding", "diagnoses", "diagnosis", "dx", "classes", "class"),
    *("pathologies", "pathology", "disease", "category", "target", "level", "grade"),
)
NOTHING = ("nofinding", "nofindings", "none")  # names for an image without findings
DEVICES = "supportdevices"  # an image without findings may show these
# Columns that may hold 0 and 1, but say nothing about findings; `labels` takes them nevertheless.
METADATA = (
    *("sex", "gender", "male", "female", "ismale", "isfemale", "implant", "implants", "hasimplant", "pregnant", "smoker"),
    *(
        "age",
        "laterality",
        "side",
        "invert",
        "inverted",
        "isinverted",
        "fold",
        "kfold",
        "index",
        "followup",
        "difficultnegativecase",
    ),
)
# Texts in the column of one class; numbers are parsed separately.
TEXTS = {
    **dict.fromkeys(("true", "t", "yes", "y", "present", "positive"), 1),
    **dict.fromkeys(("false", "f", "no", "n", "absent", "negative"), 0),
    **dict.fromkeys(("nan", "na", "n/a", "null", "unknown", "uncertain"), -1),
}
EMPTY = ("nan", "na", "n/a", "null")  # texts that mean an empty cell in a column of names
NO_ID = (*EMPTY, "none", "unknown", "unk", "missing", "-", "?", "#n/a", "<na>")  # texts that stand for a missing id
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
LONGEST = 200  # maximum length of a class name, in characters
TEST_SHARE = 0.22  # share of the patients in the test split if none is given, about as in NIH ChestX-ray14


class LabelOptions(Settings):
    """How to interpret a table. An empty column name means that the table has no such column; None detects the column.

    Attributes:
        image: column that names the images.
        labels: columns of the classes, separated by bars, or one column that contains class names.
        separator: separator between the names in one cell; None uses a bar or a semicolon if a cell contains one.
        none: name that means that no class is present.
        empty: meaning of an empty cell in the column of a class.
        task: see `Catalog`; None means multi-class if one column contains one name in every cell, and multi-label otherwise.
        patient: column of the patients; without it, every image counts as its own patient.
        split: column with "train", "validation" and "test"; without it, patients are split by a hash of their names.
        view: column of the views.
        view_is: views to use, separated by bars.
        near: "accept" takes images and class names whose spelling differs in case, suffix or leading zeros.
    """

    image: str | None = None
    labels: str | None = None
    separator: str | None = None
    none: str | None = None
    empty: Literal["unknown", "absent"] = "unknown"
    task: Task | None = None
    patient: str | None = None
    split: str | None = None
    view: str | None = None
    view_is: str | None = None
    near: Near = "refuse"


def plain(name: str) -> str:
    """Reduce a name to lower-case letters and digits."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def find_column(table: Table, given: str | None, usual: Sequence[str]) -> str | None:
    """Return the given column or, if `given` is None, the first one with a usual name; None if there is none.

    Raises:
        PetechiaError: the given column does not exist.
    """
    if given == "":
        return None
    columns = table.frame.columns
    if given is not None:
        found = [name for name in columns if name == given] or [
            name for name in columns if name.casefold() == given.strip().casefold()
        ]
        if not found:
            raise PetechiaError(f"{table.path} has no column {given!r}; its columns are {columns_of(table)}.")
        return found[0]
    spelled = {plain(name): name for name in reversed(columns)}
    return next((spelled[name] for name in usual if name in spelled), None)


def select_views(table: Table, options: LabelOptions) -> Table:
    """Return the rows with the views in `view_is`.

    Raises:
        PetechiaError: there is no column of views, or no row has one of these views.
    """
    if not options.view_is:
        return table
    column = find_column(table, options.view, VIEWS)
    if column is None:
        raise PetechiaError(f"{table.path} has no column of views; name it with view=COLUMN, or leave out view_is.")
    wanted = [name.strip().casefold() for name in options.view_is.split("|")]
    views = table.texts(column)
    chosen = table.take(views.str.to_lowercase().is_in(wanted).fill_null(value=False).arg_true().to_numpy())
    if chosen.frame.is_empty():
        raise PetechiaError(
            f"{table.path} has no row whose {column!r} is {options.view_is}; it has {listing(sorted(set(views.drop_nulls())))}."
        )
    return chosen


def identities(table: Table, column: str) -> pl.Series:
    """Return the cells of a column of ids; those that say that there is none, such as "NA", are null."""
    cells = table.texts(column)
    return cells.set(cells.str.to_lowercase().is_in(NO_ID).fill_null(value=False), None)


def read_patients(table: Table, options: LabelOptions, ids: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return the patient of each image, str [N].

    Raises:
        PetechiaError: a cell is empty.
    """
    column = find_column(table, options.patient, PATIENTS)
    if column is None:
        return ids
    patients = identities(table, column)
    table.refuse(patients.is_null(), f"has an empty {column!r}")
    refuse_rounded(table, column)
    return one_spelling(patients).to_numpy().astype(np.str_)


def read_split(table: Table, options: LabelOptions, patients: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return the split of each image: "train", "validation" or "test".

    Raises:
        PetechiaError: a cell contains anything else, or a patient is in two splits; the message does not name the patient.
    """
    column = find_column(table, options.split, SPLITS)
    if column is None:
        return split_by_patient(patients, TEST_SHARE)
    split = table.texts(column).str.to_lowercase().replace_strict(SPLIT_NAMES, default=None, return_dtype=pl.String)
    table.refuse(split.is_null(), f"has an unknown split in {column!r}, which must be train, validation or test:", column)
    straddle = pl.DataFrame({"patient": patients, "split": split}).with_columns(
        (pl.col("split") != pl.col("split").first().over("patient")).alias("bad")
    )["bad"]
    table.refuse(straddle, f"has a patient who is also in another split; its {column!r} is", column)
    return split.to_numpy().astype(np.str_)


@dataclass(frozen=True)
class Labelling:
    """The columns of the labels in a table, and their format.

    Attributes:
        classes: names of the K classes.
        task: see `Catalog`.
        columns: one column per class, or one column that contains class names.
        separator: separator between the names in one column; None if there is one column per class.
        nothing: name for an image without any class.
        left_out: columns that look like classes, but describe the patient or the image.
    """

    classes: tuple[str, ...]
    task: Task
    columns: tuple[str, ...]
    separator: str | None = None
    nothing: str = "No Finding"
    left_out: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about the choice of the columns that the user should know."""
        if not self.left_out:
            return ()
        classes = printable("|".join((*self.columns, *self.left_out)), 120)
        return (f"{listing(self.left_out)} are left out of the classes; write labels={classes} to learn them too.",)

    def rewrite(self, frame: pl.DataFrame, before: NDArray[np.int8], after: NDArray[np.int8]) -> pl.DataFrame:
        """Return the table with new labels; the cells of unchanged labels keep their text.

        Args:
            frame: N rows of the table.
            before: int8 [N, K], labels in the table.
            after: int8 [N, K], labels to write.
        """
        changed = before != after
        if self.separator is None:
            columns = [
                _respelled(frame[name], changed[:, k], [_CELLS[int(value)] for value in after[:, k]])
                for k, name in enumerate(self.columns)
            ]
            return frame.with_columns(columns)
        texts = [self.separator.join(self.classes[k] for k in np.flatnonzero(row == 1)) or self.nothing for row in after]
        return frame.with_columns(_respelled(frame[self.columns[0]], changed.any(axis=1), texts))


_CELLS = {1: "1", 0: "0", -1: ""}


def _respelled(cells: pl.Series, changed: NDArray[np.bool_], texts: Sequence[str]) -> pl.Series:
    """Replace the texts of some cells; numbers are formatted like the others in the column, as in 1.0 or 1,0."""
    decimals = next(iter(cells.str.extract(r"^\s*[01]([.,]0+)\s*$").drop_nulls()), "")
    usual = {"1": f"1{decimals}", "0": f"0{decimals}"}
    old = cells.to_list()
    new = [usual.get(text, text) if there else before for before, there, text in zip(old, changed.tolist(), texts, strict=True)]
    return pl.Series(cells.name, new, pl.String)


def read_labels(table: Table, options: LabelOptions, taken: Collection[str]) -> tuple[Labelling, NDArray[np.int8]]:
    """Find the labels in a table, int8 [N, K].

    Args:
        table: table with at least one row.
        options: how to interpret the table.
        taken: columns with another meaning.

    Raises:
        PetechiaError: there are no labels, or one of them is invalid (the message names its row).
    """
    if options.labels == "":
        return Labelling((), "multi-label", ()), np.zeros((len(table.frame), 0), np.int8)
    free = [name for name in table.frame.columns if name not in taken]
    if options.labels is not None:
        return _given(table, options)
    usual = find_column(table, None, LABELS)
    if usual in free and not _is_of_one_class(table, usual):
        return _from_names(table, usual, options)
    found = [name for name in free if _is_of_one_class(table, name)]
    classes = [name for name in found if plain(name) not in NOTHING]
    left_out = tuple(name for name in classes if plain(name) in METADATA)
    if len(left_out) < len(classes):
        classes = [name for name in classes if name not in left_out]
    else:
        left_out = ()
    if not classes:
        raise PetechiaError(
            f"{table.path} has no column that looks like labels; its columns are {columns_of(table)}; name them with "
            f"labels=A|B|C, or write labels= if there are none."
        )
    labelling, labels = _from_columns(table, classes, options)
    for name in set(found) - {*classes, *left_out}:  # CheXpert: with "No Finding", findings that are not mentioned are absent
        normal = _truth(table, name)[:, None] == 1
        mentioned = np.array([plain(one) == DEVICES for one in classes])
        labels[normal & (labels == -1) & ~mentioned] = 0
    return replace(labelling, left_out=left_out), labels


def _given(table: Table, options: LabelOptions) -> tuple[Labelling, NDArray[np.int8]]:
    text = options.labels or ""
    names = [text] if text in table.frame.columns else text.split("|")
    columns = [name for name in (find_column(table, one.strip() or " ", ()) for one in names) if name is not None]
    if len(set(columns)) < len(columns):
        raise PetechiaError(f"labels={text} names a column of {table.path} twice; name it once.")
    named = len(columns) == 1 and (options.task == "multi-class" or not _is_of_one_class(table, columns[0]))
    if named or (len(columns) == 1 and options.separator):
        return _from_names(table, columns[0], options)
    return _from_columns(table, columns, options)


def _is_of_one_class(table: Table, column: str) -> bool:
    """Return whether a column contains only 1, 0, -1, true, false and empty cells, and is not entirely empty."""
    for some in (table.frame[column].head(200), table.frame[column]):
        texts = cleaned(some).str.to_lowercase()
        counts = numbers(texts).is_in([1.0, 0.0, -1.0]).fill_null(value=False)
        if not (texts.is_null() | texts.is_in(["nan", "true", "false"]) | counts).all():
            return False
    return bool(texts.is_not_null().any())


def _truth(table: Table, column: str) -> NDArray[np.int8]:
    """Parse the column of one class, int8 [N]; a cell that is neither true, false nor unknown becomes 2."""
    texts = table.texts(column).str.to_lowercase()
    words = texts.replace_strict(TEXTS, default=None, return_dtype=pl.Int8)
    values = numbers(texts)
    said = pl.select(
        pl.when(texts.is_null())
        .then(-1)
        .when(words.is_not_null())
        .then(words)
        .when(values.is_in([1.0, 0.0, -1.0]))
        .then(values)
    ).to_series()
    return said.fill_null(2).cast(pl.Int8).to_numpy().copy()


def _from_columns(table: Table, columns: list[str], options: LabelOptions) -> tuple[Labelling, NDArray[np.int8]]:
    check("table_classes", len(columns), f"{table.path} has {len(columns):,} columns of labels", "name some")
    truths = []
    for name in columns:
        truth = _truth(table, name)
        table.refuse(pl.Series(truth == 2), f"has a value in {name!r} that is neither 1, 0, -1 nor empty:", name)
        if options.empty == "absent":
            truth[table.texts(name).is_null().to_numpy()] = 0
        truths.append(truth)
    labels = np.stack(truths, axis=1)
    task: Task = options.task or "multi-label"
    if task == "multi-class":
        several = ((labels == 1).sum(axis=1) != 1) | (labels == -1).any(axis=1)
        table.refuse(pl.Series(several), "does not have exactly one class, as multi-class data must")
    return Labelling(tuple(columns), task, tuple(columns)), labels


def _from_names(table: Table, column: str, options: LabelOptions) -> tuple[Labelling, NDArray[np.int8]]:
    cells = table.texts(column)
    cells = cells.set(cells.str.to_lowercase().is_in(EMPTY).fill_null(value=False), None)
    listed = bool(cells.str.starts_with("[").all()) and cells.is_not_null().any()  # as Python prints a list of strings
    separator = options.separator or (
        "," if listed else next((s for s in "|;" if cells.str.contains(s, literal=True).any()), "")
    )
    parts = cells.str.split(separator) if separator else cells.reshape((-1, 1)).arr.to_list()
    edges = " \t\r\n'\"[]" if listed else " \t\r\n"
    names = pl.DataFrame({"row": np.arange(len(cells)), "name": parts}).explode("name", empty_as_null=True)
    names = names.with_columns(pl.col("name").str.strip_chars(edges)).filter(pl.col("name").is_not_null())
    if listed:
        names = names.filter(pl.col("name") != "")
    blank = np.zeros(len(cells), bool)
    blank[names.filter(pl.col("name") == "")["row"].to_numpy()] = True
    table.refuse(pl.Series(blank), f"has an empty name between the separators in {column!r}:", column)
    names = _one_spelling(table, names, column, options)
    distinct = names["name"].unique().to_list()
    nothing = [name for name in distinct if (plain(name) in NOTHING if options.none is None else name == options.none.strip())]
    task: Task = options.task or ("multi-label" if separator or nothing else "multi-class")
    classes = _in_order(distinct if task == "multi-class" else [name for name in distinct if name not in nothing])
    if longest := next((name for name in classes if len(name) > LONGEST), None):
        raise PetechiaError(
            f"{table.path} has a class of {len(longest):,} characters in {column!r}: {printable(longest)!r}; "
            "name another column."
        )
    advice = "set the column of the labels, or the separator between them, with labels=COLUMN,separator=S"
    check("table_classes", len(classes), f"{table.path} has {len(classes):,} different names in {column!r}", advice)
    if not classes:
        raise PetechiaError(f"{table.path} has no class in {column!r}; set the column of the labels with labels=COLUMN.")
    index = {name: k for k, name in enumerate(classes)}
    present = names.filter(pl.col("name").is_in(classes))
    labels = np.zeros((len(cells), len(classes)), np.int8)
    labels[present["row"].to_numpy(), present["name"].replace_strict(index, return_dtype=pl.Int64).to_numpy()] = 1
    labels[cells.is_null().to_numpy()] = -1
    if task == "multi-class":
        table.refuse(cells.is_null(), f"has no class in {column!r}, as multi-class data must")
        table.refuse(pl.Series((labels == 1).sum(axis=1) != 1), f"has several classes in {column!r}:", column)
    elif nothing:
        says = names.filter(pl.col("name").is_in(nothing))["row"].to_numpy()
        both = np.zeros(len(cells), bool)
        both[says] = (labels[says] == 1).any(axis=1)
        table.refuse(pl.Series(both), f"has {nothing[0]} and another finding in {column!r}:", column)
    return Labelling(tuple(classes), task, (column,), separator or "|", nothing[0] if nothing else "No Finding"), labels


def _one_spelling(table: Table, names: pl.DataFrame, column: str, options: LabelOptions) -> pl.DataFrame:
    """Give names that mean the same number one spelling; those that differ in case only if `near` says so.

    Raises:
        PetechiaError: two names differ in case.
    """
    names = names.with_columns(one_spelling(names["name"]))
    by_key: dict[str, list[str]] = {}
    for name, _ in names.group_by("name").len().sort("len", "name", descending=[True, False]).iter_rows():
        by_key.setdefault(" ".join(name.casefold().split()), []).append(name)
    several = {key: same for key, same in by_key.items() if len(same) > 1 and plain(same[0]) not in NOTHING}
    if several and options.near == "refuse":
        usual, other, *_ = next(iter(several.values()))
        row = int(names.filter(pl.col("name") == other)["row"][0])
        raise PetechiaError(
            f"{table.path}, row {table.rows[row]}, has {printable(other)!r} in {column!r}, and other rows have "
            f"{printable(usual)!r}; write one of them, or take them as one class with near=accept."
        )
    new = {name: same[0] for same in several.values() for name in same}
    return names.with_columns(pl.col("name").replace(new)) if new else names


def _in_order(names: list[str]) -> list[str]:
    """Sort names, by value if all are numbers."""
    try:
        return sorted(names, key=float)
    except ValueError:
        return sorted(names)
