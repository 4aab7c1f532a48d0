import csv
from pathlib import Path

import pytest

from benchmarks.auditing import judged, read_rows
from petechia.detect.audit.verdict import AuditNulls

RESULTS = Path(__file__).parents[2] / "docs" / "detection" / "results"


@pytest.mark.parametrize("number", [0, 30, 60, 90, -1])
def test_the_table_of_the_docs_follows_from_what_was_measured(number: int) -> None:
    rows = read_rows([RESULTS / "audit-judged.jsonl"])
    with (RESULTS / "audit-models.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(rows)
    found, line = judged(rows[number], AuditNulls.of()), table[number]
    assert (found.row["arch"], ", ".join(found.row["targets"])) == (line["network"], line["target"])
    assert (", ".join(found.flagged) or "nothing", f"{found.p:.2g}", found.outcome) == (
        line["flagged"],
        line["p"],
        line["outcome"],
    )
