"""How well a study on Ray uses two workers: wall time against the summed time of its runs."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

import petechia
from petechia.core.parallel import workers

RUNS, WORKERS = 8, 2
CONFIG: dict[str, Any] = {
    "data": "phantom:images=1200",
    "train": {"epochs": 2},
    "arms": ["attacked"],
    "compute": {"threads": 1},
    "grid": {"attack.rate": [0.05 * (i + 1) for i in range(RUNS)]},
}


def main() -> None:
    """Run a study of 8 runs on a cluster that is started here, with workers of one core each."""
    console = Console(highlight=False)
    if workers() < WORKERS:
        console.print(f"This benchmark needs {WORKERS} cores, but only {workers()} are available.")
        return
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        study = petechia.run_study(CONFIG, Path(folder) / "study", ray="auto")
        wall = time.perf_counter() - began
    own = sum(run.seconds["total"] for run in study.runs.values())
    console.print(
        f"{RUNS} runs on {WORKERS} workers: {wall:.0f} s, their own time {own:.0f} s; "
        f"wall / (own / {WORKERS}) = {wall / (own / WORKERS):.2f}"
    )


if __name__ == "__main__":
    main()
