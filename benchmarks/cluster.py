"""How well a study on Ray uses two workers, or one GPU: wall time against the time of its runs one by one."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import petechia
from petechia.core.parallel import workers
from petechia.study.study import Study

RUNS, WORKERS = 8, 2
CONFIG: dict[str, Any] = {
    "data": "phantom:images=1200",
    "train": {"epochs": 2},
    "arms": ["attacked"],
    "compute": {"threads": 1},
    "grid": {"attack.rate": [0.05 * (i + 1) for i in range(RUNS)]},
}


def main() -> None:
    """Run a study of 8 runs on a cluster that is started here, with workers of one core each; on a GPU one by one, too."""
    console = Console(highlight=False)
    if workers() < WORKERS:
        console.print(f"This benchmark needs {WORKERS} cores, but only {workers()} are available.")
        return
    together, study = _seconds("auto")
    if torch.cuda.is_available():
        alone, _ = _seconds(None)
        console.print(
            f"{RUNS} networks on one GPU: {together:.0f} s, one by one {alone:.0f} s: {alone / together:.1f} times as fast"
        )
        return
    own = sum(run.seconds["total"] for run in study.runs.values())
    console.print(
        f"{RUNS} runs on {WORKERS} workers: {together:.0f} s, their own time {own:.0f} s; "
        f"wall / (own / {WORKERS}) = {together / (own / WORKERS):.2f}"
    )


def _seconds(ray: str | None) -> tuple[float, Study]:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        study = petechia.run_study(CONFIG, Path(folder) / "study", ray=ray)
        return time.perf_counter() - began, study


if __name__ == "__main__":
    main()
