from __future__ import annotations

import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests import known_flaws

FLAW = {"id": "CVE-1", "fix_versions": ["2"], "description": "bad"}
ROOT = Path(__file__).parents[1]


def test_known_flaws_fail_and_silence_is_told() -> None:
    fine, bad = {"name": "a", "version": "1", "vulns": []}, {"name": "b", "version": "1", "vulns": [FLAW]}
    unknown = {"name": "c", "skip_reason": "not found"}
    assert known_flaws.judge([fine, bad, unknown]) == (1, "1 known vulnerabilities:\nb 1: CVE-1, fixed in 2")
    assert known_flaws.judge([fine, unknown]) == (0, "No known vulnerability in 1 packages; of 1 nothing is known")
    assert known_flaws.judge([unknown]) == (0, "pip-audit skipped: it cannot reach its data")


def test_no_network_no_answer_and_no_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def never(*_: object, **__: object) -> NoReturn:
        raise subprocess.TimeoutExpired("pip-audit", 1)

    monkeypatch.setattr(subprocess, "run", never)
    assert known_flaws.main() == 0
    assert "pip-audit skipped" in capsys.readouterr().out


def test_the_pinned_versions_and_the_installed_ones_are_above_the_floors() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    floors = [Requirement(one) for one in [*project["dependencies"], *project["optional-dependencies"]["web"]]]
    for floor in floors:
        assert floor.specifier.contains(Version(pinned[floor.name.lower()])), floor
        assert floor.specifier.contains(Version(version(floor.name))), floor
