"""The clean images that other images are compared with, and the model's logits for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.detect.screen.conformal import PACKAGED
from petechia.models.classifier import Classifier

Rows = NDArray[np.intp]
NARROW: float = PACKAGED.values["least_logit_spread"]  # smallest spread of a class, which may be rare, in mean spreads
SEED = 0


@dataclass(frozen=True)
class Reference:
    """Clean images. Each of them is compared with the others only, and so is treated as any further image is.

    Attributes:
        images: uint8 [n, H, W] or [n, H, W, 3], in random order.
        logits: float32 [n, K].
    """

    images: NDArray[np.uint8]
    logits: NDArray[np.float32]

    @staticmethod
    def of(classifier: Classifier, images: NDArray[np.uint8]) -> Reference:
        """Shuffle clean images, with a fixed seed, and compute their logits.

        Args:
            classifier: the model.
            images: uint8 [n, H, W] or [n, H, W, 3].

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
            count: number of images that are compared.
            own: whether these are the clean images themselves; each is then left out of its own statistics.

        Returns:
            Two arrays, float64 [count, K].
        """
        if not own:
            return tuple(np.broadcast_to(each, (count, each.size)) for each in _usual(self.logits))  # type: ignore[return-value]
        found = [_usual(np.delete(self.logits, row, axis=0)) for row in range(count)]
        return np.stack([usual for usual, _ in found]), np.stack([spread for _, spread in found])

    def hosts(self, count: int, each: int, own: bool) -> Rows:
        """The clean images on which something of each image is tried.

        Args:
            count: number of images that are compared.
            each: hosts for each of them.
            own: as in `usual`; an image is not its own host.

        Returns:
            int [count, each], rows of `images`; fewer columns where there are fewer clean images.
        """
        first = np.arange(min(each + 1, len(self.images)))
        keep = [first[first != row] if own else first for row in range(count)]
        return np.stack([rows[: min(each, len(self.images) - 1)] for rows in keep])


def _usual(logits: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low, middle, high = np.percentile(logits, (16, 50, 84), axis=0)
    spread = (high - low) / 2
    return middle, np.maximum(spread, NARROW * spread.mean() + 1e-6)
