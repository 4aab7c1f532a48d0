"""What is asked of any model: logits for prepared images, and, where it can be looked into, its network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.core.runtime import Runtime
from petechia.data.levels import in_colour, to_grey
from petechia.data.preprocess import Preprocess
from petechia.models.model import BATCH, Model

Answer = Callable[[Tensor], Tensor]  # images, float32 [B, C, H, W] in 0…1 → logits, float32 [B, K]


@dataclass(frozen=True)
class Classifier:
    """A model, whoever made it.

    Attributes:
        name: for people.
        classes: names of the K classes.
        preprocess: its geometry.
        answer: gives logits; probabilities of a model that gives nothing else are turned into logits before.
        runtime: where it computes.
        network: takes what `answer` takes, and has gradients and layers; None for a black box.
        colour: whether it takes images in colour; grey ones are repeated for it.
    """

    name: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    answer: Answer
    runtime: Runtime
    network: nn.Module | None = None
    colour: bool = False

    @staticmethod
    def of(model: Model, runtime: Runtime, name: str = "model") -> Classifier:
        """A Petechia model, moved to the machine."""
        placed = runtime.to_device(model).eval()
        description = model.description
        colour = description.architecture.channels == 3
        return Classifier(name, description.classes, description.preprocess, placed, runtime, placed, colour)

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What the model sees of an image, uint8 [H, W] or [H, W, 3]: in colour or in grey, in its geometry."""
        return self.preprocess((in_colour if self.colour else to_grey)(image))

    def tensor(self, images: NDArray[np.uint8]) -> Tensor:
        """Prepared images, uint8 [N, H, W] or [N, H, W, 3], as float32 [N, C, H, W] in 0…1 on the machine."""
        batch = self.runtime.tensor(images)
        if not self.colour or batch.shape[1] == 3:
            return batch
        return batch.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)

    def logits(self, images: Tensor | NDArray[np.uint8], batch: int = BATCH) -> Tensor:
        """What the model says of images, without gradients.

        Args:
            images: float32 [N, C, H, W] in 0…1, or uint8 as for `tensor`.
            batch: images that are computed at a time.

        Returns:
            float32 [N, K], on the processor.

        Raises:
            PetechiaError: an answer is not a finite number.
        """
        given = images if isinstance(images, Tensor) else self.tensor(images)
        with torch.inference_mode(), self.runtime.autocast():
            parts = [self.answer(some).float().cpu() for some in torch.split(given, batch) if len(some)]
        found = torch.cat(parts) if parts else torch.zeros(0, len(self.classes))
        if found.shape[1] != len(self.classes):
            raise PetechiaError(
                f"{self.name} gives {found.shape[1]} scores, but {len(self.classes)} classes are named; name as many."
            )
        if not found.isfinite().all():
            row = int((~found.isfinite().all(dim=1)).nonzero()[0])
            raise PetechiaError(f"{self.name} answers image {row + 1} with NaN or infinity; it cannot be examined.")
        return found

    def require_network(self) -> nn.Module:
        """The network.

        Raises:
            PetechiaError: it is a black box.
        """
        if self.network is None:
            raise PetechiaError(
                f"{self.name} is a black box, and this needs its layers and gradients; give the network itself."
            )
        return self.network
