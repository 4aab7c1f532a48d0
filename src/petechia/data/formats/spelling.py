"""Names that are spelled in several ways: `1`, `1.0` and `01` in a table, `im1.JPG` for `im1.jpg` in a folder."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Literal

import polars as pl

from petechia.core.errors import PetechiaError, printable
from petechia.data.formats.tables import Table

Near = Literal["refuse", "accept"]
# A whole number, as spreadsheets and pandas may rewrite it; 1.000 is not 1, but may be a thousand.
COUNT = r"^0*(\d+)(?:[.,](?:0{0,2}|0{4,}))?$"
ODD = r"^0\d|^\d+[.,]0*$|[^\x00-\x7F]"  # what may have another spelling
ROUNDED = r"^\d([.,]\d+)?[eE]\+\d+$"
# Suffixes of files that may hold an image, whether or not they are read. Others are a part of the name, as in 1.2.840.
SUFFIX = re.compile(
    r"\.(png|jpe?g|jpe|jfif|tiff?|dcm|dicom|dic|bmp|gif|webp|pgm|ppm|jp2|j2k|nii|gz|mha|mhd|nrrd|npy|npz)$", re.IGNORECASE
)


def one_spelling(names: pl.Series) -> pl.Series:
    """Give names that mean the same one spelling: the shortest that occurs.

    Whole numbers are the same if their values are, and texts if they are canonically equivalent in Unicode.

    Args:
        names: N texts; none is null.
    """
    if not names.str.contains(ODD).any():  # as in nearly all tables; the rest takes a while
        return names
    distinct = names.unique().to_list()
    spellings = defaultdict(list)
    for name in distinct:
        spellings[re.sub(COUNT, r"\1", composed(name))].append(name)
    if len(spellings) == len(distinct):
        return names
    new = {name: min(same, key=lambda text: (len(text), text)) for same in spellings.values() for name in same}
    return names.replace_strict(new, return_dtype=pl.String)


def refuse_rounded(table: Table, column: str) -> None:
    """Refuse names that a spreadsheet took for numbers and rounded, such as 1.23E+12: different ones may have become one.

    Raises:
        PetechiaError: a cell of the column looks like that.
    """
    rounded = table.texts(column).str.contains(ROUNDED).fill_null(value=False)
    table.refuse(rounded, f"has a {column!r} that a spreadsheet has rounded (export it again, as text):", column)


def composed(name: str) -> str:
    """Return a text in Unicode's composed form, NFC: é is one letter, not e and an accent."""
    return unicodedata.normalize("NFC", name)


def class_key(name: str) -> str:
    """Reduce the name of a class to what its spellings share, as "Pleural_Effusion" and "pleural effusion" do."""
    return re.sub(r"(?<=[^\W_])[\s_-]+(?=[^\W_])", " ", composed(name).casefold().strip().strip("_"))


def near(name: str) -> str:
    """Reduce a path to what names near to it share: case, suffix of an image, Unicode form and leading zeros do not count."""
    path = PurePosixPath(unicodedata.normalize("NFKC", name).casefold().strip())
    return "/".join([*path.parts[:-1], _near_file(path.name)])


def _near_file(name: str) -> str:
    while len(shorter := SUFFIX.sub("", name)) < len(name):  # .nii.gz has two
        name = shorter
    name = re.sub(COUNT, r"\1", name)
    return re.sub(r"\d+", lambda digits: digits[0].lstrip("0") or "0", name)


def near_paths(paths: Iterable[str], names: Iterable[str]) -> dict[str, list[str]]:
    """Find the paths that are near to names, see `near`. A name without a folder is compared with the file's name alone.

    Args:
        paths: relative paths of files that no table names.
        names: names that no file has.

    Returns:
        Name → paths that are near to it; names without any are left out.
    """
    by_path, by_file = defaultdict(list), defaultdict(list)
    for path in paths:
        by_path[near(path)].append(path)
        by_file[near(path.rpartition("/")[2])].append(path)
    found = {name: (by_path if "/" in name else by_file).get(near(name), []) for name in names}
    return {name: some for name, some in found.items() if some}


def accept_near(paths: Iterable[str], names: Iterable[str], root: Path) -> dict[str, str]:
    """Return name → the one path that is near to it; see `near_paths`.

    Raises:
        PetechiaError: a name is near to several paths, or a path to several names.
    """
    accepted: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name, some in near_paths(paths, names).items():
        if len(some) > 1:
            raise PetechiaError(
                f"{printable(name)!r} is near both {printable(some[0])} and {printable(some[1])} in {root}; give the full name "
                f"in the table."
            )
        if some[0] in taken:
            raise PetechiaError(
                f"{printable(taken[some[0]])!r} and {printable(name)!r} are both near {printable(some[0])} in {root}; correct "
                f"the table."
            )
        accepted[name] = some[0]
        taken[some[0]] = name
    return accepted
