"""Run all benchmarks and print one table."""

from __future__ import annotations

import platform

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import explaining, measuring, poisoning, preparing, scanning, training, viewing
from benchmarks.timing import Timing
from petechia.compute import Compute
from petechia.data.prepare import workers


def show(console: Console, title: str, timings: dict[str, Timing], base: str | None = None, scale: float = 1) -> None:
    """One table; the ratio is of the medians, to `scale` times the base."""
    table = Table("images/s", "lowest", "median", "highest", "ratio", title=title)
    for name, timing in timings.items():
        ratio = f"{timing.median / (scale * timings[base].median):.2f}" if base and name != base else ""
        table.add_row(name, *(f"{value:,.1f}" for value in timing), ratio)
    console.print(table)


def main() -> None:
    """Everything, in a few minutes."""
    console = Console(highlight=False)
    console.print(f"{Compute().open()}, {platform.machine()}, torch {torch.__version__}")
    prepared, drawn = preparing.run()
    show(console, f"Preparing 1024 x 1024 PNG; ratio to {workers()} x one core", prepared, "one core", workers())
    show(console, "Drawing", drawn)
    show(console, "Scanning 1024 x 1024 PNG for twins and stamps; ratio to decoding", scanning.run(), "decoding")
    show(console, "Stamping 224 x 224 images; ratio to ART's pattern on float32", poisoning.run(), "ART, pattern, float32")
    console.print(f"Memory beyond the images, as multiples of theirs; read in batches, MB: {poisoning.memory()}")
    show(console, "Measuring one epoch of 25,596 images; ratio to sklearn's point values", measuring.run(), "sklearn, none")
    show(console, "Training DenseNet-121 at 64 x 64; ratio to the bare loop", training.run(), "bare loop")
    explained, differences = explaining.run()
    for precision, timings in explained.items():
        show(console, f"Grad-CAM of two layers, DenseNet-121 at 224 x 224, {precision}; ratio to petechia", timings, "petechia")
    console.print("Largest difference in fp32, maps divided by their maxima:", differences)
    console.print(f"Viewer, clean and triggered with two layers at 224 x 224: {viewing.run()}")


if __name__ == "__main__":
    main()
