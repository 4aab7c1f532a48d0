"""Whether a picture carries a trigger: the screen of `petechia.detect`, fitted once to every network."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from petechia.data.preprocess import Box
from petechia.detect.screen import ImageEvidence, Screen
from petechia.models.classifier import Classifier
from petechia.viewer.clean_images import Images
from petechia.viewer.networks import Network

LOGGER = logging.getLogger(__name__)
RATE = 0.01  # of false positives; with few clean images, the lowest rate that they allow
KEPT = 4  # screens in memory

Choice = tuple[int, tuple[int, ...]]  # which set of clean images, and which of its images are left out


class Suspected(NamedTuple):
    """What the screen says of a picture.

    Attributes:
        evidence: in pixels of the input.
        target: the class that a trigger would stand for.
        box: in pixels of the picture; of height and width 0 where nothing stands out.
        threshold: of the suspicion.
        rate: of false positives for which the threshold was set.
        images: clean images on which it was set.
        warnings: about these images.
    """

    evidence: ImageEvidence
    target: int
    box: Box
    threshold: float
    rate: float
    images: int
    warnings: tuple[str, ...]


class Screens:
    """Screens by network. A clean image is not compared with itself: another set is taken, or the image is left out."""

    def __init__(self, sets: Sequence[Callable[[], Images]], classifier: Callable[[Network], Classifier]) -> None:
        """Prepare to fit screens.

        Args:
            sets: each reads a set of clean images, uint8 [N, S, S] or [N, S, S, 3].
            classifier: loads a network.
        """
        self._sets = range(len(sets))
        self._read = lru_cache(len(sets))(lambda which: sets[which]())
        self._classifier = classifier
        self._fitted = lru_cache(KEPT)(self._fit)

    def choose(self, shown: Images) -> Choice:
        """The clean images to compare an image, uint8 [S, S] or [S, S, 3], with."""
        for which in self._sets:
            clean = self._read(which)
            choice = which, tuple(np.flatnonzero((clean == shown).reshape(len(clean), -1).all(axis=1)).tolist())
            if not choice[1]:
                break
        return choice

    def examine(self, network: Network, choice: Choice, image: Images) -> tuple[Screen, ImageEvidence]:
        """Screen an image, uint8 [S, S] or [S, S, 3]; the first time for a network and a choice, fit the screen as well."""
        screen = self._fitted(network, choice)
        return screen, screen.explain(image)

    def _fit(self, network: Network, choice: Choice) -> Screen:
        which, left_out = choice
        clean = np.delete(self._read(which), left_out, axis=0)
        began = time.perf_counter()
        screen = Screen.fit(self._classifier(network), clean, max(RATE, 1 / (len(clean) + 1)))
        LOGGER.info("fitted a screen on %d clean images in %.1f s", len(clean), time.perf_counter() - began)
        return screen
