"""Strangers' files: read, or refused with one sentence, in bounded time and memory. `fuzz` says how it is done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TORTURE

INPUTS, SEED = (400, int.from_bytes(os.urandom(3))) if TORTURE else (10, 0)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured with Linux' /proc")
def test_every_door(tmp_path: Path, figures: list[str]) -> None:
    result = tmp_path / "result.json"
    words = [sys.executable, "-m", "tests.torture.fuzz", str(INPUTS), str(SEED), str(result)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(result.read_text())
    for door, numbers in report["doors"].items():
        figures.append(
            f"{door}: {numbers['tried']:,} inputs, {numbers['refused']:,} refused, {numbers['seconds']:.0f} s, "
            f"slowest {numbers['slowest'][0]:.1f} s ({numbers['slowest'][1]}), at most {numbers['megabytes'][0]:,} MB more"
        )
    tried = sum(numbers["tried"] for numbers in report["doors"].values())
    figures.append(f"inputs tried: {tried:,}, seed {SEED}, failures: {len(report['failures'])}")
    assert not report["failures"], "\n".join(map(str, report["failures"][:40]))
