"""Collects figures on what was tried, and prints them at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.torture.crash import Nursery

FIGURES: list[str] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FIGURES:
        terminalreporter.section("torture")
        for line in FIGURES:
            terminalreporter.write_line(line)


@pytest.fixture
def figures() -> list[str]:
    """Lines to print at the end."""
    return FIGURES


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    with Nursery() as found:
        yield found
