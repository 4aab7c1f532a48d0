from __future__ import annotations

import io

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from petechia.core.spreadsheets import as_it_was, formulas, to_csv

EVIL = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "a;=cmd", "'=1", "''+x", "-5,2"]
FINE = ["a", "", "-5", "+3.5e-4", "1-2", "a=b", "'", "it's", "x'=", "Müller", "a; -b", '"=1"', ";", ";;"]


def back(table: pl.DataFrame) -> pl.DataFrame:
    content = pl.read_csv(io.BytesIO(to_csv(table)), infer_schema=False, has_header=False, skip_rows=1)
    return as_it_was(content.rename(dict(zip(content.columns, table.columns, strict=True))))


def test_what_a_spreadsheet_would_run_is_defused_and_the_rest_is_as_it_was() -> None:
    content = to_csv(pl.DataFrame({"=id": EVIL, "n": range(len(EVIL))})).decode()
    assert content.startswith('"\'=id","n"\n')
    for text in EVIL:
        assert f'"\'{text}"' in content or '"a;\'=cmd"' in content
        assert f'"{text}"' not in content
    assert to_csv(pl.DataFrame({"id": FINE})).decode() == pl.DataFrame({"id": FINE}).write_csv(quote_style="non_numeric")
    assert formulas(pl.Series([*EVIL, *FINE])).to_list() == EVIL


def test_it_is_read_back_as_it_was() -> None:
    table = pl.DataFrame({"id": [*EVIL, *FINE], "x": [*FINE, *EVIL]})
    assert back(table).equals(table)
    names = pl.DataFrame({"=a": ["x"], "''-b": ["y"], "c": ["z"]})
    read = pl.read_csv(io.BytesIO(to_csv(names)), infer_schema=False)
    assert read.columns == ["'=a", "'''-b", "c"]
    assert as_it_was(read).equals(names)


TEXT = st.text(st.sampled_from("=+-@\t;'\"a1,. \n\uff0b") | st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=8)


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=6))
def test_any_text_is_read_back(texts: list[str]) -> None:
    table = pl.DataFrame({"id": texts, "more": texts})
    assert back(table).equals(table)
