"""Decode and resize on all cores, against a plain loop and torchxrayvision on one core; and the speed of drawing phantoms."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import torchxrayvision as xrv

from benchmarks.timing import Timing, rates
from petechia.attack import Poisoning
from petechia.attack.export import write_poisoned
from petechia.core.parallel import in_parallel, workers
from petechia.data import Catalog, Preprocess, open_source, prepare
from petechia.data.formats.images import FileReader, read_grey

GEOMETRY = Preprocess(crop=0.6, size=224, resample="nearest")
IMAGES = 600
FEW = 60  # number of images for torchxrayvision, which is slow


def files(folder: Path) -> Catalog:
    """Write phantoms of 1024 x 1024 pixels as PNG files in NIH's layout."""
    dataset, catalog, _ = prepare(open_source(f"phantom:images={IMAGES},size=1024"), GEOMETRY)
    nothing = Poisoning(rate=0)
    write_poisoned(catalog, nothing, nothing.plan(dataset, GEOMETRY, 0), folder / "nih")
    return open_source(f"nih:{folder / 'nih'}")


def single_core(catalog: Catalog) -> Callable[[], int]:
    """Return the plain loop: Pillow's decoder, then the geometry."""
    reader = catalog.reader
    assert isinstance(reader, FileReader)

    def loop() -> int:
        for row in range(len(catalog)):
            GEOMETRY(read_grey(reader.path(row)))
        return len(catalog)

    return loop


def torchxrayvision(folder: Path) -> Callable[[], int]:
    """Return a loop over torchxrayvision's NIH dataset with the transforms of its examples, which use scikit-image."""
    table = pl.read_csv(next(folder.glob("Data_Entry*.csv")))
    known = {"View Position": "PA", "Patient Age": 50, "Patient Gender": "F"}  # required columns that the phantom does not have
    table.with_columns(pl.lit(value).alias(name) for name, value in known.items()).write_csv(folder / "for-xrv.csv")
    crop, resize = xrv.datasets.XRayCenterCrop(), xrv.datasets.XRayResizer(GEOMETRY.size)
    dataset = xrv.datasets.NIH_Dataset(
        folder / "images", folder / "for-xrv.csv", transform=lambda image: resize(crop(image)), unique_patients=False
    )
    return lambda: sum(dataset[row]["img"].shape[0] for row in range(FEW))


def all_cores(catalog: Catalog, folder: Path) -> Callable[[], int]:
    """Return a call of `prepare` with an empty cache."""
    calls = iter(range(1000))

    def whole() -> int:
        os.environ["PETECHIA_CACHE"] = str(folder / f"cache-{next(calls)}")
        prepare(catalog, GEOMETRY)
        return len(catalog)

    return whole


def drawing(size: int, count: int) -> Callable[[], int]:
    """Return a loop that draws phantoms on all cores."""
    reader = open_source(f"phantom:images={count},size={size}").reader

    def draw() -> int:
        return sum(in_parallel(lambda rows: [isinstance(image, np.ndarray) for image in reader.read(rows)], count))

    return draw


def run(rounds: int = 5) -> tuple[dict[str, Timing], dict[str, Timing]]:
    """Return images per second of preparing and of drawing."""
    cache = os.environ.get("PETECHIA_CACHE")
    with tempfile.TemporaryDirectory() as name:
        catalog = files(Path(name))
        ours = all_cores(catalog, Path(name))
        plain = {"Pillow, one core": single_core(catalog), "torchxrayvision, one core": torchxrayvision(Path(name) / "nih")}
        preparing = rates({f"petechia, {workers()} cores": ours, **plain}, rounds)
    if cache is None:
        os.environ.pop("PETECHIA_CACHE")
    else:
        os.environ["PETECHIA_CACHE"] = cache
    return preparing, rates({"64 × 64": drawing(64, 4096), "1024 × 1024": drawing(1024, 32)}, rounds)
