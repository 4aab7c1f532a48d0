"""What docs/extending.md says of the example's size and of entry points is so."""

import re
import tomllib
from importlib.metadata import EntryPoint

import pytest

from petechia.attack.triggers import TRIGGERS
from petechia.data.sources import SOURCES
from petechia.detect.protocol import DETECTORS
from petechia.models.registry import OPENERS
from petechia.saliency import METHODS
from tests.docs.pages import ROOT, blocks

PAGE = "docs/extending.md"
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")
EXAMPLE = ROOT / "examples" / "plugin"
ROWS = {
    "petechia.triggers": "a trigger",
    "petechia.sources": "a data source",
    "petechia.models": "a kind of model",
    "petechia.explanations": "an explanation method",
    "petechia.detectors": "a detector",
}


def entry_points() -> dict[str, dict[str, str]]:
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    found: dict[str, dict[str, str]] = project["entry-points"]
    return found


def test_the_groups_are_those_of_the_registries() -> None:
    groups = [one.group for one in (TRIGGERS, SOURCES, OPENERS, METHODS, DETECTORS)]
    assert groups == list(ROWS) == list(entry_points())
    shown = [tomllib.loads(block.text)["project"]["entry-points"] for block in blocks(PAGE) if block.language == "text"]
    assert [group for one in shown for group in one] == groups


@pytest.mark.parametrize("group", ROWS)
def test_the_lines_are_counted(group: str) -> None:
    (value,) = entry_points()[group].values()
    module = EntryPoint("", value, group).module.rpartition(".")[2]
    lines = len((EXAMPLE / "src" / "petechia_example" / f"{module}.py").read_text().splitlines())
    row = re.search(rf"^\| {ROWS[group]} \|.*\| (\d+) lines, 1 entry point \|$", TEXT, re.MULTILINE)
    assert row is not None
    assert int(row[1]) == lines
