"""How far a trigger moves the heat, and whether the heat finds it: numbers of pairs of maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Numbers = NDArray[np.float64]
IOU_THRESHOLD = 0.5


@dataclass(frozen=True)
class Localisation:
    """Whether the heat found the trigger, and how far it moved; float64 [N] each, NaN where a map that it needs is all 0.

    Attributes:
        hit: `pointing_game` of the triggered images.
        clean_hit: the same of their clean versions, what comes out without a trigger.
        chance: share of the map's cells that would be a hit: on a map of few cells nearly all are near the trigger.
        energy: `box_energy` of the triggered images.
        clean_energy: the same of their clean versions.
        iou: `box_iou` of the triggered images.
        clean_iou: the same of their clean versions.
        distance: `peak_distance` of the triggered images, in pixels.
        clean_distance: the same of their clean versions.
        shift: how far the centroid moved, as a fraction of the image's side.
        divergence: between the two maps, in 0…1.
    """

    hit: Numbers
    clean_hit: Numbers
    chance: Numbers
    energy: Numbers
    clean_energy: Numbers
    iou: Numbers
    clean_iou: Numbers
    distance: Numbers
    clean_distance: Numbers
    shift: Numbers
    divergence: Numbers


def localise(
    clean_maps: NDArray[np.float32],
    triggered_maps: NDArray[np.float32],
    centres: NDArray[np.floating],
    boxes: NDArray[np.integer],
    size: int,
) -> Localisation:
    """All numbers of one layer.

    Args:
        clean_maps: float32 [N, h, w], of the clean images.
        triggered_maps: float32 [N, h, w], of the same images with the trigger.
        centres: float [N, 2], row and column of the trigger's centre, as in `peak_distance`.
        boxes: int [N, 4], the trigger's box, as in `box_energy`.
        size: side of the input in pixels.
    """
    return Localisation(
        pointing_game(triggered_maps, centres, size),
        pointing_game(clean_maps, centres, size),
        pointing_chance(clean_maps.shape[1:], centres, size),
        box_energy(triggered_maps, boxes, size),
        box_energy(clean_maps, boxes, size),
        box_iou(triggered_maps, boxes, size),
        box_iou(clean_maps, boxes, size),
        peak_distance(triggered_maps, centres, size),
        peak_distance(clean_maps, centres, size),
        *heat_shift(clean_maps, triggered_maps),
    )


def centroid(maps: NDArray[np.float32]) -> Numbers:
    """Centre of mass of the heat.

    Args:
        maps: float32 [N, h, w], at least 0.

    Returns:
        Row and column as fractions of the image's height and width, float64 [N, 2]; the middle is 0.5. NaN for a map of 0.
    """
    shares = _shares(maps)
    rows, columns = (_cell_centres(side) for side in maps.shape[1:])
    return np.stack([shares.sum(axis=2) @ rows, shares.sum(axis=1) @ columns], axis=1)


def peak(maps: NDArray[np.float32]) -> Numbers:
    """Centre of the hottest cell, of equally hot ones the first; arguments and result as those of `centroid`."""
    rows, columns = (_cell_centres(side) for side in maps.shape[1:])
    row, column = np.divmod(maps.reshape(len(maps), rows.size * columns.size).argmax(axis=1), columns.size)
    peaks = np.stack([rows[row], columns[column]], axis=1)
    peaks[maps.max(axis=(1, 2), initial=0) == 0] = np.nan
    return peaks


def box_energy(maps: NDArray[np.float32], boxes: NDArray[np.integer], size: int) -> Numbers:
    """Share of the heat inside a box, after bilinear upsampling to the input, which makes layers comparable.

    The upsampling is that of `torch.nn.functional.interpolate(align_corners=False)`. It is linear in rows and in columns, so
    its sum over a box is a weighted sum of the cells and no large map is made.

    Args:
        maps: float32 [N, h, w], at least 0.
        boxes: int [N, 4], top, left, height and width in pixels of the input; what lies outside of it does not count.
        size: side of the input in pixels.

    Returns:
        float64 [N] in 0…1; NaN for a map of 0 and for a box without a pixel.
    """
    top, left, height, width = np.asarray(boxes, np.int64).T
    (rows, all_rows), (columns, all_columns) = (
        _upsampled_sums(cells, start, start + extent, size)
        for cells, start, extent in zip(maps.shape[1:], (top, left), (height, width), strict=True)
    )
    inside = np.einsum("nhw,nh,nw->n", maps, rows, columns)
    total = np.einsum("nhw,h,w->n", maps, all_rows, all_columns)
    defined = (total > 0) & rows.any(axis=1) & columns.any(axis=1)
    return np.where(defined, inside / np.where(defined, total, 1), np.nan)


def box_iou(maps: NDArray[np.float32], boxes: NDArray[np.integer], size: int, threshold: float = IOU_THRESHOLD) -> Numbers:
    """Intersection over union of a box and the hot area: the pixels with at least a share of the hottest one's heat.

    The map is upsampled to the input bilinearly, as in `box_energy`.

    Args:
        maps: float32 [N, h, w], at least 0.
        boxes: int [N, 4], as in `box_energy`.
        size: side of the input in pixels.
        threshold: the share, of the upsampled map's maximum.

    Returns:
        float64 [N] in 0…1; NaN for a map of 0 and for a box without a pixel.
    """
    found = np.full(len(maps), np.nan)
    for row, (one, (top, left, height, width)) in enumerate(zip(maps, boxes, strict=True)):
        large = functional.interpolate(torch.from_numpy(one)[None, None], (size, size), mode="bilinear")[0, 0].numpy()
        hot, box = large >= threshold * large.max(), np.zeros((size, size), bool)
        box[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = True
        if large.max() > 0 and box.any():
            found[row] = (hot & box).sum() / (hot | box).sum()
    return found


def pointing_game(maps: NDArray[np.float32], centres: NDArray[np.floating], size: int, cells: float = 1) -> Numbers:
    """Whether the hottest cell is the trigger's or a neighbour of it (Zhang et al. 2018, with a tolerance in cells).

    Args:
        maps: float32 [N, h, w], at least 0.
        centres: float [N, 2], as in `peak_distance`.
        size: side of the input in pixels.
        cells: how far the cell's centre may be from the trigger's, in cells of the map, in rows and in columns.

    Returns:
        1 or 0, float64 [N]; 0 also for a map of 0, which points nowhere.
    """
    apart = np.abs(peak(maps) * size - centres) * np.array(maps.shape[1:]) / size
    return np.asarray((apart <= cells).all(axis=1), np.float64)


def pointing_chance(shape: tuple[int, ...], centres: NDArray[np.floating], size: int, cells: float = 1) -> Numbers:
    """Share of a map's cells that would be a hit in the `pointing_game`, float64 [N]; `shape` is h and w."""
    near = [
        np.abs(_cell_centres(side) * side - centre[:, None] * side / size) <= cells
        for side, centre in zip(shape, centres.T, strict=True)
    ]
    return np.asarray(near[0].mean(axis=1) * near[1].mean(axis=1))


def peak_distance(maps: NDArray[np.float32], centres: NDArray[np.floating], size: int) -> Numbers:
    """Distance from the peak to the trigger's centre.

    The peak is that of the map itself. Upsampled bilinearly it would be nowhere hotter than at the centre of the hottest
    cell, but for a cell at the border it would be as hot all the way out, and the first such pixel is no peak.

    Args:
        maps: float32 [N, h, w], at least 0.
        centres: float [N, 2], row and column in pixels of the input, counted from its corner: a box's are
            `top + height / 2` and `left + width / 2`.
        size: side of the input in pixels.

    Returns:
        Pixels of the input, float64 [N]; NaN for a map of 0.
    """
    return np.asarray(np.linalg.norm(peak(maps) * size - centres, axis=1))


def heat_shift(clean_maps: NDArray[np.float32], triggered_maps: NDArray[np.float32]) -> tuple[Numbers, Numbers]:
    """How the trigger moved the heat.

    Args:
        clean_maps: float32 [N, h, w], at least 0.
        triggered_maps: float32 [N, h, w], of the same images with the trigger.

    Returns:
        Distance between the centroids as a fraction of the image's side, and Jensen-Shannon divergence (Lin 1991, base 2)
        of the maps as distributions, 0 for equal and 1 for disjoint ones; float64 [N] each, NaN where a map is all 0.
    """
    distance = np.linalg.norm(centroid(triggered_maps) - centroid(clean_maps), axis=1)
    clean, triggered = _shares(clean_maps), _shares(triggered_maps)
    divergence = _entropy((clean + triggered) / 2) - (_entropy(clean) + _entropy(triggered)) / 2
    return distance, divergence.clip(0, 1)


def _shares(maps: NDArray[np.float32]) -> Numbers:
    """Maps that sum to 1; NaN for a map of 0."""
    totals = maps.sum(axis=(1, 2), dtype=np.float64, keepdims=True)
    return np.asarray(maps / np.where(totals > 0, totals, np.nan))


def _entropy(shares: Numbers) -> Numbers:
    logs = np.log2(np.where(shares > 0, shares, 1))
    return np.asarray(-(shares * logs).sum(axis=(1, 2)))


def _cell_centres(count: int) -> Numbers:
    return (np.arange(count) + 0.5) / count


def _upsampled_sums(cells: int, start: NDArray[np.int64], end: NDArray[np.int64], size: int) -> tuple[Numbers, Numbers]:
    """What each cell adds to the sum over the upsampled pixels start … end - 1, float64 [N, cells], and over all of them."""
    places = _cell_centres(size) * cells - 0.5
    weights = [np.interp(places, np.arange(cells), cell) for cell in np.eye(cells)]
    sums = np.concatenate([np.zeros((1, cells)), np.cumsum(weights, axis=1).T])
    return sums[end.clip(0, size)] - sums[start.clip(0, size)], sums[-1]
