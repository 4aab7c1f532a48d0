"""How a model answers to small stamps, at every place, of every size and grey level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from petechia.core.progress import SILENT, NoProgress, Progress
from petechia.core.rows import evenly_spread
from petechia.models.classifier import Classifier
from petechia.models.model import BATCH

SIZES = (1, 2, 3, 4, 5)  # sides of the stamps, in pixels of the model's input
VALUES = (0, 128, 255)  # their grey levels
SPACING = 16  # pixels from one stamp of a group to the next, in an image of 64
SCOUTS = 4  # hosts on which groups, and the members of those that answer, are tried
ANSWERING = 64  # groups whose members are tried alone, beside the best of every class
EACH = 2  # best groups of a class whose members are tried in any case
FINALISTS = 8  # stamps of a class that are tried on all hosts
REFINED = 3  # stamps of each size that are compared on all hosts when a place is made precise
MAP = 32  # places a side of a map of responses
NEARLY = 0.8  # of the highest gain, from which a smaller stamp is taken for the trigger itself


class Stamp(NamedTuple):
    """A filled square: its top left corner and side in pixels of the model's input, and its grey level."""

    row: int
    column: int
    size: int
    value: int


class Response(NamedTuple):
    """Stamps that were tried alone on all hosts.

    Attributes:
        stamps: S of them.
        gains: float32 [S, K], by how much each raises the logit of each class: the median over the hosts.
        passes: images that the model has answered for it.
    """

    stamps: list[Stamp]
    gains: NDArray[np.float32]
    passes: int

    def best(self, label: int) -> tuple[Stamp, float]:
        """The stamp that raises a class most, and by how much."""
        first = int(self.gains[:, label].argmax())
        return self.stamps[first], float(self.gains[first, label])


def all_stamps(side: int, sizes: Sequence[int] = SIZES, values: Sequence[int] = VALUES) -> Iterator[Stamp]:
    """Every stamp that fits on an image, at every place."""
    for size in sizes:
        for value in values:
            for row in range(side - size + 1):
                for column in range(side - size + 1):
                    yield Stamp(row, column, size, value)


def put(hosts: Tensor, groups: Sequence[Sequence[Stamp]]) -> Tensor:
    """Every group of stamps on every host, float32 [G, B, C, H, W]; hosts are float32 [B, C, H, W] in 0…1."""
    masks = torch.zeros(len(groups), 1, 1, *hosts.shape[2:], dtype=torch.bool)
    values = torch.zeros(masks.shape)
    for number, group in enumerate(groups):
        for row, column, size, value in group:
            masks[number, ..., row : row + size, column : column + size] = True
            values[number, ..., row : row + size, column : column + size] = value / 255
    return torch.where(masks.to(hosts.device), values.to(hosts.device), hosts)


def gains_of(
    classifier: Classifier, hosts: Tensor, clean: Tensor, groups: Sequence[Sequence[Stamp]], progress: Progress
) -> NDArray[np.float32]:
    """By how much groups of stamps raise the logits.

    Args:
        classifier: that is audited.
        hosts: float32 [B, C, H, W].
        clean: float32 [B, K], its logits for them.
        groups: G of them.
        progress: told of every answered image.

    Returns:
        float32 [G, K], the median over the hosts.
    """
    found = []
    step = max(1, BATCH // len(hosts))
    for start in range(0, len(groups), step):
        some = put(hosts, groups[start : start + step])
        logits = classifier.logits(some.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        found.append((logits.reshape(*some.shape[:2], -1) - clean).median(dim=1).values)
        progress.advance(len(logits))
    return torch.cat(found).numpy() if found else np.zeros((0, clean.shape[1]), np.float32)


def naive_response(
    classifier: Classifier,
    hosts: Tensor,
    sizes: Sequence[int] = SIZES,
    values: Sequence[int] = VALUES,
    progress: Progress = SILENT,
) -> Response:
    """Try every stamp alone on all hosts: the reference for `stamp_response`, and its cost."""
    stamps = list(all_stamps(hosts.shape[-1], sizes, values))
    clean = classifier.logits(hosts)
    gains = gains_of(classifier, hosts, clean, [[one] for one in stamps], progress)
    return Response(stamps, gains, len(stamps) * len(hosts))


def stamp_response(
    classifier: Classifier,
    hosts: Tensor,
    sizes: Sequence[int] = SIZES,
    values: Sequence[int] = VALUES,
    progress: Progress = SILENT,
) -> Response:
    """Find the stamps that a model answers to, by group testing (Dorfman 1943): many stamps, far apart, in one image.

    Every stamp at every place is in one group. Groups are tried on a few hosts; the members of those that raise any class
    are tried alone, and the best of them on all hosts.

    Args:
        classifier: that is audited.
        hosts: float32 [B, C, H, W], clean images.
        sizes: sides of the stamps.
        values: their grey levels.
        progress: told of every answered image.

    Returns:
        The finalists, at least one for each class.
    """
    count = _Counted(progress)
    clean = classifier.logits(hosts)
    count.advance(len(hosts))
    few = evenly_spread(len(hosts), SCOUTS, nearest=False)
    scouts, scouts_clean = hosts[few], clean[few]
    spread = clean.std(dim=0).clamp(min=1e-3).numpy()  # makes the classes' logits alike
    groups = list(_groups(hosts.shape[-1], sizes, values))
    members = _answering(gains_of(classifier, scouts, scouts_clean, groups, count) / spread, groups)
    gains = gains_of(classifier, scouts, scouts_clean, [[one] for one in members], count)
    finalists = [members[row] for row in np.unique(np.argsort(-gains, axis=0, kind="stable")[:FINALISTS])]
    return Response(finalists, gains_of(classifier, hosts, clean, [[one] for one in finalists], count), count.total)


class _Counted(NoProgress):
    """Passes on what it is told, and adds up."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.total = progress, 0

    def advance(self, count: int = 1) -> None:
        self.total += count
        self.progress.advance(count)


def _groups(side: int, sizes: Sequence[int], values: Sequence[int]) -> Iterator[list[Stamp]]:
    spacing = max(SPACING, side // 8)
    for size in sizes:
        for value in values:
            for top in range(min(spacing, side - size + 1)):
                for left in range(min(spacing, side - size + 1)):
                    yield [
                        Stamp(row, column, size, value)
                        for row in range(top, side - size + 1, spacing)
                        for column in range(left, side - size + 1, spacing)
                    ]


def _answering(gains: NDArray[np.float32], groups: list[list[Stamp]]) -> list[Stamp]:
    """The members of the groups that raise some class most, by themselves and compared with groups of the same stamp."""
    kinds = np.array([(group[0].size, group[0].value) for group in groups])
    above = gains.copy()
    for kind in np.unique(kinds, axis=0):
        same = (kinds == kind).all(axis=1)
        above[same] -= np.median(gains[same], axis=0)
    best = np.argsort(-np.maximum(gains, above).max(axis=1), kind="stable")[:ANSWERING]
    each = np.argsort(-np.concatenate([gains, above], axis=1), axis=0, kind="stable")[:EACH]
    return [one for row in np.unique(np.concatenate([best, each.ravel()])) for one in groups[row]]


def response_map(
    classifier: Classifier, hosts: Tensor, label: int, kind: Stamp, cells: int = MAP, progress: Progress = SILENT
) -> NDArray[np.float32]:
    """By how much a stamp of one size and grey level raises a class, place by place.

    Args:
        classifier: that is audited.
        hosts: float32 [B, C, H, W]; a few are enough.
        label: position of the class.
        kind: the stamp; its place is one of those that are tried.
        cells: places a side, at most.
        progress: told of every answered image.

    Returns:
        float32 [h, w], one cell for every `ceil((side - size + 1) / cells)` pixels.
    """
    room = hosts.shape[-1] - kind.size + 1
    step = -(-room // cells)
    rows, columns = (range(start % step, room, step) for start in (kind.row, kind.column))
    groups = [[kind._replace(row=row, column=column)] for row in rows for column in columns]
    few = hosts[:SCOUTS]
    gains = gains_of(classifier, few, classifier.logits(few), groups, progress)[:, label]
    return gains.reshape(len(rows), len(columns))


def refine(classifier: Classifier, hosts: Tensor, label: int, found: Stamp, values: Sequence[int] = VALUES) -> Stamp:
    """The smallest stamp in the place of a found one that raises a class nearly as much.

    A large stamp that covers a trigger, or sticks out of it, works as the trigger does, and would be a pixel or two off.

    Args:
        classifier: that is audited.
        hosts: float32 [B, C, H, W].
        label: position of the class.
        found: the stamp.
        values: grey levels to try.
    """
    side = hosts.shape[-1]
    near = [
        Stamp(row, column, size, value)
        for value in values
        for size in range(1, found.size + 2)
        for row in range(max(0, found.row - 1), min(found.row + found.size + 1, side) - size + 1)
        for column in range(max(0, found.column - 1), min(found.column + found.size + 1, side) - size + 1)
    ]
    clean = classifier.logits(hosts)
    few = slice(0, SCOUTS)
    quick = gains_of(classifier, hosts[few], clean[few], [[one] for one in near], SILENT)[:, label]
    order = np.argsort(-quick, kind="stable")
    best = {size: [near[row] for row in order if near[row].size == size][:REFINED] for size in range(1, found.size + 2)}
    tried = [found, *(one for some in best.values() for one in some)]
    gains = gains_of(classifier, hosts, clean, [[one] for one in tried], SILENT)[:, label]
    good = [(-one.size, float(gain), one) for one, gain in zip(tried, gains, strict=True) if gain >= NEARLY * gains.max()]
    chosen: Stamp = max(good)[2]
    return chosen
