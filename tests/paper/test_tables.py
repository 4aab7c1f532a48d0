import csv
import io
import re

from petechia.measure.summary import Numbers
from petechia.paper.tables import Row, Table, between, latex, mean_std, share

TABLE = Table(
    "t",
    "A title: 50 % & more",
    ("", "1 × 1", "a_b"),
    (Row("ASR(0.9)", ("1.000 ± 0.000", "–")), Row("in the paper", ("0.5", "{x}"), minor=True)),
    ("A note with 100 %.",),
)
NUMBERS: Numbers = {"mean": 0.84649, "std": 0.01, "low": 0.8, "high": 0.9}


def test_markdown_is_a_table() -> None:
    lines = TABLE.markdown().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 4
    assert {row.count("|") for row in rows} == {4}
    assert rows[1] == "| --- | --: | --: |"
    assert lines[0] == "**A title: 50 % & more**"
    assert lines[-1] == "A note with 100 %."


def test_csv_is_read_back() -> None:
    assert list(csv.reader(io.StringIO(TABLE.csv()))) == [
        ["", "1 × 1", "a_b"],
        ["ASR(0.9)", "1.000 ± 0.000", "–"],
        ["in the paper", "0.5", "{x}"],
    ]


def test_latex_is_booktabs_with_everything_escaped() -> None:
    text = TABLE.latex()
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{lrr}", r"\end{table}"):
        assert text.count(rule) == 1
    assert r"50 \% \& more" in text
    assert r"1.000 $\pm$ 0.000" in text
    assert r"a\_b" in text
    assert r"\{x\}" in text
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    lines = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert [len(re.findall(r"(?<!\\)&", line)) for line in lines] == [2, 2, 2]
    assert latex("\\") == r"\textbackslash{}"


def test_numbers_are_written_as_in_the_paper() -> None:
    nothing: Numbers = {"mean": None, "std": None, "low": None, "high": None}
    assert mean_std(NUMBERS) == "0.846 ± 0.010"
    assert mean_std(NUMBERS | {"std": None}) == "0.846"
    assert between(NUMBERS) == "0.800 – 0.900"
    assert mean_std(nothing) == between(nothing) == share(None) == "–"
    assert share(0.147) == "15 %"
