"""Time the scan for near-duplicates and stamps against decoding alone, on the same files and threads."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from benchmarks.preparing import files
from benchmarks.timing import Timing, rates
from petechia.core.parallel import in_parallel
from petechia.data import Catalog
from petechia.detect.scan import scan_catalog


def decoded(catalog: Catalog) -> int:
    """Decode every image at native size, on all cores."""

    def work(rows: NDArray[np.intp]) -> list[bool]:
        return [isinstance(image, np.ndarray) for image in catalog.reader.read(rows)]

    return sum(in_parallel(work, len(catalog)))


def scanned(catalog: Catalog) -> int:
    """The whole scan, without a model; its cache is empty, so that every round decodes the images."""
    with tempfile.TemporaryDirectory() as cache, patch.dict(os.environ, PETECHIA_CACHE=cache):
        return scan_catalog(catalog).images


def compared(catalog: Catalog, rounds: int = 5) -> dict[str, Timing]:
    """Measure images per second of both, in turns."""
    return rates({"petechia": lambda: scanned(catalog), "decoding alone": lambda: decoded(catalog)}, rounds)


def run(rounds: int = 5) -> dict[str, Timing]:
    """Compare on phantoms of 1024 x 1024 pixels in PNG files."""
    with tempfile.TemporaryDirectory() as name:
        return compared(files(Path(name)), rounds)
