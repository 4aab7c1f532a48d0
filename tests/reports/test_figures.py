"""Names of classes are drawn as they are: they are neither formulas nor markup, and the SVG stays XML."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest

from petechia.paper.tables import Row, Table, latex
from petechia.reports.figures import heat_by_class, heat_curves, per_class, png, svg
from petechia.reports.tables import heat_rows
from petechia.study.heat import Heat
from petechia.study.runner import METRICS_SCHEMA

EVIL = ("a$b", "$^{", r"\frac{x}", "$$", "_hidden", "x^{2", "<b>&amp;</b>", "a\x1b[2Jb", "肺炎", "50 % $\\alpha$")


def drawn(figure: bytes) -> list[str]:
    return [text for one in ElementTree.fromstring(figure).iter() if (text := (one.text or "").strip())]  # noqa: S314 (ours)


def test_any_name_of_a_class_can_be_drawn() -> None:
    rows = [(0, arm, 1, "auroc_nn", name, 0.5, 0.4, 0.6) for arm in ("control", "attacked") for name in EVIL]
    metrics = pl.DataFrame(rows, METRICS_SCHEMA, orient="row")
    figure = per_class(metrics, dict.fromkeys(EVIL, 3))
    said = drawn(svg(figure))
    for name in EVIL:
        assert f"{name.replace('_', ' ').replace(chr(27), '�').strip()} (3)" in said, said
    assert "control, clean (NN)" in said
    assert png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("name", EVIL)
def test_tables_escape_them(name: str) -> None:
    table = Table("k", name, ("a", name), (Row(name, (name,)),), (name,))
    for line in table.markdown().splitlines():
        assert line.count("|") in (0, 3)
        assert not set(line) & set("$<>`\\\x1b")
    written = latex(name)
    for letter in "$^{}_%&":
        bare = written.replace(rf"\{letter}", "").replace(r"\textbackslash{}", "").replace(r"\textasciicircum{}", "")
        assert letter not in bare


def test_a_table_cell_is_no_formula() -> None:
    table = Table("k", "t", ("a", "b"), (Row("=1+1", ("-0.5",)), Row("a", ("@x",))))
    assert table.csv() == '"a","b"\n"\'=1+1","-0.5"\n"a","\'@x"\n'


def test_the_heat_of_a_network_without_a_middle_layer_is_drawn() -> None:
    columns = ("hit", "distance", "energy", "iou", "shift", "divergence", "chance")
    values = {name: 0.5 for column in columns for name in (column, f"clean_{column}")}
    rows = [
        {"epoch": 1, "layer": "last", "class": name, "patient": str(patient), **values} for name in "TU" for patient in range(9)
    ]
    heat = Heat("T", np.zeros((2, 4, 4), np.uint8), (0, 0, 1, 1), {}, {}, pl.DataFrame(rows))
    assert len(heat_curves(heat).axes) == 2
    assert [axes.get_title() for axes in heat_by_class(heat).axes] == ["last layer"]
    assert all(len(row.cells) == 1 for row in heat_rows(heat, 1))
