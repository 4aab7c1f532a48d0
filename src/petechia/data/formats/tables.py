"""Tables that people have: CSV and TSV in their many forms, what a spreadsheet exports, and Parquet; all as text."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import zlib
from io import BufferedIOBase
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError, first_line, listing, printable

MOST_BYTES = 4 << 30  # of a table's text
MOST_COLUMNS = 5_000
BOMB = 100  # times its packed size, and what is harmless, in bytes, beyond which a text is refused
SMALL = 16 << 20
CHUNK = 1 << 22  # bytes
MOST_CELLS = 50_000_000  # of Parquet, in which equal cells take no space
MOST_ROWS = 100_000_000
HEADER = 1 << 20  # bytes of a header, at most
SEPARATORS = ",;\t|"
MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")


class Table(NamedTuple):
    """Rows of a table.

    Attributes:
        path: of its file.
        frame: all columns as text, as it stands in the file.
        rows: int [N], numbers of the rows, as a spreadsheet counts.
    """

    path: Path
    frame: pl.DataFrame
    rows: NDArray[np.intp]

    def take(self, rows: NDArray[np.intp]) -> Table:
        """Some of the rows."""
        return Table(self.path, self.frame[rows], self.rows[rows])

    def texts(self, column: str) -> pl.Series:
        """The cells of a column without spaces around them; null where one is empty."""
        stripped = self.frame[column].str.strip_chars()
        return stripped.set(stripped == "", None)

    def refuse(self, bad: pl.Series, problem: str, show: str | None = None) -> None:
        """Name the first row of the table for which a column of truth values is true, with its cell in another column.

        Raises:
            PetechiaError: there is one.
        """
        found = bad.arg_true().to_numpy()
        if len(found):
            shown = None if show is None else self.frame[show][int(found[0])]
            refuse_row(self.path, int(self.rows[found[0]]), problem, shown, len(found))


def refuse_row(path: Path, row: int, problem: str, shown: str | None, count: int) -> None:
    """Name a row of a table.

    Raises:
        PetechiaError: always.
    """
    cell = "" if shown is None else f" {printable(shown)!r}"
    more = f" ({count:,} such rows)" if count > 1 else ""
    raise PetechiaError(f"{path}, row {row}, {problem}{cell}{more}; correct the table.")


def check_header(path: Path, separator: str = ",") -> None:
    """Refuse a table of very many columns: polars takes kilobytes for each, and aborts the process where there is no memory.

    Raises:
        PetechiaError: it has more than `MOST_COLUMNS`, or a first row of more than `HEADER` bytes.
    """
    with path.open("rb") as file:
        head = file.read(HEADER)
    rows = csv.reader(io.StringIO(head.decode(errors="replace"), newline=""), delimiter=separator)
    try:
        columns = len(next(rows, []))
        endless = len(head) == HEADER and next(rows, None) is None
    except csv.Error:  # a field of more than 131,072 characters
        endless = True
    if endless or columns > MOST_COLUMNS:
        raise PetechiaError(f"{path} has a first row that is longer than that of any table; restore the file.")


def read_table(path: Path) -> Table:
    """Read a table. Its kind, encoding and separator are seen from its content.

    Raises:
        PetechiaError: there is no such file, it is no table, has no rows or too many columns, or a name of a column twice.
    """
    if not path.is_file():
        raise PetechiaError(f"{path} is not a file; give the path of a table (CSV, TSV or Parquet).")
    if path.suffix.lower() in SPREADSHEETS:
        raise PetechiaError(f"{path} is a spreadsheet, which is not read; save it as CSV (UTF-8).")
    with path.open("rb") as file:
        start = file.read(4)
    try:
        frame, first = (_read_parquet(path), 1) if start == b"PAR1" else (_read_text(path), 2)
    except pl.exceptions.PolarsError as error:
        raise PetechiaError(f"{path} cannot be read as a table ({first_line(error)}); correct it.") from None
    except (OSError, EOFError, MemoryError, zlib.error) as error:
        raise PetechiaError(f"{path} cannot be read ({first_line(error)}); restore it.") from None
    if frame.is_empty():
        raise PetechiaError(f"{path} has a header but no rows; restore it.")
    return Table(path, frame, np.arange(first, first + len(frame)))


def _read_parquet(path: Path) -> pl.DataFrame:
    lazy = pl.scan_parquet(path, glob=False)
    schema = lazy.collect_schema()
    _refuse_wide(path, len(schema))
    if (rows := lazy.select(pl.len()).collect().item()) > MOST_ROWS:
        raise PetechiaError(f"{path} has {rows:,} rows, and {MOST_ROWS:,} is the most that is read; split it.")
    if rows * len(schema) > MOST_CELLS:
        raise PetechiaError(f"{path} has {rows * len(schema):,} cells, and {MOST_CELLS:,} is the most; select columns.")
    kept = []
    for name, kind in schema.items():
        if isinstance(kind, pl.List):
            kept.append(pl.col(name).list.eval(pl.element().cast(pl.String)).list.join("|").alias(name))
        elif not kind.is_nested() and kind != pl.Binary:
            kept.append(pl.col(name).cast(pl.String))
    return lazy.select(kept).collect()


def _read_text(path: Path) -> pl.DataFrame:
    content = _utf8(path, _content(path))
    header = _header(path, content)
    named = [name.strip() for name in header.names]
    _refuse_wide(path, len(named))
    try:
        frame = pl.read_csv(content, has_header=False, infer_schema=False, separator=header.separator)
    except pl.exceptions.PolarsError:
        _refuse_ragged(path, content, header)
        raise
    width = frame.width
    if width < len(named):
        raise PetechiaError(f"{path} has {len(named)} names of columns and rows of {width} cells; correct it.")
    # Names may be missing, as in an index that was written without one.
    names = [name or f"unnamed {number}" for number, name in enumerate(named + [""] * (width - len(named)), 1)]
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise PetechiaError(f"{path} has two columns with the name {double[:80]!r}; rename one.")
    frame.columns = names
    return frame.slice(1)


class _Header(NamedTuple):
    names: list[str]
    separator: str


def _content(path: Path) -> bytes:
    with path.open("rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
    most = min(MOST_BYTES, SMALL + BOMB * path.stat().st_size) if packed else MOST_BYTES
    with gzip.open(path) if packed else path.open("rb") as file:
        content = _read(file, most + 1)
    if len(content) > most < MOST_BYTES:
        raise PetechiaError(f"{path} unpacks to more than {BOMB} times its size, as no table does; check it.")
    if len(content) > MOST_BYTES:
        raise PetechiaError(f"{path} holds more than {MOST_BYTES >> 30} GiB of text, which is not read; split it.")
    return content


def _read(file: BufferedIOBase, most: int) -> bytes:
    """At most so many bytes. Asked for all of them at once, Python would make room for that many first."""
    content = bytearray()
    while len(content) < most and (part := file.read(min(CHUNK, most - len(content)))):
        content += part
    return bytes(content)


def _utf8(path: Path, content: bytes) -> bytes:
    """The same text in UTF-8, without a mark; what has no mark and is no UTF-8 is taken for Windows' western encoding."""
    for mark, encoding in MARKS.items():
        if content.startswith(mark):
            content = content[len(mark) :]
            if encoding != "utf-8":
                try:
                    content = content.decode(encoding).encode()
                except UnicodeError:
                    raise PetechiaError(f"{path} says that it is UTF-16 and is not; save it as CSV (UTF-8).") from None
            break
    if b"\0" in content[:HEADER]:
        raise PetechiaError(f"{path} is not a table of text; give a CSV, TSV or Parquet file.")
    try:
        content.decode()
    except UnicodeDecodeError:
        content = content.decode("cp1252", errors="replace").encode()
    return content


def _header(path: Path, content: bytes) -> _Header:
    text = content[:HEADER].decode(errors="replace")
    line = text.partition("\n")[0].strip("\r")
    if len(line) >= HEADER // 2:
        raise PetechiaError(f"{path} has a header of more than {HEADER // 2:,} characters; give a table of images.")
    if not line.strip():
        raise PetechiaError(f"{path} has no header in its first row; the first row must name the columns.")
    unquoted = "".join(line.split('"')[::2])  # separators within quotes are none
    separator = max(SEPARATORS, key=unquoted.count)
    try:
        names = next(csv.reader(io.StringIO(text), delimiter=separator))
    except (csv.Error, StopIteration) as error:
        raise PetechiaError(f"{path} has a header that cannot be read ({error}); correct it.") from None
    return _Header(names, separator)


def _refuse_ragged(path: Path, content: bytes, header: _Header) -> None:
    lines = csv.reader(io.StringIO(content.decode()), delimiter=header.separator)
    try:
        for row, cells in enumerate(lines, 1):
            if len(cells) > max(len(header.names), 1):
                raise PetechiaError(
                    f"{path}, row {row}, has {len(cells)} cells where the header has {len(header.names)}, separated by "
                    f"{header.separator!r}; correct it."
                )
    except csv.Error:
        return


def _refuse_wide(path: Path, columns: int) -> None:
    if columns > MOST_COLUMNS:
        raise PetechiaError(f"{path} has {columns:,} columns, and {MOST_COLUMNS:,} is the most that is read; select some.")


def columns_of(table: Table) -> str:
    """The names of a table's columns, for a message."""
    return listing(table.frame.columns, 12)
