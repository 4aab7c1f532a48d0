"""Time and peak memory by number of images: `python -m benchmarks.growing WORK IMAGES` runs one measurement."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from petechia.data import Catalog, Preprocess, open_source, prepare
from petechia.detect.scan import scan_catalog

COUNTS = (1_000, 10_000, 100_000)


class Grown(NamedTuple):
    """The cost in one process: seconds of the work alone, CPU seconds of its threads, peak memory of the process in MB."""

    seconds: float
    cpu: float
    peak: float


WORK: dict[str, Callable[[Catalog], object]] = {
    "prepare": lambda catalog: prepare(catalog, Preprocess(size=64)),
    "scan": scan_catalog,
}


def once(name: str, images: int) -> Grown:
    """Measure phantoms of 64 x 64 in this process."""
    catalog = open_source(f"phantom:images={images},size=64")
    began, worked = time.perf_counter(), time.process_time()
    WORK[name](catalog)
    seconds, cpu = time.perf_counter() - began, time.process_time() - worked
    return Grown(seconds, cpu, peak_of_this_process())


def peak_of_this_process() -> float:
    """Return the peak memory in MB since the program began; `getrusage` would include the process it was forked from."""
    (peak,) = (line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak) / 1024


def apart(name: str, images: int) -> Grown:
    """Measure the same in a separate process with its own cache."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "benchmarks.growing", name, str(images)]
        done = subprocess.run(command, env=os.environ | {"PETECHIA_CACHE": cache}, capture_output=True, text=True, check=True)
    return Grown(*json.loads(done.stdout))


def run() -> Iterator[tuple[str, int, Grown]]:
    """Yield work, number of images and cost, as they are measured."""
    for name in WORK:
        for images in COUNTS:
            yield name, images, apart(name, images)


if __name__ == "__main__":
    print(json.dumps(once(sys.argv[1], int(sys.argv[2]))))
