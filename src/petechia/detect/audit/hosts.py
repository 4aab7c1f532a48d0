"""Images that stamps are tried on, with what the model says of them as they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from petechia.models.classifier import Classifier


@dataclass(frozen=True, eq=False)
class Hosts:
    """Clean images with their logits, which every search compares with.

    Attributes:
        images: float32 [B, C, H, W] in 0…1, on the model's device.
        logits: float32 [B, K], on the CPU.
    """

    images: Tensor
    logits: Tensor

    @staticmethod
    def of(classifier: Classifier, images: Tensor | NDArray[np.uint8]) -> Hosts:
        """Ask the model about images, once.

        Args:
            classifier: the model.
            images: float32 [B, C, H, W] in 0…1, or uint8 [B, H, W] or [B, H, W, 3].

        Raises:
            PetechiaError: the model answers with NaN or infinity.
        """
        given = images if isinstance(images, Tensor) else classifier.tensor(images)
        return Hosts(given, classifier.logits(given))

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: NDArray[np.intp] | slice) -> Hosts:
        """Some of them."""
        return Hosts(self.images[rows], self.logits[rows])

    @property
    def spread(self) -> Tensor:
        """Standard deviation of each class's logit, float32 [K]."""
        return self.logits.std(dim=0)
