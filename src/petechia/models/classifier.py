"""The common interface of all models: logits for prepared images and, unless it is a black box, the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from petechia.core.errors import PetechiaError, first_line
from petechia.core.files import sha256
from petechia.core.graphs import Piecewise, Replayed
from petechia.core.runtime import Runtime
from petechia.data.levels import in_colour, to_grey
from petechia.data.preprocess import Preprocess
from petechia.models.model import Model, images_at_once

SCORES = 2  # dimensions of logits
FEW = 8  # images that a model is asked about twice
RANDOM = 0.05  # share of the spread of the logits by which a steady model's answers may differ
TINY = 1e-3  # logits, likewise

Answer = Callable[[Tensor], Tensor]  # images, float32 [B, C, H, W] in 0…1 → logits, float32 [B, K]


@dataclass(frozen=True)
class Classifier:
    """A model of any origin, ready to be called.

    Attributes:
        name: display name.
        classes: names of the K classes.
        preprocess: geometry of the model's input.
        answer: function that returns logits. For a model that only returns probabilities, it converts them to logits.
        runtime: device and precision.
        network: the same function as `answer`, with gradients and layers; None for a black box.
        colour: whether the model takes colour images; grey images are repeated to three channels.
        digest: SHA-256 of what was opened, where the name is not that of one file; None if it is, or no file is known.
        title: the name without the folder of what was opened; None if the name has no folder, or is that of a file.
    """

    name: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    answer: Answer
    runtime: Runtime
    network: nn.Module | None = None
    colour: bool = False
    digest: str | None = None
    title: str | None = None

    @staticmethod
    def of(model: Model, runtime: Runtime, name: str = "model") -> Classifier:
        """Wrap a Petechia model and move it to the runtime's device."""
        placed = runtime.to_device(model).eval()
        description = model.description
        colour = description.architecture.channels == 3
        return Classifier(name, description.classes, description.preprocess, placed, runtime, placed, colour)

    @property
    def public_name(self) -> str:
        """The name for results, which others may read: it does not say in which folder the model is."""
        file = Path(self.name)
        return self.title or (file.name if file.is_file() else self.name)

    def identified(self) -> tuple[str, str | None]:
        """The name for results, and the SHA-256 of what was opened; None if no file is known."""
        file = Path(self.name)
        return self.public_name, sha256(file) if file.is_file() else self.digest

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Convert an image, uint8 [H, W] or [H, W, 3], to the model's input: colour or grey, in the model's geometry."""
        return self.preprocess((in_colour if self.colour else to_grey)(image))

    def tensor(self, images: NDArray[np.uint8]) -> Tensor:
        """Convert prepared images, uint8 [N, H, W] or [N, H, W, 3], to float32 [N, C, H, W] in 0…1 on the device."""
        batch = self.runtime.tensor(images)
        if not self.colour or batch.shape[1] == 3:
            return batch
        return batch.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)

    def ask(self, images: Tensor) -> Tensor:
        """Return the logits of one batch, float32 [B, C, H, W] in 0…1 → [B, K], with gradients if the network has them.

        Raises:
            PetechiaError: the network's own code fails, or does not give scores for every image.
        """
        try:
            found = self.answer(images)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise PetechiaError(
                f"{self.name} cannot be called with float32 {list(images.shape)} ({first_line(error)}); check the model, or "
                f"export it again."
            ) from error
        if found.ndim != SCORES or len(found) != len(images):
            raise PetechiaError(
                f"{self.name} gives {list(found.shape)} for {len(images)} images, not [{len(images)}, classes]; keep the "
                f"dimension of the images, even of one."
            )
        return found

    def require_steady(self, images: NDArray[np.uint8]) -> None:
        """Make sure that the model gives the same scores when it is asked again.

        Raises:
            PetechiaError: it does not.
        """
        first, again = (self.logits(images[:FEW]) for _ in range(2))
        if float((first - again).abs().max()) > RANDOM * float(first.std(dim=0).max()) + TINY:
            raise PetechiaError(
                f"{self.name} gives other scores for the same images when it is asked again; turn off dropout and whatever "
                f"else is random in it (network.eval()), and export it again."
            )

    def logits(self, images: Tensor | NDArray[np.uint8], batch: int | None = None) -> Tensor:
        """Return the logits of images, without gradients.

        Args:
            images: float32 [N, C, H, W] in 0…1, or uint8 as for `tensor`.
            batch: number of images per batch; None: see `petechia.models.model.images_at_once`.

        Returns:
            float32 [N, K], on the CPU.

        Raises:
            PetechiaError: an output is not finite, the number of scores is not the number of classes, or as `ask`.
        """
        given = images if isinstance(images, Tensor) else self.tensor(images)
        size = batch or images_at_once(given.device, given.shape[2] * given.shape[3])
        with torch.inference_mode():
            answer = Piecewise(self._answers.directly) if self._watched else self._pieces
            parts = [answer(some) for some in torch.split(given, size) if len(some)]
        found = torch.cat(parts).cpu() if parts else torch.zeros(0, len(self.classes))
        if found.shape[1] != len(self.classes):
            raise PetechiaError(
                f"{self.name} gives {found.shape[1]} scores, but {len(self.classes)} classes are named; name one per score."
            )
        if not found.isfinite().all():
            row = int((~found.isfinite().all(dim=1)).nonzero()[0])
            raise PetechiaError(f"{self.name} gives NaN or infinity for image {row + 1}; it cannot be examined.")
        return found

    @property
    def _watched(self) -> bool:
        """Whether somebody reads what a module of the network gives; a replay would not tell them."""
        network = self.network if self._answers.recorder else None
        return network is not None and any(one._forward_hooks or one._forward_pre_hooks for one in network.modules())

    @cached_property
    def _answers(self) -> Replayed[Tensor]:
        return Replayed(self._answered, self.runtime.recorder if self.network is not None else None, self.name)

    @cached_property
    def _pieces(self) -> Piecewise:
        return Piecewise(self._answers)  # which remembers how many images fit

    def _answered(self, images: Tensor) -> Tensor:
        with self.runtime.autocast(cache=False):  # in here, or a graph would keep the weights that autocast has cast before
            return self.ask(images).float()

    def require_network(self) -> nn.Module:
        """Return the network.

        Raises:
            PetechiaError: the model is a black box.
        """
        if self.network is None:
            raise PetechiaError(
                f"{self.name} is a black box, but this needs its layers and gradients; give the network itself."
            )
        return self.network
