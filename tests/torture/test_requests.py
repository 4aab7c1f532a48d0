"""The viewer answers hostile requests without an error of its own, without a hang, and goes on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from petechia.core.runtime import Compute
from petechia.study import Run
from tests.conftest import TORTURE
from tests.torture.requests import attack

COUNT, SEED = (10_000, int.from_bytes(os.urandom(3))) if TORTURE else (250, 1)


def _memory() -> float:
    """Memory of this process, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_hostile_requests(finished: Run, figures: list[str], caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("fastapi", reason="the extra web is not installed")
    from petechia.viewer.subject import Subject
    from tests.viewer.conftest import client_of, run_apart, serving

    subject = Subject(finished.directory.path, Compute(threads=1, device="cpu", precision="fp32").start())
    client_of(subject)
    before = _memory()
    with serving(subject) as address:
        tried = run_apart(attack(address, address.token, COUNT, SEED))
        still = run_apart(attack(address, address.token, 20, 0))
    figures.append(
        f"the viewer: {COUNT:,} hostile requests, seed {SEED}, {len(tried.failures)} failures, {tried.silent:,} unanswered, "
        f"{_memory() - before:.0f} MB more; " + ", ".join(f"{count:,} x {one}" for one, count in sorted(tried.statuses.items()))
    )
    assert not tried.failures + still.failures, "\n".join(tried.failures[:20] + still.failures)
    assert {200, 400, 401, 404, 405, 422} <= tried.statuses.keys()
    assert not [record for record in caplog.records if record.levelname == "ERROR"], caplog.text
    assert _memory() - before < 500
