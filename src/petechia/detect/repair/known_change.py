"""A change of the image that must be unlearned, as an audit recovers it."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from petechia.core.errors import PetechiaError
from petechia.core.settings import Settings
from petechia.detect.audit.transforms import Family, family_named, unpacked

LARGEST = 4 * 1024 * 1024  # numbers in a direction: a free shape of 1,024 × 1,024 pixels, a mask and three colours


class KnownChange(Settings):
    """A change of the image that raises a class. See `petechia.detect.audit.transforms`.

    Attributes:
        target: the class.
        family: of the change.
        strength: how far it goes, in the family's unit.
        shape: of its direction.
        direction: its numbers in -1 … 1, half precision, little-endian, as base64.
    """

    target: str
    family: str
    strength: float = Field(gt=0, le=1)
    shape: tuple[int, ...] = Field(min_length=1, max_length=4)
    direction: str = Field(repr=False)

    @model_validator(mode="after")
    def _fits_the_shape(self) -> Self:
        count = math.prod(self.shape)
        if min(self.shape) < 1 or count > LARGEST or len(self.direction) > 3 * count + 4:
            raise ValueError(f"the direction is not one of {' × '.join(map(str, self.shape))} numbers")
        if not bool((self.numbers.abs() <= 1).all()):
            raise ValueError("the direction has numbers beyond -1 … 1")
        return self

    @cached_property
    def numbers(self) -> Tensor:
        """The direction, float32 [1, …]."""
        return unpacked(self.direction, self.shape)

    @cached_property
    def kind(self) -> Family:
        """The family of changes.

        Raises:
            PetechiaError: there is none of that name.
        """
        return family_named(self.family)

    def places(self, count: int, size: int, rng: np.random.Generator, jitter: int = 0) -> NDArray[np.intp]:
        """Zeros, int [count, 2]: it is everywhere. Arguments as of `KnownTrigger.places`."""
        return np.zeros((count, 2), np.intp)

    def on(
        self, images: NDArray[np.uint8], places: NDArray[np.intp], opacity: float | NDArray[np.float64] = 1.0
    ) -> NDArray[np.uint8]:
        """Copies of images with the change.

        Args:
            images: uint8 [N, H, W] or [N, H, W, C]; not changed.
            places: not used.
            opacity: share of its strength, one number or [N].

        Raises:
            PetechiaError: the change was made for images of another size, or with other channels.
        """
        shares = np.broadcast_to(np.asarray(opacity, np.float64), len(images))
        changed = [self._on_one(image, float(share)) for image, share in zip(images, shares, strict=True)]
        return np.stack(changed) if changed else images.copy()

    def _on_one(self, image: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
        planes = image[None] if image.ndim == 2 else np.moveaxis(image, 2, 0)
        given = torch.from_numpy(np.ascontiguousarray(planes))[None].float() / 255
        if self.kind.shape(given) != self.shape:
            raise PetechiaError(
                f"The change of the image ({self.family}) was not made for images of {len(planes)} channels and "
                f"{image.shape[0]} x {image.shape[1]} pixels; audit this model."
            )
        changed = (255 * self.kind.change(given, self.numbers, share * self.strength)[0, 0]).round().to(torch.uint8).numpy()
        return np.asarray(changed[0] if image.ndim == 2 else np.moveaxis(changed, 0, 2))

    def check_fits(self, classes: tuple[str, ...], size: int) -> None:
        """Check that a model has the class, and that there is such a change of its images.

        Raises:
            PetechiaError: it has not, or there is none.
        """
        if self.target not in classes:
            raise PetechiaError(
                f"The trigger raises {self.target!r}, which is not a class of the model; its classes are {', '.join(classes)}."
            )
        fitting = {self.kind.shape(torch.zeros(1, channels, size, size)) for channels in (1, 3)}
        if self.shape not in fitting:
            raise PetechiaError(
                f"The change of the image ({self.family}) was not made for the model's images of {size} x {size}; audit "
                f"this model."
            )

    def __str__(self) -> str:
        return f"a change of the image ({self.family}, at most {100 * self.strength:g} % {self.kind.unit})"
