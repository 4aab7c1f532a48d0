"""The `xrv:` source: datasets of torchxrayvision (Cohen et al., MIDL 2022).

torchxrayvision's dataset classes read the tables; Petechia reads the images.
"""

from __future__ import annotations

import builtins
import inspect
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from petechia.core.errors import PetechiaError, first_line
from petechia.core.files import expand_home
from petechia.core.settings import Settings
from petechia.data.catalog import Catalog, split_by_patient
from petechia.data.formats.images import Decoding, FileReader
from petechia.data.formats.labelling import PATIENTS, TEST_SHARE, plain
from petechia.data.formats.locate import Missing, locate, refuse_missing
from petechia.data.formats.spelling import Near
from petechia.data.formats.tables import check_header
from petechia.data.formats.walking import beside
from petechia.data.not_read import NotRead, Reason
from petechia.data.sources.options import hint_at_option, split_options

OWN = "patientid"  # column of patients that most of the classes add
FIXED = {"views": ["*"], "unique_patients": False, "pathology_masks": False, "semantic_masks": False}


class XrvOptions(Settings):
    """Options of the source. Tables are required if the class does not include them.

    Attributes:
        csvpath: table of the labels.
        metacsvpath: second table, for MIMIC-CXR.
        extension: suffix of the files, such as `.dcm`, for RSNA.
        split: split to read, for TBX11K.
        view_is: views to use, separated by bars.
        window: window of DICOM files, see `read_dicom`.
        near: "accept" takes images whose names differ in case, suffix or leading zeros.
    """

    csvpath: Path | None = None
    metacsvpath: Path | None = None
    extension: str | None = None
    split: str | None = None
    view_is: str | None = None
    window: int = Field(1, ge=1, le=100)
    near: Near = "refuse"


def open_xrv(source: str, text: str, missing: Missing = "error") -> Catalog:
    """Open a dataset of torchxrayvision: its class reads the table and determines the paths of the images.

    Args:
        source: the whole source, for messages.
        text: NAME:FOLDER with options, see `XrvOptions`; NAME with or without `_Dataset`.
        missing: what to do if the table lists images that the folder does not contain.

    Raises:
        PetechiaError: torchxrayvision is not installed or has no such class, the class cannot read its table or cannot be
            adapted, or images are missing.
    """
    name, _, rest = text.partition(":")
    folder, options = split_options(source, rest, XrvOptions)
    root = expand_home(folder)
    if not root.is_dir():
        hint = hint_at_option(folder, XrvOptions)
        raise PetechiaError(f"The data source {source!r} names {root}, which is not a folder; correct the path{hint}.")
    kind = _dataset_class(name)
    dataset = _construct(kind, source, root, options)
    labels = _labels(kind, dataset)
    paths = _paths(kind, dataset, root)
    rows = _wanted(kind, dataset, options)
    rows = rows[_first_of_each(kind, paths[rows], labels[rows])]
    files, here = locate(root, paths[rows], options.near)
    of_class = Path(f"{kind.__name__} of torchxrayvision")
    refuse_missing(root, of_class, paths[rows], here, missing, "give the folder that its paths start in")
    patients = _patients(dataset, paths)[rows][here]
    return Catalog(
        name=kind.__name__.removesuffix("_Dataset"),
        classes=tuple(str(one) for one in dataset.pathologies),
        ids=files[here],
        patients=patients,
        split=split_by_patient(patients, TEST_SHARE),
        labels=labels[rows][here],
        reader=FileReader(root, files[here], Decoding(window=options.window)),
        not_read=beside(root, files[here], np.setdiff1d(paths, paths[rows]))
        + NotRead.of(Reason.MISSING, paths[rows][~here].tolist()),
    )


def _dataset_class(name: str) -> type[Any]:
    try:
        from torchxrayvision import datasets
    except ImportError:
        raise PetechiaError("xrv: sources need torchxrayvision; pip install 'petechia[xrv]'.") from None
    known = {
        one.removesuffix("_Dataset"): kind
        for one, kind in vars(datasets).items()
        if one.endswith("_Dataset") and inspect.isclass(kind) and "imgpath" in inspect.signature(kind).parameters
    }
    found = known.get(name.removesuffix("_Dataset"))
    if found is None:
        raise PetechiaError(
            f"torchxrayvision has no dataset {name!r} of images in a folder; it has {', '.join(sorted(known))}."
        )
    datasets._cache_dict.clear()  # SIIM caches the files of the first folder that it opened
    return found


def _construct(kind: type[Any], source: str, root: Path, options: XrvOptions) -> Any:
    takes = inspect.signature(kind).parameters
    given = {key: str(value) for key, value in options if value is not None and key not in ("view_is", "window", "near")}
    if unknown := [key for key in given if key not in takes]:
        raise PetechiaError(f"{unknown[0]!r} in the data source {source!r} is not an option of {kind.__name__}; leave it out.")
    needed = [key for key, one in takes.items() if one.default is one.empty and key not in ("imgpath", *given)]
    if needed:
        raise PetechiaError(
            f"{kind.__name__} does not include its tables; add {', '.join(f'{key}=FILE' for key in needed)} to {source!r}."
        )
    for key in ("csvpath", "metacsvpath"):
        if key in given and not Path(given[key]).is_file():  # pandas would block on a pipe
            raise PetechiaError(f"{key} in the data source {source!r} is not a file; correct it.")
        if key in given and not str(given[key]).endswith(".gz"):
            check_header(Path(given[key]))
    fixed = {key: value for key, value in FIXED.items() if key in takes}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from pandas, caused by the class
            return kind(imgpath=str(root), **given, **fixed)
    except Exception as error:  # a bad table can make pandas or the class raise anything
        raise PetechiaError(
            f"{kind.__name__} cannot read {source!r} ({type(error).__name__}: {first_line(error)}); check its table."
        ) from None


def _labels(kind: type[Any], dataset: Any) -> NDArray[np.int8]:
    """Return the labels, int8 [N, K]; NaN becomes -1 (unknown)."""
    labels = np.asarray(dataset.labels, np.float64)
    if len(labels) == 0:
        raise PetechiaError(f"{kind.__name__} finds no image in its table; check the table.")
    known = ~np.isnan(labels)
    if not np.isin(labels[known], (0, 1)).all():
        raise PetechiaError(f"{kind.__name__} has labels other than 0, 1 and unknown, which are not supported.")
    return np.where(known, labels, -1).astype(np.int8)


def _wanted(kind: type[Any], dataset: Any, options: XrvOptions) -> NDArray[np.intp]:
    """Return the rows with the requested views."""
    if not options.view_is:
        return np.arange(len(dataset.labels))
    if "view" not in dataset.csv:
        raise PetechiaError(f"{kind.__name__} has no column of views; leave out view_is.")
    views = dataset.csv["view"].astype(str).str.casefold().to_numpy()
    rows = np.flatnonzero(np.isin(views, [one.strip().casefold() for one in options.view_is.split("|")]))
    if not len(rows):
        raise PetechiaError(
            f"{kind.__name__} has no image with the view {options.view_is}; it has {', '.join(sorted(set(views)))}."
        )
    return rows


def _patients(dataset: Any, paths: NDArray[np.str_]) -> NDArray[np.str_]:
    columns = {plain(str(column)): column for column in reversed(list(dataset.csv.columns))}
    columns |= {"patientid": OWN} if OWN in dataset.csv else {}
    column = next((columns[name] for name in PATIENTS if name in columns), None)
    if column is None or dataset.csv[column].isna().any():
        return paths
    return np.array(dataset.csv[column].astype(str).tolist(), np.str_)


def _first_of_each(kind: type[Any], paths: NDArray[np.str_], labels: NDArray[np.int8]) -> NDArray[np.intp]:
    """Return the first row of each image; SIIM has one row per finding."""
    _, first, inverse = np.unique(paths, return_index=True, return_inverse=True)
    differs = (labels != labels[first[inverse]]).any(axis=1)
    if differs.any():
        raise PetechiaError(f"{kind.__name__} has two rows with different labels for {paths[differs][0]}; correct its table.")
    return np.sort(first)


def _paths(kind: type[Any], dataset: Any, root: Path) -> NDArray[np.str_]:
    """Return the paths of all images relative to the folder, str [N].

    Every class builds the path differently, inside `__getitem__`, and reads the image immediately. Therefore this calls a copy
    of that method in which the functions that read images raise an exception with the path instead.

    Raises:
        PetechiaError: the class reads images in a way that cannot be intercepted, or a path leads out of the folder.
    """
    ask = _asking(kind.__getitem__)
    stand_in = SimpleNamespace(**(vars(dataset) | {"csv": _Columns(dataset.csv)}))
    top = os.path.normpath(root)
    found = []
    for row in range(len(dataset.labels)):
        try:
            ask(stand_in, row)
            raise TypeError("it reads no file")
        except _AskedError as asked:
            path = os.path.normpath(asked.path)
        except KeyError as absent:  # SIIM searches the folder first
            path = f"{top}{os.sep}{absent.args[0]}"
        except Exception as error:
            raise PetechiaError(
                f"{kind.__name__} does not reveal the path of the image in row {row + 1} ({type(error).__name__}), so it "
                f"cannot be used; use a folder: source with its table."
            ) from None
        if not path.startswith(top + os.sep):
            raise PetechiaError(f"{kind.__name__}, row {row + 1}, names an image outside {root}; correct its table.")
        found.append(path[len(top) + 1 :].replace(os.sep, "/"))
    return np.array(found, np.str_)


class _AskedError(Exception):
    def __init__(self, path: str) -> None:
        self.path = path


class _Asked:
    """Replaces a function or module that reads images: calling it or any of its attributes raises `_AskedError`."""

    def __getattr__(self, name: str) -> _Asked:
        return self

    def __call__(self, path: str, *_: Any, **__: Any) -> NoReturn:
        raise _AskedError(str(path))


def _asking(method: FunctionType) -> Callable[[Any, int], Any]:
    """Return a copy of a method in which every function that reads images is replaced by `_Asked`."""

    def instead(name: str, *rest: Any) -> Any:
        return _Asked() if name.partition(".")[0] == "pydicom" else __import__(name, *rest)

    own_builtins = vars(builtins) | {"__import__": instead}
    own = method.__globals__ | {"imread": _Asked(), "pydicom": _Asked(), "__builtins__": own_builtins}
    return FunctionType(method.__code__, own, method.__name__, method.__defaults__, method.__closure__)


class _Columns:
    """A fast replacement of a data frame for the access that the classes need: `csv[c].iloc[r]` and `csv.iloc[r][c]`."""

    def __init__(self, frame: Any) -> None:
        self.frame = frame
        self.lists: dict[str, list[Any]] = {}
        self.iloc = _Rows(self)

    def cells(self, column: str) -> list[Any]:
        if column not in self.lists:
            self.lists[column] = self.frame[column].tolist()
        return self.lists[column]

    def __getitem__(self, column: str) -> SimpleNamespace:
        return SimpleNamespace(iloc=self.cells(column))


class _Rows:
    def __init__(self, columns: _Columns) -> None:
        self.columns = columns

    def __getitem__(self, row: int) -> _Row:
        return _Row(self.columns, row)


class _Row:
    def __init__(self, columns: _Columns, row: int) -> None:
        self._columns, self._row = columns, row

    def __getitem__(self, column: str) -> Any:
        return self._columns.cells(column)[self._row]

    __getattr__ = __getitem__
