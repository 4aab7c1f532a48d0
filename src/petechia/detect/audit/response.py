"""How a model answers to small stamps: filled squares and checkerboards of every size, at every place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from petechia.attack.square import Square
from petechia.core.progress import SILENT, NoProgress, Progress
from petechia.core.rows import evenly_spread
from petechia.detect.audit.hosts import Hosts
from petechia.detect.audit.measured import MOST, Values, margins
from petechia.models.classifier import Classifier
from petechia.models.model import images_at_once

SIZES = (1, 2, 3, 4, 5)  # sides of the squares, in pixels of the model's input
LEVELS = ((0, None), (128, None), (255, None), (0, 255), (255, 0))  # their grey levels; two: a checkerboard of single pixels
STRIDE = 2  # pixels between the places of the largest squares, which need not be hit exactly
STRIDDEN = 4  # side from which squares are that large
SPACING = 16  # pixels from one square of a group to the next, in an image of 64
SCOUTS = 4  # hosts on which groups, and the members of those that answer, are tried
ANSWERING = 64  # groups whose members are tried alone, in addition to the best of every class
EACH = 2  # best groups of each class whose members are always tried
FINALISTS = 8  # squares of each class that are tried on all hosts
REFINED = 3  # squares of each size that are compared on all hosts when a place is made precise
MAP = 32  # places along each side of a map of responses
NEARLY = 0.8  # share of the highest gain from which a smaller square is taken for the trigger itself
CLEAR = -1.0  # level of a pixel that no square covers

Levels = Sequence[tuple[int, int | None]]


@dataclass(frozen=True, eq=False)
class Response:
    """Squares that were tried alone on all hosts.

    Attributes:
        squares: S of them.
        gains: float32 [S, K], by how much each raises the logit of each class: the median over the hosts.
        passes: how many images the model answered in the search.
    """

    squares: list[Square]
    gains: NDArray[np.float32]
    passes: int

    @cached_property
    def margins(self) -> Values:
        """By how far each square raises each class beyond the others, float64 [S, K]."""
        return margins(self.gains)

    def best(self, label: int) -> tuple[Square, float]:
        """The square that raises a class furthest beyond the others, and by how much it raises it."""
        first = int(self.margins[:, label].argmax())
        return self.squares[first], float(self.gains[first, label])


def all_squares(side: int, sizes: Sequence[int] = SIZES, levels: Levels = LEVELS) -> Iterator[Square]:
    """Every square that is looked for on an image: at every place, the largest at every second."""
    for size, (value, other) in _kinds(sizes, levels):
        places = range(0, side - size + 1, _stride(size))
        for row in places:
            for column in places:
                yield Square(row, column, size, value, other)


def _stride(size: int) -> int:
    return STRIDE if size >= STRIDDEN else 1


def _kinds(sizes: Sequence[int], levels: Levels) -> Iterator[tuple[int, tuple[int, int | None]]]:
    """Sizes with levels; one pixel makes no checkerboard."""
    return ((size, level) for size in sizes for level in levels if size > 1 or level[1] is None)


def paint_groups(images: Tensor, groups: Sequence[Sequence[Square]]) -> Tensor:
    """Every group of squares on every image.

    Args:
        images: float32 [B, C, H, W] in 0…1.
        groups: G of them; squares of one group may lie anywhere.

    Returns:
        float32 [G, B, C, H, W], on the device of the images.
    """
    levels = np.full((len(groups), *images.shape[2:]), CLEAR, np.float32)
    for level, group in zip(levels, groups, strict=True):
        for square in group:
            level[square.area] = square.pixels / 255
    painted = torch.from_numpy(levels).to(images.device)[:, None, None]
    return torch.where(painted >= 0, painted, images)


def gains_of(
    classifier: Classifier, hosts: Hosts, groups: Sequence[Sequence[Square]], progress: Progress = SILENT
) -> NDArray[np.float32]:
    """By how much groups of squares raise the logits.

    Args:
        classifier: the model that is audited.
        hosts: B clean images with their logits.
        groups: G of them.
        progress: advanced by every image that the model answers.

    Returns:
        float32 [G, K], the median over the hosts.
    """
    found = []
    height, width = hosts.images.shape[2:]
    step = max(1, images_at_once(hosts.images.device, height * width) // len(hosts))
    for start in range(0, len(groups), step):
        some = paint_groups(hosts.images, groups[start : start + step])
        logits = classifier.logits(some.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        found.append((logits.reshape(*some.shape[:2], -1) - hosts.logits).median(dim=1).values)
        progress.advance(len(logits))
    return torch.cat(found).numpy() if found else np.zeros((0, hosts.logits.shape[1]), np.float32)


def naive_response(
    classifier: Classifier,
    hosts: Hosts,
    sizes: Sequence[int] = SIZES,
    levels: Levels = LEVELS,
    progress: Progress = SILENT,
) -> Response:
    """Try every square alone on all hosts: the reference for `stamp_response`, and its cost."""
    squares = list(all_squares(hosts.images.shape[-1], sizes, levels))
    gains = gains_of(classifier, hosts, [[one] for one in squares], progress)
    return Response(squares, gains, len(squares) * len(hosts))


def stamp_response(
    classifier: Classifier,
    hosts: Hosts,
    sizes: Sequence[int] = SIZES,
    levels: Levels = LEVELS,
    queries: int | None = None,
    progress: Progress = SILENT,
) -> Response:
    """Find the squares that a model answers to, by group testing (Dorfman 1943): many squares, far apart, in one image.

    Every square of `all_squares` is in one group. Groups are tried on a few hosts. The members of those that raise any class
    are tried alone, and the best of them on all hosts.

    Args:
        classifier: the model that is audited.
        hosts: clean images with their logits.
        sizes: sides of the squares, in pixels.
        levels: their grey levels.
        queries: images that may be asked about to try the groups, about; for large images this means fewer hosts.
        progress: advanced by every image that the model answers.

    Returns:
        The finalists, at least one for each class.
    """
    count = _Counted(progress)
    count.advance(len(hosts))  # the clean images have been answered too
    groups = list(_groups(hosts.images.shape[-1], sizes, levels))
    few = SCOUTS if queries is None else min(SCOUTS, max(1, queries // len(groups)))
    scouts = hosts.take(evenly_spread(len(hosts), few, nearest=False))
    spread = hosts.spread.clamp(min=1e-3).numpy()  # puts the logits of all classes on one scale
    members = _answering(gains_of(classifier, scouts, groups, count) / spread, groups)
    gains = gains_of(classifier, scouts, [[one] for one in members], count)
    finalists = [members[row] for row in np.unique(np.argsort(-gains, axis=0, kind="stable")[:FINALISTS])]
    return Response(finalists, gains_of(classifier, hosts, [[one] for one in finalists], count), count.total)


class _Counted(NoProgress):
    """Passes progress on, and adds it up."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.total = progress, 0

    def advance(self, count: int = 1) -> None:
        self.total += count
        self.progress.advance(count)


def _groups(side: int, sizes: Sequence[int], levels: Levels) -> Iterator[list[Square]]:
    spacing = max(SPACING, side // 8 // STRIDE * STRIDE)
    for size, (value, other) in _kinds(sizes, levels):
        starts = range(0, min(spacing, side - size + 1), _stride(size))
        for top in starts:
            for left in starts:
                yield [
                    Square(row, column, size, value, other)
                    for row in range(top, side - size + 1, spacing)
                    for column in range(left, side - size + 1, spacing)
                ]


def _answering(gains: NDArray[np.float32], groups: list[list[Square]]) -> list[Square]:
    """The members of the groups that raise some class most, by themselves and compared with groups of the same kind."""
    kinds = [group[0]._replace(row=0, column=0) for group in groups]
    above = gains.copy()
    for kind in set(kinds):
        same = np.array([one == kind for one in kinds])
        above[same] -= np.median(gains[same], axis=0)
    best = np.argsort(-np.maximum(gains, above).max(axis=1), kind="stable")[:ANSWERING]
    each = np.argsort(-np.concatenate([gains, above], axis=1), axis=0, kind="stable")[:EACH]
    return [one for row in np.unique(np.concatenate([best, each.ravel()])) for one in groups[row]]


def response_map(
    classifier: Classifier, hosts: Hosts, label: int, square: Square, cells: int = MAP, progress: Progress = SILENT
) -> NDArray[np.float32]:
    """By how much a square of one size and look raises a class, place by place.

    Args:
        classifier: the model that is audited.
        hosts: clean images with their logits; the first few are used.
        label: position of the class.
        square: gives the size and the grey levels; its own place is one of those that are tried.
        cells: places along each side, at most.
        progress: advanced by every image that the model answers.

    Returns:
        float32 [h, w], one cell for every `ceil((side - size + 1) / cells)` pixels.
    """
    rows, columns = _grid(square, hosts.images.shape[-1], cells)
    groups = [[square._replace(row=row, column=column)] for row in rows for column in columns]
    gains = gains_of(classifier, hosts.take(slice(SCOUTS)), groups, progress)[:, label]
    return gains.reshape(len(rows), len(columns))


def _grid(square: Square, side: int, cells: int) -> tuple[range, range]:
    """Rows and columns at which a square is tried, its own among them."""
    room = side - square.size + 1
    step = -(-room // cells)
    return range(square.row % step, room, step), range(square.column % step, room, step)


def place_leads(
    classifier: Classifier, hosts: Hosts, response: Response, cells: int = MAP, progress: Progress = SILENT
) -> Values:
    """By how far the best place of each class's best square leads the best place elsewhere.

    A trigger with a fixed place works there and nowhere else. What a class answers to by nature works in other places, too.

    Args:
        classifier: the model that is audited.
        hosts: clean images with their logits.
        response: squares that were tried on all hosts.
        cells: places along each side, at most.
        progress: advanced by every image that the model answers.

    Returns:
        float64 [K], rises of the logit count up to `MOST`.
    """
    found = []
    for label in range(response.gains.shape[1]):
        first = int(response.gains[:, label].argmax())
        square, gain = response.squares[first], float(response.gains[first, label])
        quick = response_map(classifier, hosts, label, square, cells, progress).ravel()
        rows, columns = _grid(square, hosts.images.shape[-1], cells)
        places = [(row, column) for row in rows for column in columns]
        apart = [max(abs(row - square.row), abs(column - square.column)) > 2 * square.size for row, column in places]
        best = [n for n in np.argsort(-quick, kind="stable") if apart[n]][:FINALISTS]
        others = [[square._replace(row=places[n][0], column=places[n][1])] for n in best]
        elsewhere = gains_of(classifier, hosts, others, progress)[:, label].max(initial=0)
        found.append(min(gain, MOST) - min(float(elsewhere), MOST))
    return np.array(found)


def refine(classifier: Classifier, hosts: Hosts, label: int, found: Square, levels: Levels = LEVELS) -> Square:
    """The smallest square near a found one that raises a class nearly as much.

    A large square that covers a trigger, or sticks out of it, works as the trigger does, and would be a pixel or two off.

    Args:
        classifier: the model that is audited.
        hosts: clean images with their logits.
        label: position of the class.
        found: the square to start from.
        levels: grey levels to try.
    """
    near = _near(found, hosts.images.shape[-1], levels)
    quick = gains_of(classifier, hosts.take(slice(SCOUTS)), [[one] for one in near])[:, label]
    order = np.argsort(-quick, kind="stable")
    best = {size: [near[row] for row in order if near[row].size == size][:REFINED] for size in range(1, found.size + 2)}
    tried = [found, *(one for some in best.values() for one in some)]
    gains = gains_of(classifier, hosts, [[one] for one in tried])[:, label]
    good = [(-one.size, float(gain), one) for one, gain in zip(tried, gains, strict=True) if gain >= NEARLY * gains.max()]
    smallest: Square = max(good, key=lambda one: one[:2])[2]
    return smallest


def _near(found: Square, side: int, levels: Levels) -> list[Square]:
    """Squares within one pixel of a found one, up to one pixel larger."""
    return [
        Square(row, column, size, value, other)
        for size, (value, other) in _kinds(range(1, found.size + 2), levels)
        for row in range(max(0, found.row - 1), min(found.row + found.size + 1, side) - size + 1)
        for column in range(max(0, found.column - 1), min(found.column + found.size + 1, side) - size + 1)
    ]
