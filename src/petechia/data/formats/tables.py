"""Read tables as text: CSV and TSV in their many variants, including spreadsheet exports, and Parquet."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import re
import string
import zlib
from io import BufferedIOBase
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from petechia.core.budget import check, check_file, check_unpacked, limit
from petechia.core.errors import PetechiaError, first_line, listing, printable
from petechia.data.formats.parquet import read_parquet

CHUNK = 1 << 22  # bytes
HEADER = 1 << 20  # maximum size of a header, in bytes
SEPARATORS = ",;\t|"
SAMPLE, SAMPLED = 1 << 16, 20  # letters and rows by which the separator is chosen
NEWLINE = b"\n"
MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
MOST_BLANK = 100  # lines that hold nothing before the header
SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
EDGES = string.whitespace + "\u00a0\u2007\u202f\u200b\u200e\u200f\u2060\ufeff"  # spaces, some without width
QUOTED = r'(?s)^="(.*)"$'  # how Excel keeps a number as text: ="007"
SAID_SEPARATOR = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # Excel's first line, which is no row


class Table(NamedTuple):
    """Rows of a table.

    Attributes:
        path: path of the file.
        frame: all columns as text, unchanged from the file.
        rows: int [N], row numbers as a spreadsheet shows them.
        nested: names of the columns of a Parquet file that are not read.
        notes: sentences about how the file was read.
    """

    path: Path
    frame: pl.DataFrame
    rows: NDArray[np.intp]
    nested: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def take(self, rows: NDArray[np.intp]) -> Table:
        """Return a table of some of the rows."""
        return self._replace(frame=self.frame[rows], rows=self.rows[rows])

    def texts(self, column: str) -> pl.Series:
        """Return the cells of a column, see `cleaned`."""
        return cleaned(self.frame[column])

    def refuse(self, bad: pl.Series, problem: str, show: str | None = None) -> None:
        """Raise an error that names the first bad row, if there is one.

        Args:
            bad: bool [N], whether each row is bad.
            problem: what is wrong with the row, to complete the sentence "row 5, …".
            show: column whose cell is quoted in the message; None quotes nothing.

        Raises:
            PetechiaError: a row is bad.
        """
        found = bad.arg_true().to_numpy()
        if len(found):
            shown = None if show is None else self.frame[show][int(found[0])]
            refuse_row(self.path, int(self.rows[found[0]]), problem, shown, len(found))


def cleaned(cells: pl.Series) -> pl.Series:
    """Return texts without surrounding spaces and without Excel's ="…"; an empty text is null."""
    stripped = cells.str.strip_chars(EDGES).str.replace(QUOTED, "${1}").str.strip_chars(EDGES)
    return stripped.set(stripped == "", None)


def numbers(cells: pl.Series) -> pl.Series:
    """Return the numbers in texts, float64; null where a text is no number. The decimal mark may be a comma."""
    return cells.str.replace(r"^([+-]?\d*),(\d+)$", "${1}.${2}").cast(pl.Float64, strict=False).fill_nan(None)


def refuse_row(path: Path, row: int, problem: str, shown: str | None, count: int) -> None:
    """Raise an error that names a row of a table.

    Raises:
        PetechiaError: always.
    """
    cell = "" if shown is None else f" {printable(shown)!r}"
    more = f" ({count:,} such rows)" if count > 1 else ""
    raise PetechiaError(f"{path}, row {row}, {problem}{cell}{more}; correct the table.")


def check_header(path: Path, separator: str = ",") -> None:
    """Reject a table with very many columns: polars needs kilobytes for each and aborts the process if memory runs out.

    Raises:
        PetechiaError: the table has too many columns, or a first row of more than `HEADER` bytes.
    """
    with path.open("rb") as file:
        head = file.read(HEADER)
    rows = csv.reader(io.StringIO(head.decode(errors="replace"), newline=""), delimiter=separator)
    try:
        columns = len(next(rows, []))
        endless = len(head) == HEADER and next(rows, None) is None
    except csv.Error:  # a field of more than 131,072 characters
        endless = True
    if endless or columns > limit("table_columns"):
        raise PetechiaError(f"{path} has a first row that is too long for a table; restore the file.")


def read_table(path: Path) -> Table:
    """Read a table. Format, encoding and separator are detected from the content.

    Raises:
        PetechiaError: the file does not exist, is not a table, has no rows, too many columns or a duplicate column name.
    """
    if not path.is_file():
        raise PetechiaError(f"{path} is not a file; give the path of a table (CSV, TSV or Parquet).")
    if path.suffix.lower() in SPREADSHEETS:
        raise PetechiaError(f"{path} is a spreadsheet, which is not supported; save it as CSV (UTF-8).")
    with path.open("rb") as file:
        start = file.read(4)
    try:
        frame, first, notes = (read_parquet(path, as_text=True), 1, ()) if start == b"PAR1" else _read_text(path)
    except pl.exceptions.PolarsError as error:
        raise PetechiaError(f"{path} cannot be read as a table ({first_line(error)}); correct it.") from None
    except (OSError, EOFError, MemoryError, zlib.error) as error:
        raise PetechiaError(f"{path} cannot be read ({first_line(error)}); restore it.") from None
    nested = tuple(name for name, kind in frame.schema.items() if kind == pl.Null)
    if len(nested) == frame.width:
        raise PetechiaError(f"{path} has only nested columns ({listing(nested)}), which are not read; write a table of text.")
    return table_of(path, frame.drop(nested), first)._replace(nested=nested, notes=notes)


def table_of(path: Path, frame: pl.DataFrame, first: int) -> Table:
    """Return a table without its blank rows.

    Args:
        path: path of the file.
        frame: all columns as text.
        first: number of the first row, as a spreadsheet shows it.

    Raises:
        PetechiaError: no row is left.
    """
    blank = frame.select(pl.all_horizontal(pl.all().is_null() | (pl.all().str.strip_chars(EDGES) == ""))).to_series()
    kept = (~blank).arg_true().to_numpy()
    if not len(kept):
        raise PetechiaError(f"{path} has a header but no rows; restore it.")
    return Table(path, frame[kept] if len(kept) < len(frame) else frame, first + kept)


def _read_text(path: Path) -> tuple[pl.DataFrame, int, tuple[str, ...]]:
    """Return the rows below the header, the number of the first of them, and notes."""
    text = read_text(path)
    rows = text.content.count(b"\n")  # and more if there are line breaks within cells
    check("table_rows", rows, f"{path} has {rows:,} lines", "split it")
    cells = rows * len(text.names)
    check("table_cells", cells, f"{path} has {cells:,} cells", "leave out columns")
    # In a table without quoted cells, a quotation mark is one: 5" for five inches.
    starts = b'"' in text.content and re.search(rb'(?:^|[\n%b])[ \t]*"' % re.escape(text.separator.encode()), text.content)
    quote = '"' if starts else None
    try:
        frame = pl.read_csv(text.content, has_header=False, infer_schema=False, separator=text.separator, quote_char=quote)
    except pl.exceptions.PolarsError:
        _refuse_stray_quote(path, text)
        widths = _widths(text, quote)
        _refuse_width(path, text, widths, widths > max(len(text.names), 1))
        raise
    named = [name.strip() for name in text.names]
    width = frame.width
    if width < len(named):
        raise PetechiaError(f"{path} has {len(named)} column names, but rows of {width} cells; correct it.")
    _refuse_short(path, text, frame, quote)
    # Names may be missing, as for an index that was written without a name.
    names = [name or f"unnamed {number}" for number, name in enumerate(named + [""] * (width - len(named)), 1)]
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise PetechiaError(f"{path} has two columns named {printable(double)!r}; rename one.")
    frame.columns = names
    return frame.slice(1), text.row + 1, text.notes


class Text(NamedTuple):
    """A table as text.

    Attributes:
        content: UTF-8, from the header on.
        names: the cells of the header.
        separator: what stands between cells.
        row: number of the header, as a spreadsheet shows it.
        notes: sentences about the encoding.
    """

    content: bytes
    names: list[str]
    separator: str
    row: int
    notes: tuple[str, ...] = ()


def read_text(path: Path) -> Text:
    """Unpack a table of text, and find its encoding, header and separator. Blank lines before the header are skipped.

    Raises:
        PetechiaError: the file is too large, is no text, or has no header or too many columns.
        OSError, EOFError, zlib.error: the file cannot be read.
    """
    content, notes = _utf8(path, _content(path))
    if b"\n" not in content:  # old Macs end lines with a carriage return alone
        content = content.replace(b"\r", b"\n")
    begin, row, separator = 0, 1, ""
    while row < MOST_BLANK and (end := content.find(b"\n", begin, begin + HEADER)) >= 0:
        line = content[begin:end].decode(errors="replace").strip("\r\ufeff")
        said = SAID_SEPARATOR.fullmatch(line)
        if line.strip(SEPARATORS + EDGES + '"') and not said:
            break
        begin, row, separator = end + 1, row + 1, said[1] if said else separator
    content = content[begin:]
    header = _header(path, content, separator)
    _refuse_wide(path, len(header.names))
    return Text(content, header.names, header.separator, row, notes)


class _Header(NamedTuple):
    names: list[str]
    separator: str


def _content(path: Path) -> bytes:
    with path.open("rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
    size, most = check_file(path, "table_bytes", "split it"), limit("table_bytes")
    most = min(most, max(limit("unpack_free"), limit("unpack_ratio") * size)) if packed else most
    with gzip.open(path) if packed else path.open("rb") as file:
        content = _read(file, most + 1)
    if len(content) > most:
        check_unpacked(len(content), size, f"{path} unpacks to more than")
        check("table_bytes", len(content), f"{path} unpacks to more than {most:,} bytes", "split it")
    return content


def _read(file: BufferedIOBase, most: int) -> bytes:
    """Read at most `most` bytes, in parts, because a single read would allocate memory for all of them first."""
    content = bytearray()
    while len(content) < most and (part := file.read(min(CHUNK, most - len(content)))):
        content += part
        if content.startswith(b"\0"):  # no text: a file of zeros can be huge and take no space on the disk
            break
    return bytes(content)


def _utf8(path: Path, content: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Convert text to UTF-8 without a byte order mark, and return notes.

    Without a mark, text that is not UTF-8 is read as Windows-1252, if it can be.
    """
    for mark, encoding in MARKS.items():
        if content.startswith(mark):
            content = content[len(mark) :]
            if encoding != "utf-8":
                try:
                    content = content.decode(encoding).encode()
                except UnicodeError:
                    raise PetechiaError(f"{path} is marked as UTF-16 but is not; save it as CSV (UTF-8).") from None
            break
    if b"\0" in content[:HEADER]:
        raise PetechiaError(f"{path} is not a text table; give a CSV, TSV or Parquet file.")
    try:
        content.decode()
    except UnicodeDecodeError as error:
        where = f"{path}, line {content.count(NEWLINE, 0, error.start) + 1},"
    else:
        return content, ()
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        raise PetechiaError(f"{where} has letters that are neither UTF-8 nor Windows-1252; save it as CSV (UTF-8).") from None
    if not content.decode(errors="ignore").isascii():
        raise PetechiaError(f"{where} has letters that are not UTF-8, and others of the file are; save it as CSV (UTF-8).")
    word = re.search(r"\w*[^\x00-\x7f]\w*", text)
    example = f", such as {printable(word[0])!r}" if word else ""
    return text.encode(), (
        f"{path} is not UTF-8 and is read as Windows-1252{example}; if these letters are wrong, save it as CSV (UTF-8).",
    )


def _header(path: Path, content: bytes, separator: str) -> _Header:
    text = content[:HEADER].decode(errors="replace")
    line = text.partition("\n")[0].strip("\r")
    if len(line) >= HEADER // 2:
        raise PetechiaError(f"{path} has a header of more than {HEADER // 2:,} characters; give a table of images.")
    if not line.strip():
        raise PetechiaError(f"{path} has no header in its first row; the first row must name the columns.")
    separator = separator or _separator(text, line)
    try:
        names = next(csv.reader(io.StringIO(text), delimiter=separator))
    except (csv.Error, StopIteration) as error:
        raise PetechiaError(f"{path} has a header that cannot be read ({error}); correct it.") from None
    return _Header(names, separator)


def _separator(text: str, header: str) -> str:
    """Return the separator that gives the first rows as many cells as the header; of several, the most frequent one there."""
    unquoted = "".join(header.split('"')[::2])  # separators within quotes do not count

    def fits(separator: str) -> tuple[int, int]:
        rows = csv.reader(io.StringIO(text[:SAMPLE], newline=""), delimiter=separator)
        try:
            wide, *others = (len(row) for row in itertools.islice(rows, SAMPLED))
        except (csv.Error, ValueError):
            wide, others = 0, []
        return sum(one == wide > 1 for one in others), unquoted.count(separator)

    return max(SEPARATORS, key=fits)


def _widths(text: Text, quote: str | None) -> NDArray[np.intp]:
    """Return the number of cells in each row, int [N], from the header on."""
    ends, total, inside = [np.zeros(1, np.intp)], 0, False
    for begin in range(0, len(text.content), CHUNK):
        part = np.frombuffer(text.content, np.uint8, min(CHUNK, len(text.content) - begin), begin)
        quoted = np.zeros(len(part), bool)
        if quote:
            quoted = np.logical_xor.accumulate(np.append(inside, part == ord(quote)))[1:]
            inside = quoted[-1]
        separators = total + np.cumsum((part == ord(text.separator)) & ~quoted)
        ends.append(separators[(part == ord("\n")) & ~quoted])
        total = int(separators[-1])
    if not text.content.endswith(NEWLINE):
        ends.append(np.array([total]))
    before = np.concatenate(ends)  # separators before the end of each row
    widths: NDArray[np.intp] = before[1:] - before[:-1] + 1
    return widths


def _refuse_short(path: Path, text: Text, frame: pl.DataFrame, quote: str | None) -> None:
    """Refuse rows with fewer cells than the header has names; polars fills them up. Blank rows do not count."""
    named = max((number for number, name in enumerate(text.names, 1) if name.strip()), default=0)
    if named < 2 or not frame[:, named - 1].null_count():
        return
    widths = _widths(text, quote)
    if len(widths) != len(frame):
        raise PetechiaError(f"{path} has quotation marks that do not enclose cells; put such cells in quotes and double them.")
    short = widths < named
    rows = np.flatnonzero(short)
    filled = frame[rows].select(pl.any_horizontal(pl.all().str.strip_chars(EDGES) != "")).to_series().fill_null(value=False)
    short[rows] = filled.to_numpy()
    _refuse_width(path, text, widths, short)


def _refuse_width(path: Path, text: Text, widths: NDArray[np.intp], wrong: NDArray[np.bool_]) -> None:
    if wrong.any():
        row = int(wrong.argmax())
        raise PetechiaError(
            f"{path}, row {text.row + row}, has {widths[row]} cells where the header has {len(text.names)}, "
            f"separated by {text.separator!r}; correct it."
        )


def _refuse_stray_quote(path: Path, text: Text) -> None:
    """Raise an error that names the first line with a quotation mark that does not enclose a cell, if there is one."""
    edge = re.escape(text.separator.encode())
    cell = rb'(?:^|(?<=[\n%b]))"(?:[^"]|"")*+"(?=[\r\n%b]|\Z)' % (edge, edge)
    rest = re.sub(cell, lambda found: NEWLINE * found[0].count(NEWLINE), text.content)
    if (place := rest.find(b'"')) >= 0:
        raise PetechiaError(
            f"{path}, line {text.row + rest.count(NEWLINE, 0, place)}, has a quotation mark that does not enclose a cell; "
            f"double it, and put the whole cell in quotes."
        )


def _refuse_wide(path: Path, columns: int) -> None:
    check("table_columns", columns, f"{path} has {columns:,} columns", "select some")


def columns_of(table: Table) -> str:
    """Return the column names of a table, for a message."""
    nested = f" (and {listing(table.nested)}, nested, which are not read)" if table.nested else ""
    return listing(table.frame.columns, 12) + nested
