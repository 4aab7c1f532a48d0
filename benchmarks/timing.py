"""Time functions in turns, so that a busy machine slows all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple


class Timing(NamedTuple):
    """Work per second, over the rounds."""

    lowest: float
    median: float
    highest: float


def rates(work: dict[str, Callable[[], int]], rounds: int = 5) -> dict[str, Timing]:
    """Run each function in turn, `rounds` times. Each returns the amount of work it did."""
    seen: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, do in work.items():
            began = time.perf_counter()
            done = do()
            seen[name].append(done / (time.perf_counter() - began))
    return {name: Timing(min(values), median(values), max(values)) for name, values in seen.items()}
