"""Interpret the columns of a table: labels, patients, split and views of its images."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from petechia.core.budget import check
from petechia.core.errors import PetechiaError, listing, printable
from petechia.core.settings import Settings
from petechia.core.task import Task
from petechia.data.catalog import split_by_patient
from petechia.data.formats.spelling import Near, class_key, composed, one_spelling, refuse_rounded
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
EMPTY = ("nan", "na", "n/a", "#n/a", "<na>", "null", "?")  # texts that mean an empty cell
# Texts in the column of one class, also as spreadsheets of other languages write them; numbers are parsed separately.
TEXTS = {
    **dict.fromkeys(("true", "t", "yes", "y", "present", "positive", "pos", "100%"), 1),
    **dict.fromkeys(("wahr", "vrai", "vero", "verdadero", "verdadeiro", "waar", "ja", "oui", "si", "sí", "sim"), 1),
    **dict.fromkeys(("false", "f", "no", "n", "absent", "negative", "neg", "0%"), 0),
    **dict.fromkeys(("falsch", "faux", "falso", "onwaar", "nein", "nee", "non", "não"), 0),
    **dict.fromkeys((*EMPTY, "unknown", "uncertain"), -1),
}
NO_ID = (*EMPTY, "none", "unknown", "unk", "missing", "-")  # texts that stand for a missing id
LETTERS = {"t", "f", "y", "n"}  # texts that are labels beside their opposites; F alone may be a sex
SOME = 0.15  # share of the cells in a column of labels that may be mistakes
# Columns of 0 and 1 that say the split, such as is_test.
SPLIT_FLAG = re.compile(r"(is|in|for)?(train|val|valid|validation|test|holdout)(ing)?(set|split|data)?")
# Cells that are lists, as Python, NumPy and JSON print them, their items, and vectors of numbers or truths.
LIST = r"(?s)^(?:\[.*\]|[({]\s*(?:['\"\d-].*)?[)}])$"
ITEM = r"'[^']*'|\"[^\"]*\""
NUMBER = r"(?i:[+-]?\d+(?:\.\d*)?(?:e[+-]?\d+)?|true|false)"
VECTOR = rf"^(?:tensor|array)?[\s\[({{]*{NUMBER}(?:[\s,;|]+{NUMBER})*[\s\])}}]*$"
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "holdout"), "test"),
}
# What is said beside the name of a split, as in "Train set" and "test_data".
BESIDE_SPLIT = r"(?:[-_ ]*(?:set|split|data|dataset|subset|images|partition))+$"
LONGEST = 200  # maximum length of a class name, in characters
MARKS = (*",;/|+&:\\\u3001\uff0c\uff1b\n\t", " and ", " - ", " ")  # what may stand between several names in one cell
SEVERAL = 2  # columns of 0 and 1 that may be the classes
MOST_SPLITS = 6  # different names of parts of a dataset
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


Options = TypeVar("Options", bound=LabelOptions)


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
        wanted = composed(given.strip()).casefold()
        found = [name for name in columns if name == given] or [name for name in columns if composed(name).casefold() == wanted]
        if not found:
            raise PetechiaError(f"{table.path} has no column {given!r}; its columns are {columns_of(table)}.")
        return found[0]
    spelled = {plain(name): name for name in reversed(columns)}
    column = next((spelled[name] for name in usual if name in spelled), None)
    nested = [name for name in table.nested if plain(name) in usual]
    if column is None and nested:
        raise PetechiaError(
            f"{table.path} has a column {nested[0]!r} that is nested, which is not read; its columns are {columns_of(table)}; "
            f"write what it says as text."
        )
    return column


def with_split(table: Table, options: Options) -> Options:
    """Return options that name the column of the split, if no column has a usual name and one holds only names of splits.

    Raises:
        PetechiaError: several columns do.
    """
    if options.split is not None or find_column(table, None, SPLITS) is not None:
        return options
    found = [name for name in table.frame.columns if _holds_splits(table, name)]
    if len(found) > 1:
        raise PetechiaError(f"{table.path} has splits in {listing(found)}; name one with split=COLUMN, or write split=.")
    return options.model_copy(update={"split": found[0]}) if found else options


def bare_splits(cells: pl.Series) -> pl.Series:
    """Return the cells of a column of splits in lower case, without what is said beside the name."""
    return cleaned(cells).str.to_lowercase().str.replace(BESIDE_SPLIT, "").str.replace_all("[-_]", "")


def _holds_splits(table: Table, column: str) -> bool:
    for some in (table.frame[column].head(200), table.frame[column]):
        names = bare_splits(some.unique()).drop_nulls()
        if not names.is_in(list(SPLIT_NAMES)).all():
            return False
    return names.n_unique() > 1


def notes_on_other_splits(table: Table) -> tuple[str, ...]:
    """Return a note on each column that says train, and something that is the name of no split."""
    notes = []
    for name in table.frame.columns:
        known = bare_splits(table.frame[name].head(200)).drop_nulls().unique()
        if (
            2 <= len(known) <= MOST_SPLITS
            and "train" in known.replace(SPLIT_NAMES)
            and not known.is_in(list(SPLIT_NAMES)).all()
        ):
            other = known.filter(~known.is_in(list(SPLIT_NAMES)))[0]
            notes.append(
                f"{printable(name)!r} holds {printable(other)!r} beside train, so the split is not read from it but made anew; "
                f"write train, validation and test in a column, and name it with split=COLUMN."
            )
    return tuple(notes)


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
    split = bare_splits(table.frame[column]).replace_strict(SPLIT_NAMES, default=None, return_dtype=pl.String)
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
        listed: whether the cells of one column are lists as Python prints them.
        notes: sentences about the table and the choice of the columns that the user should know.
    """

    classes: tuple[str, ...]
    task: Task
    columns: tuple[str, ...]
    separator: str | None = None
    nothing: str = "No Finding"
    listed: bool = False
    notes: tuple[str, ...] = ()

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
        names = [[self.classes[k] for k in np.flatnonzero(row == 1)] or [self.nothing] for row in after]
        texts = [str(some) if self.listed else self.separator.join(some) for some in names]
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
    labelling, labels = _read_labels(table, options, taken)
    return replace(labelling, notes=(*table.notes, *labelling.notes)), labels


def _read_labels(table: Table, options: LabelOptions, taken: Collection[str]) -> tuple[Labelling, NDArray[np.int8]]:
    if options.labels == "":
        return Labelling((), "multi-label", ()), np.zeros((len(table.frame), 0), np.int8)
    if options.labels is not None:
        return _given(table, options)
    usual = find_column(table, None, LABELS)
    if usual is not None and usual not in taken and not _is_of_one_class(table, usual):
        labelling, labels = _from_names(table, usual, options)
        return replace(labelling, notes=(*labelling.notes, *_notes_on_others(table, usual, taken))), labels
    counts = {name: _count_labels(table, name) for name in table.frame.columns if name not in taken}
    found = [name for name, (count, odd) in counts.items() if count and not odd]
    flags = [name for name in found if SPLIT_FLAG.fullmatch(plain(name))]
    classes = [name for name in found if plain(name) not in NOTHING and name not in flags]
    left_out = [name for name in classes if plain(name) in METADATA]
    if len(left_out) < len(classes):
        classes = [name for name in classes if name not in left_out]
    else:
        left_out = []
    notes = _notes_on_odd(table, counts, classes)
    if not classes:
        raise PetechiaError(
            f"{table.path} has no column that looks like labels; its columns are {columns_of(table)}; name them with "
            f"labels=A|B|C, or write labels= if there are none."
        )
    if left_out:
        named = printable("|".join((*classes, *left_out)), 120)
        notes.append(f"{listing(left_out)} are left out of the classes; write labels={named} to learn them too.")
    if flags:
        notes.append(
            f"{listing(flags)} are left out of the classes, and the split is not read from them; write a column with train and "
            f"test, and name it with split=COLUMN."
        )
    labelling, labels = _from_columns(table, classes, options)
    for name in set(found) - {*classes, *left_out, *flags}:  # CheXpert: with "No Finding", what is not mentioned is absent
        normal = _truth(table, name)[:, None] == 1
        mentioned = np.array([plain(one) == DEVICES for one in classes])
        labels[normal & (labels == -1) & ~mentioned] = 0
    return replace(labelling, notes=(*notes, *labelling.notes)), labels


def _notes_on_others(table: Table, usual: str, taken: Collection[str]) -> tuple[str, ...]:
    """Return a note if a column with a usual name is taken for the labels, though others hold 0 and 1."""
    others = []
    for name in table.frame.columns:
        skipped = name in taken or name == usual or plain(name) in METADATA or SPLIT_FLAG.fullmatch(plain(name))
        if not skipped and numbers(cleaned(table.frame[name].head(200)).drop_nulls()).is_in([0.0, 1.0, -1.0]).all():
            distinct = numbers(cleaned(table.frame[name]).unique()).drop_nulls()
            others += [name] if {0.0, 1.0} <= set(distinct) <= {0.0, 1.0, -1.0} else []
    if len(others) < SEVERAL:
        return ()
    named = printable("|".join(others), 120)
    return (
        f"The classes are read from {usual!r}, and {listing(others)}, which hold 0 and 1, are left out; write labels={named} "
        f"to learn these instead.",
    )


def _count_labels(table: Table, column: str) -> tuple[int, dict[str, int]]:
    """Return how many cells of a column are labels, and those that are neither labels nor empty, with their numbers."""
    for some in (table.frame[column].head(200), table.frame[column]):
        counts = some.rename("cell").value_counts(name="count")
        texts = cleaned(counts["cell"]).str.to_lowercase()
        letters = LETTERS & set(texts)
        known = [text for text, truth in TEXTS.items() if truth >= 0]
        if letters not in ({"t", "f"}, {"y", "n"}):
            known = [text for text in known if text not in LETTERS]
        labels = texts.is_in(known) | numbers(texts).is_in([1.0, 0.0, -1.0])
        odd = texts.is_not_null() & ~labels.fill_null(value=False) & ~texts.is_in([text for text in TEXTS if TEXTS[text] < 0])
        count = int(counts.filter(labels)["count"].sum())
        others = counts.filter(odd)
        if others["count"].sum() > count:
            break
    return count, dict(others.iter_rows())


def _notes_on_odd(table: Table, counts: dict[str, tuple[int, dict[str, int]]], classes: Sequence[str]) -> list[str]:
    """Return a note on columns that mostly, but not only, hold labels.

    Raises:
        PetechiaError: some cells alone are no labels, or there are no other classes.
    """
    notes = []
    for name, (count, odd) in counts.items():
        if not odd or sum(odd.values()) >= count or plain(name) in METADATA or SPLIT_FLAG.fullmatch(plain(name)):
            continue
        bad = table.frame[name].is_in(list(odd))
        if not classes or sum(odd.values()) <= SOME * (count + sum(odd.values())):
            advice = f"if {name!r} is no class, name the classes with labels={printable('|'.join(classes), 120) or 'A|B'}"
            table.refuse(bad, f"has a cell in {name!r} that is no label, as others there are ({advice}):", name)
        row = bad.arg_max() or 0
        notes.append(
            f"{printable(name)!r} is left out of the classes, because some of its cells are no labels, such as "
            f"{printable(table.frame[name][row])!r} in row {table.rows[row]}; correct them if it is a class."
        )
    return notes


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
        texts = cleaned(some.unique()).str.to_lowercase()
        counts = numbers(texts).is_in([1.0, 0.0, -1.0]).fill_null(value=False)
        if not (texts.is_null() | texts.is_in([*EMPTY, "true", "false"]) | counts).all():
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
    notes: tuple[str, ...] = ()
    if (labels == -1).any() and (labels == 1).any() and not (labels == 0).any():
        notes = ("No label says that a class is absent: -1 and empty cells mean unknown. Write 0 where they mean absent.",)
    return Labelling(tuple(columns), task, tuple(columns), notes=notes), labels


def _from_names(table: Table, column: str, options: LabelOptions) -> tuple[Labelling, NDArray[np.int8]]:
    cells = table.texts(column)
    cells = cells.set(cells.str.to_lowercase().is_in(EMPTY).fill_null(value=False), None)
    _refuse_vectors(table, cells, column)
    listed = _are_lists(table, cells, column)
    separator = options.separator or (
        "," if listed else next((s for s in "|;" if cells.str.contains(s, literal=True).any()), "")
    )
    if listed:
        parts = _items(table, cells, column, separator)
    else:
        ended = cells.str.replace(rf"[{re.escape(separator)}\s]+$", "") if separator else cells  # "Mass;Nodule;"
        parts = ended.str.split(separator) if separator else cells.reshape((-1, 1)).arr.to_list()
    names = pl.DataFrame({"row": np.arange(len(cells)), "name": parts}).explode("name", empty_as_null=True)
    names = names.with_columns(pl.col("name").str.strip_chars(" \t\r\n")).filter(pl.col("name").is_not_null())
    nameless = (cells == "[]").any()  # an empty list
    names = names.filter(pl.col("name") != ("" if listed else "[]"))
    blank = np.zeros(len(cells), bool)
    blank[names.filter(pl.col("name") == "")["row"].to_numpy()] = True
    table.refuse(pl.Series(blank), f"has an empty name between the separators in {column!r}:", column)
    names = _one_spelling(table, names, column, options)
    distinct = names["name"].unique().to_list()
    nothing = [name for name in distinct if (plain(name) in NOTHING if options.none is None else name == options.none.strip())]
    task: Task = options.task or ("multi-label" if separator or nothing or nameless else "multi-class")
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
    if options.separator is None and not listed:
        _refuse_combined(table, names, column, separator)
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
    named = nothing[0] if nothing else "No Finding"
    return Labelling(tuple(classes), task, (column,), separator or "|", named, listed), labels


def _are_lists(table: Table, cells: pl.Series, column: str) -> bool:
    """Return whether the cells of a column of names are lists.

    Raises:
        PetechiaError: some are and others are not; an empty list among names separated by bars is what Parquet gives.
    """
    lists = cells.str.contains(LIST) & (cells != "[]")
    if not lists.any():
        return bool((cells.drop_nulls() == "[]").all())
    others = ~(lists | (cells == "[]"))
    if lists.sum() >= (others.sum() or 0):
        table.refuse(others.fill_null(value=False), f"has no list in {column!r}, as other rows have:", column)
        return True
    table.refuse(lists & cells.str.contains(ITEM), f"has a list in {column!r}, as other rows have not:", column)
    return False


def _items(table: Table, cells: pl.Series, column: str, separator: str) -> pl.Series:
    """Return the items of lists: texts in quotes, or, without quotes, texts between separators."""
    quoted = cells.str.extract_all(ITEM)
    bare = quoted.list.len() == 0
    clean = cells.str.replace_all(ITEM, "").str.contains(r"^.[\s,]*.$")
    table.refuse((~bare & ~clean).fill_null(value=False), f"has a list in {column!r} that cannot be read:", column)
    split = cells.str.slice(1).str.head(-1).str.split(separator)
    return pl.select(pl.when(bare).then(split).otherwise(quoted.list.eval(pl.element().str.slice(1).str.head(-1)))).to_series()


def _refuse_vectors(table: Table, cells: pl.Series, column: str) -> None:
    """Refuse one-hot vectors and the like: equally long lists of numbers, which do not name classes."""
    distinct = cells.drop_nulls().unique()
    vectors = distinct.filter(distinct.str.contains(VECTOR) & distinct.str.contains(r"[^\w.+-]") & numbers(distinct).is_null())
    values = vectors.str.to_lowercase().str.extract_all(NUMBER)
    if 2 * len(vectors) <= len(distinct) or values.list.len().n_unique() > 1:
        return
    flat = values.explode().replace(["true", "false"], ["1", "0"]).cast(pl.Float64, strict=False)
    repeated = (values.list.n_unique() < values.list.len()).any()
    if repeated or flat.is_in([1.0, 0.0, -1.0]).all() or (flat != flat.floor()).any():
        bad = cells.is_in(vectors.implode()).fill_null(value=False)
        table.refuse(bad, f"has a vector in {column!r}, which names no class (write a column for each class):", column)


def _refuse_combined(table: Table, names: pl.DataFrame, column: str, separator: str) -> None:
    """Refuse a name such as "Mass, Nodule" if "Mass" and "Nodule" are names too."""
    distinct = names["name"].unique(maintain_order=True).to_list()
    known = {class_key(name) for name in distinct}
    for name in distinct:
        for mark in MARKS:
            parts = name.split(mark)
            numbered = mark != " " or all(map(str.isdigit, parts))  # Pleural Effusion is one class
            if len(parts) > 1 and numbered and known.issuperset(map(class_key, parts)):
                row = int(names.filter(pl.col("name") == name)["row"][0])
                several = f"add separator={mark} to the source" if mark == mark.strip() else "write a bar between its names"
                several = f"write {separator!r} between its names" if separator else several
                raise PetechiaError(
                    f"{table.path}, row {table.rows[row]}, has {printable(name)!r} in {column!r}, and other rows have its "
                    f"parts; {several}, or add separator={separator or '|'} if it is one class."
                )


def _one_spelling(table: Table, names: pl.DataFrame, column: str, options: LabelOptions) -> pl.DataFrame:
    """Give names that mean the same number one spelling; those that differ in case or underscores only if `near` says so.

    Raises:
        PetechiaError: two names differ in that.
    """
    names = names.with_columns(one_spelling(names["name"]))
    by_key: dict[str, list[str]] = {}
    for name, _ in names.group_by("name").len().sort("len", "name", descending=[True, False]).iter_rows():
        by_key.setdefault(class_key(name), []).append(name)
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
