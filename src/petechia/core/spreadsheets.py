"""Tables for people: CSV in which nothing is a formula for a spreadsheet, and that is read back as it was."""

from __future__ import annotations

import polars as pl

# What begins a formula in Excel, LibreOffice or Google Sheets, at the start of a cell, or of what a spreadsheet that separates
# by semicolons takes for one. A quotation mark is put before it, also where there are some already, so that it can be undone.
FORMULA = "=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20"
STARTS = rf"(^|;)('*[{FORMULA}])"
QUOTED = rf"(^|;)'('*[{FORMULA}])"
NUMBER = r"^[+-]?\d+(\.\d+)?([eE][+-]?\d+)?$"  # which no spreadsheet takes for a formula


def to_csv(table: pl.DataFrame) -> bytes:
    """Return a table as CSV. Text, names of columns included, that a spreadsheet would run gets a quotation mark before it."""
    names = dict(zip(table.columns, _defused(pl.Series(table.columns, dtype=pl.String)).to_list(), strict=True))
    texts = [_defused(column) for column in table if column.dtype == pl.String]
    return table.with_columns(texts).rename(names).write_csv(quote_style="non_numeric").encode()


def as_it_was(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table that was read from what `to_csv` wrote, without the quotation marks that it added."""
    names = dict(zip(table.columns, _restored(pl.Series(table.columns, dtype=pl.String)).to_list(), strict=True))
    return table.with_columns(_restored(column) for column in table if column.dtype == pl.String).rename(names)


def formulas(texts: pl.Series) -> pl.Series:
    """Return those of some texts that a spreadsheet would run."""
    return texts.filter(texts.str.contains(STARTS) & ~texts.str.contains(NUMBER))


def _defused(texts: pl.Series) -> pl.Series:
    column = pl.col(texts.name)
    safe = pl.when(column.str.contains(NUMBER)).then(column).otherwise(column.str.replace_all(STARTS, "${1}'${2}"))
    return texts.to_frame().select(safe.alias(texts.name)).to_series()


def _restored(texts: pl.Series) -> pl.Series:
    return texts.str.replace_all(QUOTED, "${1}${2}")
