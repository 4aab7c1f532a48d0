"""Small things that look alike, wherever they are: a stamp at random places, after its images were encoded with loss."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from petechia.detect.scan.thresholds import StampLimits

APART = 4  # cells between two sizes, so that no cell of one is next to a cell of another
Rows = NDArray[np.intp]


def look_alikes(spots: NDArray[np.void], limits: StampLimits, most: int) -> list[Rows]:
    """Groups of spots of one size that look alike, at each of several tolerances.

    Looks are put into cells of a grid; a group is what lies in a cell and those next to it. So its members differ from the
    middle by one and a half times the side of a cell at most, and nothing falls between two groups. Spots of few pixels are
    left out: they look alike by chance.

    Args:
        spots: `Spot` [n].
        limits: of the search.
        most: groups at each tolerance, the largest first.

    Returns:
        For each group, int [m], its rows in `spots`.
    """
    pixels = spots["height"].astype(int) * spots["width"]
    rows = np.flatnonzero(pixels >= limits.smallest_alike)
    return [group for side in limits.alike for group in _groups(spots, rows, side, limits.fewest_images, most)]


def _groups(spots: NDArray[np.void], rows: Rows, side: int, fewest: int, most: int) -> list[Rows]:
    if not len(rows):
        return []
    sizes = np.stack([spots["height"][rows], spots["width"][rows]], axis=1).astype(int) * APART
    looks = (spots["look"][rows].astype(int) + side // 2) // side
    cells, member, counts = np.unique(np.hstack([sizes, looks]), axis=0, return_inverse=True, return_counts=True)
    by_cell = np.split(rows[np.argsort(member.reshape(-1), kind="stable")], np.cumsum(counts)[:-1])
    tree, taken = KDTree(cells), np.zeros(len(cells), bool)
    groups = []
    for cell in np.argsort(-counts, kind="stable").tolist():
        if len(groups) == most:
            break
        if taken[cell]:
            continue
        near = tree.query_ball_point(cells[cell], 1, p=np.inf)
        taken[near] = True
        group = np.sort(np.concatenate([by_cell[one] for one in near]))
        if len(np.unique(spots["image"][group])) >= fewest:
            groups.append(group)
    return groups
