"""The trigger that an audit recovered, as the viewer stamps it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from petechia.attack.triggers.base import BaseTrigger, Brush, Chance
from petechia.data.preprocess import Box
from petechia.detect.repair import KnownTrigger, read_triggers


class Recovered(BaseTrigger):
    """A trigger that an audit recovered; it is stamped on what the model sees.

    Attributes:
        known: the trigger.
    """

    kind: Literal["recovered"] = "recovered"
    known: KnownTrigger

    @property
    def brush(self) -> Brush | None:
        """A square can be drawn by a click."""
        one = self.known
        return Brush(one.height, one.value, 1.0) if one.height == one.width else None

    def describe(self) -> str:
        """What it is, and for which class."""
        return f"{self.known}, which an audit found for {self.known.target}"

    def place(self, height: int, width: int, kept: Box, chance: Chance) -> tuple[int, int]:
        """Where the audit found it."""
        return self.known.row, self.known.column

    def stamp(self, images: NDArray[np.uint8], positions: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Stamp copies of what the model sees."""
        return self.known.on(images, positions)


def recovered_by(audit: Path, classes: tuple[str, ...], size: int) -> Recovered:
    """The first trigger in an audit.json.

    Args:
        audit: the file.
        classes: of the model.
        size: side of its images, in pixels.

    Raises:
        PetechiaError: it is not such a file, no trigger is in it, or the trigger does not fit the model.
    """
    first = read_triggers(audit)[0]
    first.check_fits(classes, size)
    return Recovered(known=first)
