"""Whether a picture carries a trigger: the screen of `petechia.detect`, fitted once to every network that is asked about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from petechia.data.preprocess import Box
from petechia.detect.screen import ImageEvidence, Screen
from petechia.models.classifier import Classifier

CLEAN = 100  # images that a screen is fitted on, at most
FEWEST = 20  # that make a threshold worth showing: one of them may be left out, and of the rest 1 in 20 is flagged
RATE = 0.01  # of false positives, or what so few clean images allow
KEPT = 4  # screens in memory

Images = NDArray[np.uint8]
Network = tuple[str, int, int]  # arm, seed, epoch
Choice = tuple[int, tuple[int, ...]]  # which clean images, and which of them are left out


class Suspected(NamedTuple):
    """What the screen says of a picture.

    Attributes:
        evidence: in pixels of the input.
        target: the class that a trigger would stand for.
        box: in pixels of the picture; without extent where nothing stands out.
        threshold: of the suspicion.
        rate: of false positives at which it was set.
        images: clean ones on which it was set.
        warnings: about these.
    """

    evidence: ImageEvidence
    target: int
    box: Box
    threshold: float
    rate: float
    images: int
    warnings: tuple[str, ...]


class Screens:
    """Screens by network. A clean image is not compared with itself: another set is taken, or it is left out."""

    def __init__(self, sets: Sequence[Callable[[], Images]], classifier: Callable[[Network], Classifier]) -> None:
        self._sets = range(len(sets))
        self._read = lru_cache(len(sets))(lambda which: sets[which]())
        self._classifier = classifier
        self._fitted = lru_cache(KEPT)(self._fit)

    def choose(self, shown: Images) -> Choice:
        """What to compare an image, uint8 [S, S] or [S, S, 3], with."""
        for which in self._sets:
            clean = self._read(which)
            choice = which, tuple(np.flatnonzero((clean == shown).reshape(len(clean), -1).all(axis=1)).tolist())
            if not choice[1]:
                break
        return choice

    def examine(self, network: Network, choice: Choice, image: Images) -> tuple[Screen, ImageEvidence]:
        """Screen an image, uint8 [S, S] or [S, S, 3]; the first time with a network and a choice, the clean images as well."""
        screen = self._fitted(network, choice)
        return screen, screen.explain(image)

    def _fit(self, network: Network, choice: Choice) -> Screen:
        which, left_out = choice
        clean = np.delete(self._read(which), left_out, axis=0)
        return Screen.fit(self._classifier(network), clean, max(RATE, 1 / (len(clean) + 1)))
