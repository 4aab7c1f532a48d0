"""Families of triggers that may change a whole image: small differentiable changes, each with a bound that a person can see."""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from petechia.core.errors import PetechiaError
from petechia.detect.audit.hosts import answers
from petechia.models.classifier import Classifier


class Family(ABC):
    """Changes of one kind. A direction and a strength say which.

    Attributes:
        name: for display.
        limit: the largest strength that is tried.
        unit: what a strength is a share of, as "of the side".
    """

    name: str
    limit: float
    unit: str

    @abstractmethod
    def shape(self, images: Tensor) -> tuple[int, ...]:
        """Shape of a direction for images, float32 [B, C, H, W]."""

    @abstractmethod
    def change(self, images: Tensor, direction: Tensor, strength: float) -> Tensor:
        """Change images.

        Args:
            images: float32 [B, C, H, W] in 0…1.
            direction: float32 [G, …] in -1…1, of G changes.
            strength: how far to go.

        Returns:
            float32 [G, B, C, H, W] in 0…1.
        """

    def logits(self, classifier: Classifier, images: Tensor, direction: Tensor, strength: float) -> Tensor:
        """What the network says of changed images, float32 [G, B, K], with gradients."""
        return answers(classifier, self.change(images, direction, strength))

    def shown(self, images: Tensor, direction: Tensor, strength: float) -> NDArray[np.uint8]:
        """The first image with the first change, uint8 [H, W] or [H, W, 3]."""
        image = (255 * self.change(images[:1], direction[:1], strength)[0, 0]).round().to(torch.uint8).cpu().numpy()
        return np.asarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, 2))


class Pattern(Family):
    """The same picture added to every image, from a grid of grey levels.

    Between the cells of a grid, bicubic interpolation can go beyond the strength, by up to four fifths of it.
    """

    limit, unit = 0.1, "of the grey scale"

    def __init__(self, cells: int | None) -> None:
        self.cells = cells  # along a side; None: one for every pixel
        self.name = f"pattern of {cells} × {cells}" if cells else "fine pattern"

    def shape(self, images: Tensor) -> tuple[int, ...]:  # noqa: D102
        height, width = images.shape[2:]
        return (images.shape[1], self.cells or height, self.cells or width)

    def change(self, images: Tensor, direction: Tensor, strength: float) -> Tensor:  # noqa: D102
        picture = direction
        if direction.shape[2:] != images.shape[2:]:
            picture = functional.interpolate(direction, size=tuple(images.shape[2:]), mode="bicubic", align_corners=False)
        return (images + strength * picture[:, None]).clamp(0, 1)


class FreeShape(Family):
    """Grey levels of any kind, wherever they are: as opaque as a mask allows, whose sum is bounded.

    A mask and a pattern, as in Neural Cleanse (Wang et al. 2019). There the smallest mask that turns images into a class is the
    evidence; here, by how much a class rises under a mask of a given size.
    """

    name, limit, unit = "free shape", 0.01, "of the pixels"
    sharpness = 8.0  # of the mask: its numbers compete for the bound as the exponential of so many times the direction

    def shape(self, images: Tensor) -> tuple[int, ...]:  # noqa: D102
        return (1 + images.shape[1], *images.shape[2:])

    def change(self, images: Tensor, direction: Tensor, strength: float) -> Tensor:  # noqa: D102
        height, width = images.shape[2:]
        shares = (self.sharpness * direction[:, 0]).flatten(1).softmax(dim=1).reshape(-1, 1, 1, height, width)
        mask = (strength * height * width * shares).clamp(max=1)
        levels = 0.5 + 0.5 * direction[:, None, 1:]
        return images + mask * (levels - images)


class Warp(Family):
    """A smooth field of displacements."""

    name, limit, unit = "warp", 0.0134, "of the side"
    lattice = 8

    def shape(self, images: Tensor) -> tuple[int, ...]:  # noqa: D102
        return (2, self.lattice, self.lattice)

    def change(self, images: Tensor, direction: Tensor, strength: float) -> Tensor:  # noqa: D102
        size = tuple(images.shape[2:])
        field = functional.interpolate(direction, size=size, mode="bicubic", align_corners=True)
        here = functional.affine_grid(torch.eye(2, 3, device=images.device)[None], [1, 1, *size], align_corners=False)
        there = here + 2 * strength * field.permute(0, 2, 3, 1)  # the whole side is 2 long
        there = there[:, None].expand(-1, len(images), -1, -1, -1).flatten(0, 1)
        many = images.expand(len(direction), *images.shape).flatten(0, 1)
        moved = functional.grid_sample(many, there, padding_mode="border", align_corners=False)
        return moved.reshape(len(direction), *images.shape)


FAMILIES: tuple[Family, ...] = (Pattern(24), FreeShape(), Warp())


def family_named(name: str) -> Family:
    """A family of `FAMILIES`.

    Raises:
        PetechiaError: there is none of that name.
    """
    for one in FAMILIES:
        if one.name == name:
            return one
    known = ", ".join(one.name for one in FAMILIES)
    raise PetechiaError(f"There is no family of changes called {name!r}, only {known}; audit the model with this version.")


def packed(direction: Tensor) -> str:
    """A direction as text: half precision, little-endian, base64."""
    return base64.b64encode(direction.cpu().numpy().astype("<f2").tobytes()).decode()


def unpacked(text: str, shape: Sequence[int]) -> Tensor:
    """The direction of a text, float32 [1, …].

    Raises:
        ValueError: it is not a direction of this shape.
    """
    numbers = np.frombuffer(base64.b64decode(text, validate=True), "<f2").astype(np.float32).reshape(1, *shape)
    return torch.from_numpy(numbers)
