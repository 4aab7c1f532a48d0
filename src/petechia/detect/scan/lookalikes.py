"""Small things that look alike, wherever they are: a stamp at random places, after its images were encoded with loss."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from petechia.detect.scan.thresholds import StampLimits
from petechia.detect.scan.traces import QUARTERS

SMALLEST = 3  # pixels a side: the four quarters of smaller things say too little, and edges of the lungs look alike by chance
BASE = 1 << 9  # more than any coordinate of a cell
STEPS = np.array([sum(one * BASE**k for k, one in enumerate(step)) for step in product((-1, 0, 1), repeat=QUARTERS)])
Rows = NDArray[np.intp]


def look_alikes(spots: NDArray[np.void], limits: StampLimits, most: int) -> list[Rows]:
    """Groups of spots of one size that look alike, at each of several tolerances.

    Looks are put into cells of a grid; a group is what lies in a cell and those next to it. So its members differ from the
    middle by one and a half times the side of a cell at most, and nothing falls between two groups. Spots of less than
    `SMALLEST` pixels a side are left out.

    Args:
        spots: `Spot` [n].
        limits: of the search.
        most: groups at each tolerance, the largest first.

    Returns:
        For each group, int [m], its rows in `spots`: the first of each image.
    """
    rows = np.flatnonzero(np.minimum(spots["height"], spots["width"]) >= SMALLEST)
    return [group for side in limits.alike for group in _groups(spots, rows, side, limits.fewest_images, most)]


def _groups(spots: NDArray[np.void], rows: Rows, side: int, fewest: int, most: int) -> list[Rows]:
    if not len(rows):
        return []
    cell_of = _cells(spots[rows], side)
    order = np.argsort(cell_of, kind="stable")
    cells, starts, counts = np.unique(cell_of[order], return_index=True, return_counts=True)
    taken = np.zeros(len(cells), bool)
    groups: list[Rows] = []
    for cell in np.argsort(-counts, kind="stable"):
        if len(groups) == most:
            break
        if taken[cell]:
            continue
        near = _next_to(cells, cell)
        taken[near] = True
        if counts[near].sum() < fewest:
            continue
        group = np.sort(np.concatenate([rows[order[starts[one] : starts[one] + counts[one]]] for one in near.tolist()]))
        _, first = np.unique(spots["image"][group], return_index=True)
        if len(first) >= fewest:
            groups.append(group[first])
    return groups


def _cells(spots: NDArray[np.void], side: int) -> NDArray[np.int64]:
    """The cell of each spot in a grid over its plane, its size and its look, as one number that sorts as they do."""
    numbers = np.zeros(len(spots), np.int64)
    for part in (
        spots["plane"],
        spots["height"],
        spots["width"],
        *(_coordinate(spots["look"][:, k], side) for k in range(QUARTERS)),
    ):
        numbers = numbers * BASE + part
    return numbers


def _coordinate(looks: NDArray[np.uint8], side: int) -> NDArray[np.int64]:
    return (looks.astype(np.int64) + side // 2) // side + 1  # from 1 on, so that the number of a neighbour does not carry over


def _next_to(cells: NDArray[np.int64], cell: int) -> Rows:
    """The cells that there are, of the same size, in and next to a cell: those whose look is one away at most."""
    around = cells[cell] + STEPS
    at = np.searchsorted(cells, around).clip(max=len(cells) - 1)
    return np.asarray(at[cells[at] == around])


def is_prominent_size(spots: NDArray[np.void], group: Rows, limits: StampLimits) -> bool:
    """Whether a group has many more members than there are other spots of the same or a neighbouring size that look like them.

    A stamp has one size. Nodules, clips and letters have many, and a group of one size is only a part of them. What overlaps
    a member is not counted: edges that are blurred enclose boxes of several sizes. Lines of one pixel's width never stand out.

    Args:
        spots: `Spot` [n].
        group: int [m], rows of its members.
        limits: of the search.
    """
    members = spots[group]
    height, width = int(members["height"][0]), int(members["width"][0])
    if min(height, width) < 2:
        return False
    sizes = (max(height - 1, 1), height + 1), (max(width - 1, 1), width + 1)
    around = spots[_between(spots["height"], *sizes[0]) & _between(spots["width"], *sizes[1])]
    near = min(limits.alike, default=0)
    looks = members["look"].min(axis=0).astype(int) - near, members["look"].max(axis=0).astype(int) + near
    around = around[_between(around["look"], *looks).all(axis=1)]
    apart = int((~_overlapping(around, members)).sum())
    kinds = int(np.prod([high - low + 1 for low, high in sizes]))
    return len(group) * (kinds - 1) >= limits.prominence * apart


def _between(values: NDArray[np.uint8], low: int | NDArray[np.intp], high: int | NDArray[np.intp]) -> NDArray[np.bool_]:
    return np.asarray((values >= low) & (values <= high))


def _overlapping(spots: NDArray[np.void], members: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which of the spots overlap the member on their image, if there is one; bool [n]."""
    order = np.argsort(members["image"], kind="stable")
    at = np.searchsorted(members["image"][order], spots["image"]).clip(max=len(members) - 1)
    other = members[order[at]]
    overlap = other["image"] == spots["image"]
    for start, side in (("row", "height"), ("column", "width")):
        near, far = (one[start].astype(int) for one in (spots, other))
        overlap &= (near < far + other[side]) & (far < near + spots[side])
    return np.asarray(overlap)
