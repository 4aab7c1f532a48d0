"""All benchmarks of the processor as one table."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import version

from benchmarks import explaining, growing, measuring, poisoning, preparing, scanning, training, viewing
from benchmarks.timing import Timing
from petechia.core.runtime import Compute

OURS = "petechia"
VERSIONS = ("torch", "torchxrayvision", "adversarial-robustness-toolbox", "scikit-learn", "captum", "grad-cam", "torchcam")


def rows(title: str, timings: dict[str, Timing], per: str = "images/s") -> Iterator[str]:
    """Yield the rows of a table: ours and every peer, with the ratio of our median to theirs."""
    ours = next((timing for name, timing in timings.items() if name.startswith(OURS)), None)
    for name, timing in timings.items():
        ratio = f"{ours.median / timing.median:.2f}" if ours and timing is not ours else ""
        yield f"| {title} | {name} | {' | '.join(f'{value:,.1f}' for value in timing)} | {per} | {ratio} |"
        title = ""


def speeds() -> Iterator[str]:
    """Yield the rows of everything that is timed against a peer."""
    prepared, drawn = preparing.run()
    yield from rows("prepare, PNG of 1024 × 1024 to 224 × 224", prepared)
    yield from rows("draw phantoms", drawn)
    yield from rows("scan for near-duplicates and stamps, PNG of 1024 × 1024", scanning.run())
    yield from rows("stamp 3 × 3, grey images of 224 × 224", poisoning.run())
    yield from rows("all metrics of an epoch, 25,596 images, 14 classes", measuring.run())
    yield from rows("train DenseNet-121, 64 × 64, batches of 32", training.run())
    explained, differences = explaining.run()
    for precision, timings in explained.items():
        yield from rows(f"Grad-CAM of two layers, DenseNet-121, 224 × 224, {precision}", timings)
    for name, difference in differences.items():
        yield f"| &nbsp; largest difference of our maps from {name}'s, fp32 | | | {difference:.2g} | | share of the maximum | |"


def growth() -> Iterator[str]:
    """Yield the rows about time and memory by number of images."""
    for name, images, one in growing.run():
        yield f"| {name} | {images:,} | {one.seconds:,.1f} | {images / one.seconds:,.0f} | {one.peak:,.0f} |"


def report() -> Iterator[str]:
    """Yield the whole report as Markdown; takes about ten minutes."""
    packages = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    yield f"{os.cpu_count()} cores ({platform.machine()}), {Compute().start()}; Python {platform.python_version()}, {packages}."
    yield ""
    yield "| what | who | lowest | median | highest | unit | petechia ÷ this |"
    yield "|---|---|---|---|---|---|---|"
    yield from speeds()
    memory = poisoning.memory()
    yield ""
    yield f"Stamping holds {memory.ours:.4g} × the images beyond them at its peak, ART's pattern {memory.art:.4g} ×. Read in"
    yield f"batches, {poisoning.IMAGES // 10:,} images take {memory.lazy_tenth:.3g} MB,"
    yield f"{poisoning.IMAGES:,} take {memory.lazy:.3g} MB."
    yield ""
    yield f"The viewer, two layers of heat of an image and its triggered version at 224 × 224: {viewing.run()}."
    yield ""
    yield "| phantoms of 64 × 64 | images | seconds | images/s | peak memory of the process, MB |"
    yield "|---|---|---|---|---|"
    yield from growth()
