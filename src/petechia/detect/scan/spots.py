"""Small things of many images as a table that need not fit into memory; see `petechia.detect.scan.traces.Spot`."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from petechia.detect.scan.traces import QUARTERS, Spot

COUNTED = 1 << 22  # spots that are counted at a time
GROUPED = 1 << 20  # spots that are in memory at a time, with all that is known of them
# Columns that are numbers in a `Spot`, too.
NUMBERS = ("image", "plane", "row", "column", "height", "width", "contrast", "pattern")


def to_table(spots: NDArray[np.void]) -> pl.DataFrame:
    """Spots as a table with the columns of `Spot`; the four quarters of a look are the bytes of one number."""
    looks = np.ascontiguousarray(spots["look"]).reshape(-1, QUARTERS).view(np.uint32)[:, 0]
    return pl.DataFrame({name: spots[name] for name in NUMBERS} | {"look": looks})


def to_spots(table: pl.DataFrame) -> NDArray[np.void]:
    """The rows of such a table, `Spot` [n]."""
    spots = np.zeros(table.height, Spot)
    for name in NUMBERS:
        spots[name] = table[name].to_numpy()
    spots["look"] = np.ascontiguousarray(table["look"].to_numpy()).view(np.uint8).reshape(-1, QUARTERS)
    return spots


def most_frequent(spots: pl.LazyFrame, keys: list[str], fewest: int, most: int) -> pl.DataFrame:
    """The values of some columns that are on the most images, and on how many ("images"); the most frequent first.

    Args:
        spots: a table of spots.
        keys: the columns.
        fewest: images on which they are, at least.
        most: how many of them, at most.
    """
    order = ["images", *keys]
    # Nearly every pattern is there once, so counting all takes more memory than the table: part by part, by a digest.
    parts = 1 + count(spots) // COUNTED
    found = []
    for part in range(parts):
        some = spots.select("image", *keys)
        if parts > 1:
            some = some.filter(pl.struct(keys).hash(0) % parts == part)
        counts = some.group_by(keys).agg(pl.col("image").n_unique().alias("images")).filter(pl.col("images") >= fewest)
        found.append(collected(counts.sort(order, descending=True).head(most)))
    return pl.concat(found).sort(order, descending=True).head(most)


def count(spots: pl.LazyFrame) -> int:
    """The number of spots."""
    return int(collected(spots.select(pl.len())).item())


def collected(table: pl.LazyFrame) -> pl.DataFrame:
    """The rows, without a whole file in memory on the way."""
    return table.collect(engine="streaming")
