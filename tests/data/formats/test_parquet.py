from __future__ import annotations

import datetime
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from petechia.core.budget import GIB, MIB, budget
from petechia.core.errors import PetechiaError
from petechia.core.worker import Limits, Pool
from petechia.data.formats import parquet
from petechia.data.formats.parquet import read_parquet
from petechia.data.formats.tables import read_table

SMALL = "table_rows=1000,table_columns=20,table_cells=5000"


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PETECHIA_LIMITS", SMALL)
    budget.cache_clear()
    workers = Pool(Limits(GIB, 60), (parquet.__name__,))
    monkeypatch.setattr(parquet, "_pool", lambda: workers)
    yield
    workers.close()
    budget.cache_clear()


def written(path: Path, frame: pl.DataFrame) -> Path:
    frame.write_parquet(path)
    return path


def test_all_types_are_read_as_they_are(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "text": ["a", None, "ü"],
            "number": [1, None, -3],
            "share": [0.5, float("nan"), None],
            "truth": [True, None, False],
            "day": [datetime.date(2020, 1, 2), None, None],
            "list": [["a", "b"], [], None],
            "bytes": [b"a", b"", None],
            "kind": pl.Series(["x", "y", "x"], dtype=pl.Categorical),
        }
    )
    found = read_parquet(written(tmp_path / "a.parquet", frame))
    assert found.equals(frame)
    assert found.schema == frame.schema
    table = read_table(tmp_path / "a.parquet")
    texts = table.frame
    assert texts.columns == ["text", "number", "share", "truth", "day", "list", "kind"]
    assert table.nested == ("bytes",)
    assert texts["list"].to_list() == ["a|b", "[]", None]
    assert texts["number"].to_list() == ["1", None, "-3"]


CLAIMS: dict[str, tuple[Callable[[], pl.DataFrame], str]] = {
    "rows": (lambda: pl.DataFrame({"a": [1] * 1001}), "has 1,001 rows, and the maximum is 1,000; split it"),
    "columns": (lambda: pl.DataFrame({str(k): [1] for k in range(21)}), "has 21 columns, and the maximum is 20"),
    "cells": (lambda: pl.DataFrame({str(k): [1] * 501 for k in range(10)}), "has 5,010 cells, and the maximum is 5,000"),
    "items": (lambda: pl.DataFrame({"a": [[1] * 3000, [2] * 2000]}), "has 5,000 items in the lists of its cells"),
}


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize("name", CLAIMS)
def test_limits_hold_for_every_reader(tmp_path: Path, name: str) -> None:
    made, said = CLAIMS[name]
    path = written(tmp_path / "a.parquet", made())
    for reader in (read_parquet, read_table):
        with pytest.raises(PetechiaError, match=said):
            reader(path)


def bomb(path: Path, count: int, form: str = "text") -> Path:
    """A small file of that many equal texts of 10,000 letters."""
    frame = pl.DataFrame({"id": ["x" * 10_000]}).select(pl.col("id").repeat_by(count))
    made = {"text": frame.explode("id"), "list": frame, "kind": frame.explode("id").cast(pl.Categorical)}[form]
    path = written(path, made)
    assert path.stat().st_size < MIB
    return path


@pytest.mark.parametrize("form", ["text", "list", "kind"])
def test_texts_of_gigabytes_are_refused(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETECHIA_LIMITS", "table_bytes=50e6")
    budget.cache_clear()
    path = bomb(tmp_path / "a.parquet", 10_000, form)
    workers = Pool(Limits(GIB, 60), (parquet.__name__,))
    monkeypatch.setattr(parquet, "_pool", lambda: workers)
    for reader in (read_parquet, read_table):
        with pytest.raises(PetechiaError, match=r"has 1\d\d,\d\d\d,\d\d\d bytes of text, and the maximum is 50,000,000"):
            reader(path)
    workers.close()
    monkeypatch.undo()
    budget.cache_clear()


def test_cells_of_gigabytes_cost_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Pool(Limits(256 * MIB, 60), (parquet.__name__,))
    monkeypatch.setattr(parquet, "_pool", lambda: workers)
    path = written(tmp_path / "a.parquet", pl.DataFrame({"a": [7]}).select(pl.col("a").repeat_by(40_000_000).explode()))
    assert path.stat().st_size < MIB
    with pytest.raises(PetechiaError, match=r"a\.parquet (needed more than|made the process that read it crash)"):
        read_parquet(path)
    workers.close()


def test_damaged_files(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    pl.DataFrame({"a": list(range(1000))}).write_parquet(buffer)
    content = buffer.getvalue()
    for damaged in (b"", b"PAR1", content[:-10], content[: len(content) // 2]):
        (tmp_path / "a.parquet").write_bytes(damaged)
        with pytest.raises(PetechiaError, match=r"a\.parquet"):
            read_parquet(tmp_path / "a.parquet")
