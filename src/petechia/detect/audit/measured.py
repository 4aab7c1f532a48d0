"""What the searches of an audit find in one model, before it is judged; of clean models, what others are compared with."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, model_validator

from petechia.core.results import Record

DIGITS = 4  # significant ones in a file
STAMPS = "stamps"  # a test; the others are called as their family of changes
SHARE = 0  # of the shares of a family's limit, which counts: the half
FEWEST = 4  # classes that a model must have for them to be compared with each other
MOST = 10.0  # rise of a logit that counts: it brings 1 in 10,000 to more than a half, and overfitted networks go far beyond
TOGETHER = 3  # classes that may rise together, as a backdoor may have several targets

Values = NDArray[np.float64]


class Measured(Record):
    """What the searches found, class by class.

    Attributes:
        name: of the model.
        size: side of its images, in pixels.
        channels: of its images.
        images: clean images that it was measured with.
        classes: names of its K classes.
        chance: K mean scores of the clean images.
        spread: K standard deviations of their logits.
        gains: K margins of the best stamp: see `margins`.
        rises: family of changes → share of its limit → K margins; none where only stamps were tried.
        leads: K leads of a stamp's best place over all others; of models with fewer than `FEWEST` classes, else none.
        sha256: of the model's file; None without one.
    """

    name: str
    size: int = Field(ge=1)
    channels: int = Field(ge=1)
    images: int = Field(ge=1)
    classes: tuple[str, ...]
    chance: tuple[FiniteFloat, ...]
    spread: tuple[FiniteFloat, ...]
    gains: tuple[FiniteFloat, ...]
    rises: dict[str, tuple[tuple[FiniteFloat, ...], ...]] = Field(default_factory=dict)
    leads: tuple[FiniteFloat, ...] = ()
    sha256: str | None = None

    @property
    def few(self) -> bool:
        """Whether the classes are too few to be compared with each other."""
        return len(self.classes) < FEWEST

    @model_validator(mode="after")
    def _one_for_each_class(self) -> Self:
        count = len(self.classes)
        rows = [self.chance, self.spread, self.gains]
        rows += [self.leads] if self.leads else []
        rows += [row for shares in self.rises.values() for row in shares]
        if not count or not all(self.rises.values()) or any(len(row) != count for row in rows):
            raise ValueError(f"{self.name} has {count} classes and other numbers of values")
        return self


def margins(effects: NDArray[np.floating]) -> Values:
    """By how far each class rises beyond the others.

    A backdoor raises its targets alone. What a clean model answers to by nature raises the classes that look alike together,
    and overfitted networks, whose logits are large, raise all of them far. So the rise of a class counts only beyond the
    highest rise of the others. Of classes that rise together, up to three and less than half, each counts beyond the rest.
    What falls while the others fall further has not risen.

    Args:
        effects: float [S, K], by how much each of S changes raises the logit of each of K classes.

    Returns:
        float64 [S, K], at most the rise; at most 0 for classes that others outdo. Of one class alone, its rise.
    """
    count = effects.shape[1]
    if count == 1:
        return effects.astype(np.float64)
    order = np.argsort(-effects, axis=1, kind="stable")
    falling = np.take_along_axis(effects, order, axis=1).astype(np.float64)
    together = max(1, min(TOGETHER, (count - 1) // 2))
    gaps = (falling[:, :-1] - falling[:, 1:])[:, :together]
    found = falling - falling[:, :1]
    found[:, :together] = np.maximum.accumulate(gaps[:, ::-1], axis=1)[:, ::-1]
    placed = np.empty_like(found)
    np.put_along_axis(placed, order, found, axis=1)
    return np.asarray(np.minimum(placed, effects))


def rounded(values: NDArray[np.floating]) -> tuple[float, ...]:
    """Numbers with the digits that a file keeps."""
    return tuple(float(f"{value:.{DIGITS}g}") for value in values)
