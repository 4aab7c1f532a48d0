"""Read Parquet files in worker processes: a file of kilobytes can unpack to gigabytes, whatever it says."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import polars as pl

from petechia.core.budget import check, check_file, limit
from petechia.core.errors import PetechiaError, printable
from petechia.core.worker import FailedCallError, Limits, Pool


def read_parquet(path: Path, as_text: bool = False) -> pl.DataFrame:
    """Read a Parquet file.

    Args:
        path: path of the file.
        as_text: return all columns as text, lists with "|" between their items or as "[]"; other nested columns and bytes
            are empty, of type Null.

    Raises:
        PetechiaError: the file is damaged, exceeds a limit, or reading it takes too long or too much memory.
    """
    check_file(path, "table_bytes")
    try:
        content = _pool().ask(str(path), f"{__name__}:unpack_parquet", str(path.absolute()), str(path), as_text)
    except FailedCallError:
        raise PetechiaError(f"{path} is a damaged Parquet file; restore it.") from None
    return pl.read_ipc(io.BytesIO(content))


def unpack_parquet(path: str, name: str, as_text: bool) -> bytes:
    """Read a Parquet file in this process, which is a worker; see `read_parquet`.

    Args:
        path: path of the file.
        name: path of the file for messages.
        as_text: see `read_parquet`.

    Returns:
        The table in Arrow's format, not compressed.

    Raises:
        PetechiaError: the file exceeds a limit or is damaged.
    """
    try:
        lazy = pl.scan_parquet(path, glob=False)
        schema = lazy.collect_schema()
        check("table_columns", len(schema), f"{name} has {len(schema):,} columns", "select some")
        rows = int(lazy.select(pl.len()).collect().item())
        check("table_rows", rows, f"{name} has {rows:,} rows", "split it")
        cells = rows * len(schema)
        check("table_cells", cells, f"{name} has {cells:,} cells", "select columns")
        lists = [column for column, kind in schema.items() if isinstance(kind, pl.List)]
        if lists:
            items = int(lazy.select(pl.sum_horizontal(pl.col(lists).list.len().cast(pl.Int64).sum())).collect().item() or 0)
            check("table_cells", cells + items, f"{name} has {items:,} items in the lists of its cells", "select columns")
        kept = _texts(schema) if as_text else [pl.col(column) for column in schema]
        frame = lazy.select(kept).collect()
        size = sum(_bytes(frame[column]) for column in frame.columns)  # equal texts may be there once only, but not in Python
        check("table_bytes", size, f"{name} has {size:,} bytes of text", "select columns")
    except pl.exceptions.PolarsError as error:
        reason = printable((str(error).splitlines() or [""])[0], 200)
        raise PetechiaError(f"{name} cannot be read as a table ({reason}); correct it.") from None
    content = io.BytesIO()
    frame.write_ipc(content, compression="uncompressed")
    return content.getvalue()


def _bytes(column: pl.Series) -> int:
    """Return the bytes of the texts in a column, every one of them counted."""
    while column.dtype == pl.List:
        column = column.explode()
    if column.dtype == pl.Categorical:
        column = column.cast(pl.String)
    if column.dtype == pl.Binary:
        return int(column.bin.size().sum() or 0)
    return int(column.str.len_bytes().cast(pl.Int64).sum() or 0) if column.dtype == pl.String else 0


def _texts(schema: pl.Schema) -> list[pl.Expr]:
    kept = []
    for column, kind in schema.items():
        if isinstance(kind, pl.List) and not (kind.inner.is_nested() or kind.inner == pl.Binary):
            items = pl.col(column).list.eval(pl.element().cast(pl.String)).list.join("|")
            kept.append(pl.when(pl.col(column).list.len() == 0).then(pl.lit("[]")).otherwise(items).alias(column))
        elif kind.is_nested() or kind == pl.Binary:
            kept.append(pl.repeat(None, pl.len(), dtype=pl.Null).alias(column))
        else:
            kept.append(pl.col(column).cast(pl.String))
    return kept


@cache
def _pool() -> Pool:
    return Pool(Limits(limit("table_memory"), limit("table_seconds")), (__name__,))
