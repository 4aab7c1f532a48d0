"""Select a subset of rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def evenly_spread(count: int, most: int | None, nearest: bool = True) -> NDArray[np.intp]:
    """Return at most `most` of the rows 0 … count - 1, evenly spread and including the first and the last.

    Args:
        count: number of rows.
        most: maximum number of rows to return; None returns all rows.
        nearest: round to the nearest row instead of down. Published figures use one or the other.

    Returns:
        int [min(count, most)], ascending and distinct.

    Example:
        >>> evenly_spread(9, 4).tolist(), evenly_spread(9, 4, nearest=False).tolist(), evenly_spread(2, 4).tolist()
        ([0, 3, 5, 8], [0, 2, 5, 8], [0, 1])
    """
    if most is None or count <= most:
        return np.arange(count, dtype=np.intp)
    places = np.linspace(0, count - 1, most)
    return (places.round() if nearest else np.floor(places)).astype(np.intp)
