"""Collects the evidence against each image, and says what it amounts to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Evidence(NamedTuple):
    """One piece of evidence against an image.

    Attributes:
        rule: name of the rule that it comes from.
        score: 0 … 1; 0.5 and more where it flags.
        flags: whether it suffices to flag the image.
        reason: a sentence.
        row: of the stamp's top left corner; -1 where there is none.
        column: of the same.
    """

    rule: str
    score: float
    flags: bool
    reason: str
    row: int = -1
    column: int = -1


class Suspect(NamedTuple):
    """What the evidence against an image amounts to.

    Attributes:
        score: 0 nothing … 1 certain; 0.5 and more of images that are flagged, and of no others.
        flagged: whether to take the image out.
        reason: a sentence; empty where nothing was found.
        row: of the stamp's top left corner; -1 where there is none.
        column: of the same.
    """

    score: float = 0.0
    flagged: bool = False
    reason: str = ""
    row: int = -1
    column: int = -1


class Ledger:
    """The evidence against each of N images. Evidence is added, never changed or removed.

    Args:
        images: N.

    Example:
        >>> ledger = Ledger(2)
        >>> ledger.add(1, Evidence("copy", 0.9, True, "is a copy"))
        >>> ledger.add(1, Evidence("stamp", 1.0, True, "shows a stamp", 3, 4))
        >>> ledger.suspect(1)
        Suspect(score=1.0, flagged=True, reason='shows a stamp; is a copy', row=3, column=4)
        >>> ledger.flagged.tolist()
        [False, True]
    """

    def __init__(self, images: int) -> None:
        self._images = images
        self._evidence: defaultdict[int, list[Evidence]] = defaultdict(list)

    def add(self, index: int, evidence: Evidence) -> None:
        """Add evidence against an image."""
        if not 0 <= index < self._images:
            raise IndexError(f"there is no image {index} among {self._images}")
        self._evidence[index].append(evidence)

    def extend(self, found: Iterable[tuple[int, Evidence]]) -> None:
        """Add evidence against several images."""
        for index, evidence in found:
            self.add(index, evidence)

    def evidence(self, index: int) -> tuple[Evidence, ...]:
        """All evidence against an image, in the order in which it was added."""
        return tuple(self._evidence.get(index, ()))

    def suspect(self, index: int) -> Suspect:
        """The strongest evidence against an image, with every reason for which it is flagged."""
        return reduce(_combined, self.evidence(index), Suspect())

    @property
    def suspects(self) -> list[Suspect]:
        """The same for all images, in their order."""
        return [self.suspect(index) for index in range(self._images)]

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """Which images are flagged, bool [N]."""
        flagged = np.zeros(self._images, bool)
        flagged[[index for index in self._evidence if self.suspect(index).flagged]] = True
        return flagged


def _combined(before: Suspect, evidence: Evidence) -> Suspect:
    new = Suspect(evidence.score, evidence.flags, evidence.reason, evidence.row, evidence.column)
    strong, weak = (new, before) if new.score > before.score else (before, new)
    if weak.flagged and weak.reason not in strong.reason:
        return strong._replace(reason=f"{strong.reason}; {weak.reason}")
    return strong
