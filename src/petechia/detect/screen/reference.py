"""The clean images that others are compared with, and what the model makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.models.classifier import Classifier

Rows = NDArray[np.intp]
NARROW = 0.25  # of the classes' mean spread: the least that is taken for the spread of one, which may never be reported
SEED = 0


@dataclass(frozen=True)
class Reference:
    """Clean images. One of them is compared with the others only, so that it is treated as any other image is.

    Attributes:
        images: uint8 [n, H, W] or [n, H, W, 3], in random order.
        logits: float32 [n, K].
    """

    images: NDArray[np.uint8]
    logits: NDArray[np.float32]

    @staticmethod
    def of(classifier: Classifier, images: NDArray[np.uint8]) -> Reference:
        """Ask the model.

        Raises:
            PetechiaError: the images are all the same, or an answer is not a finite number.
        """
        if not (images != images[:1]).any():
            raise PetechiaError(f"All {len(images)} clean images are the same; give different ones of different patients.")
        mixed = np.random.default_rng(SEED).permutation(images)
        return Reference(mixed, classifier.logits(mixed).numpy())

    def usual(self, count: int, own: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The usual logits and their spread: median, and half the distance of the 16th and the 84th percentile.

        Args:
            count: of the images to compare.
            own: whether these are the clean ones themselves.

        Returns:
            Twice float64 [count, K].
        """
        if not own:
            return tuple(np.broadcast_to(each, (count, each.size)) for each in _usual(self.logits))  # type: ignore[return-value]
        found = [_usual(np.delete(self.logits, row, axis=0)) for row in range(count)]
        return np.stack([usual for usual, _ in found]), np.stack([spread for _, spread in found])

    def hosts(self, count: int, each: int, own: bool) -> Rows:
        """Which clean images each of `count` images is tried on, int [count, each]; arguments as those of `usual`."""
        first = np.arange(min(each + 1, len(self.images)))
        keep = [first[first != row] if own else first for row in range(count)]
        return np.stack([rows[: min(each, len(self.images) - 1)] for rows in keep])


def _usual(logits: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low, middle, high = np.percentile(logits, (16, 50, 84), axis=0)
    spread = (high - low) / 2
    return middle, np.maximum(spread, NARROW * spread.mean() + 1e-6)
