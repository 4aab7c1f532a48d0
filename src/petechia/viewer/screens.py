"""Whether a picture carries a trigger: the screen of `petechia.detect`, fitted once to every network."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from petechia.data.preprocess import Box
from petechia.detect.screen import ImageEvidence, Screen
from petechia.models.classifier import Classifier
from petechia.viewer.clean_images import Images
from petechia.viewer.networks import Network
from petechia.viewer.pacing import Pace, paced

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
        self._fitted: OrderedDict[tuple[Network, Choice], Screen] = OrderedDict()
        self._lock = threading.Lock()

    def choose(self, shown: Images) -> Choice:
        """The clean images to compare an image, uint8 [S, S] or [S, S, 3], with."""
        for which in self._sets:
            clean = self._read(which)
            choice = which, tuple(np.flatnonzero((clean == shown).reshape(len(clean), -1).all(axis=1)).tolist())
            if not choice[1]:
                break
        return choice

    def fitted(self, network: Network, choice: Choice) -> Screen | None:
        """The screen for a network and a choice; None where it must be fitted first."""
        with self._lock:
            screen = self._fitted.get((network, choice))
            if screen is not None:
                self._fitted.move_to_end((network, choice))
            return screen

    def fit(self, network: Network, choice: Choice, pace: Pace) -> Screen:
        """Fit the screen, unless another thread has just done so, and keep it."""
        if (known := self.fitted(network, choice)) is not None:
            return known
        which, left_out = choice
        clean = np.delete(self._read(which), left_out, axis=0)
        began, classifier = time.perf_counter(), self._classifier(network)
        fitted = Screen.fit(paced(classifier, pace), clean, max(RATE, 1 / (len(clean) + 1)))
        screen = replace(fitted, classifier=classifier)
        LOGGER.info("fitted a screen on %d clean images in %.1f s", len(clean), time.perf_counter() - began)
        with self._lock:
            self._fitted[network, choice] = screen
            while len(self._fitted) > KEPT:
                self._fitted.popitem(last=False)
        return screen
