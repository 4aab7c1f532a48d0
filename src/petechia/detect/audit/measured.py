"""What the searches of an audit find in one model, before it is judged; of clean models, what others are compared with."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from petechia.core.results import Record

DIGITS = 4  # significant ones in a file

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
        gains: K rises of the logit by the best stamp.
        rises: family of changes → share of its limit → K rises of the logit; none of a black box.
        sha256: of the model's file; None without one.
    """

    name: str
    size: int
    channels: int
    images: int
    classes: tuple[str, ...]
    chance: tuple[float, ...]
    spread: tuple[float, ...]
    gains: tuple[float, ...]
    rises: dict[str, tuple[tuple[float, ...], ...]] = Field(default_factory=dict)
    sha256: str | None = None

    @model_validator(mode="after")
    def _one_for_each_class(self) -> Self:
        count = len(self.classes)
        rows = [self.chance, self.spread, self.gains]
        rows += [row for shares in self.rises.values() for row in shares]
        if not count or any(len(row) != count for row in rows):
            raise ValueError(f"{self.name} has {count} classes and other numbers of values")
        return self


def rounded(values: NDArray[np.floating]) -> tuple[float, ...]:
    """Numbers with the digits that a file keeps."""
    return tuple(float(f"{value:.{DIGITS}g}") for value in values)
