"""Images that stamps are tried on, with what the model says of them as they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
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


def answers(classifier: Classifier, groups: Tensor) -> Tensor:
    """What the network says of G groups of images, float32 [G, B, C, H, W] → [G, B, K], with gradients."""
    flat = groups.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    with classifier.runtime.autocast():
        return classifier.ask(flat).float().reshape(*groups.shape[:2], -1)


def own_rises(logits: Tensor, clean: Tensor, labels: Tensor) -> Tensor:
    """By how much each group raises one class.

    Args:
        logits: float32 [G, B, K], of changed images.
        clean: float32 [B, K], of the same images as they are.
        labels: int [G], the class of each group.

    Returns:
        float32 [G, B].
    """
    own = logits.gather(2, labels[:, None, None].expand(-1, logits.shape[1], 1))[..., 0]
    return own - clean[:, labels].T
