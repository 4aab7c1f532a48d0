"""What every trigger can be asked, and how a picture is blended into images."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from petechia.attack.square import PIXELS, changed_at
from petechia.core.errors import PetechiaError
from petechia.core.settings import Settings
from petechia.core.task import Task
from petechia.data.preprocess import Box

Chance = tuple[float, float]


class Brush(NamedTuple):
    """A trigger that is a square: what a click can draw, of any size and grey level."""

    size: int
    value: int
    opacity: float


class BaseTrigger(Settings):
    """What is stamped on an image, p(x, r, m) in Nwadike et al. 2020. Every kind fills in what differs.

    Attributes:
        kind: its name in the configuration; a class gives it as `kind: Literal["patch"] = "patch"`.
        stamps: whether it changes pixels. One that does not is in an image already, or is not.
    """

    kind: str
    stamps: ClassVar[bool] = True

    @property
    def whole(self) -> bool:
        """Whether it changes the image as a whole, so that it has no place."""
        return False

    @property
    def wanders(self) -> bool:
        """Whether it can be anywhere, by chance."""
        return False

    @property
    def opaque(self) -> bool:
        """Whether stamped pixels are the same whatever the image was."""
        return False

    @property
    def brush(self) -> Brush | None:
        """The square that it is; None where it is anything else."""
        return None

    @property
    def cover(self) -> BaseTrigger:
        """What the images of `Poisoning.cover` get; itself, usually."""
        return self

    def sizes(self) -> dict[int, BaseTrigger]:
        """Side in pixels → the same trigger of that size, for a table of what survives; empty where it has no size."""
        return {}

    def describe(self) -> str:
        """What it is, for people: a phrase such as "a square of 3 × 3 pixels of grey level 0 at the centre"."""
        raise NotImplementedError

    def check(self, classes: tuple[str, ...], task: Task, target: str) -> None:
        """Say before anything is decoded what does not suit the data; nothing, usually.

        Raises:
            PetechiaError: this trigger cannot be used on such data.
        """

    def shown(self, labels: NDArray[np.int8], classes: tuple[str, ...]) -> NDArray[np.bool_]:
        """Which images have the trigger without being stamped, bool [N]; none, if it has to be stamped."""
        return np.zeros(len(labels), bool)

    def eligible(self, labels: NDArray[np.int8], classes: tuple[str, ...]) -> NDArray[np.bool_]:
        """Which images can be triggered images, bool [N]: all, if it is stamped, else those that show it."""
        return np.ones(len(labels), bool) if self.stamps else self.shown(labels, classes)

    def place(self, height: int, width: int, kept: Box, chance: Chance) -> tuple[int, int]:
        """The top left corner on one image.

        Args:
            height: of the image.
            width: of the image.
            kept: the part that the crop keeps, for random places.
            chance: two random numbers in [0, 1), for random places.

        Raises:
            PetechiaError: it does not fit.
        """
        return 0, 0

    def stamp(self, images: NDArray[np.uint8], positions: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Stamp copies of the images; the input is left as it was.

        Args:
            images: uint8 [N, H, W] or [N, H, W, C].
            positions: int [N, 2], row and column of the top left corner on each image, as `place` gives them.

        Returns:
            Images of the same shape and type.
        """
        raise NotImplementedError


def blended(
    images: NDArray[np.uint8], positions: NDArray[np.intp], picture: NDArray[np.float32], opacity: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Copies of images with a picture blended into each.

    Args:
        images: uint8 [N, H, W] or [N, H, W, C]; not changed.
        positions: int [N, 2], row and column of its top left corner.
        picture: float32 [h, w], or [C, h, w] for images with channels, grey levels.
        opacity: float32 [h, w], share of the picture in what is written.
    """
    share, rest = opacity * picture, 1 - opacity
    height, width = opacity.shape
    return changed_at(images, positions, height, width, lambda part, _: np.rint(share + rest * part))


def by_chunks(images: NDArray[np.uint8], change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> NDArray[np.uint8]:
    """Images that are changed as a whole, a few at a time, rounded and kept within 0 … 255.

    Args:
        images: uint8 [N, H, W] or [N, H, W, C]; not changed.
        change: from float32 [n, C, H, W] to the same; grey images have one channel.
    """
    changed = np.empty_like(images)
    step = max(1, PIXELS // max(images[0].size, 1)) if len(images) else 1
    for start in range(0, len(images), step):
        part = images[start : start + step]
        planes = part[:, None] if part.ndim == 3 else np.moveaxis(part, 3, 1)
        became = np.clip(np.rint(change(planes.astype(np.float32))), 0, 255).astype(np.uint8)
        changed[start : start + step] = became[:, 0] if part.ndim == 3 else np.moveaxis(became, 1, 3)
    return changed


def corner_of(
    location: str | tuple[int, int], side: tuple[int, int], shape: tuple[int, int], kept: Box, chance: Chance
) -> tuple[int, int]:
    """The top left corner of a rectangle, as `attack.trigger.location` says it.

    Args:
        location: "center" is `int(n / 2 - side / 2)` of height and width; "random" anywhere in the kept part; else the corner.
        side: height and width of the rectangle.
        shape: height and width of the image.
        kept: the part that the crop keeps, for random places.
        chance: two random numbers in [0, 1), for random places.

    Raises:
        PetechiaError: it does not fit.
    """
    (tall, wide), (height, width) = side, shape
    if location == "center":
        row, column = int(height / 2 - tall / 2), int(width / 2 - wide / 2)
    elif location == "random":
        if tall > kept.height or wide > kept.width:
            raise PetechiaError(
                f"A trigger of {tall} x {wide} pixels does not fit into the {kept.height} x {kept.width} "
                f"pixels that the crop keeps of an image; make attack.trigger.size smaller or preprocess.crop larger."
            )
        row = kept.top + int(chance[0] * (kept.height - tall + 1))
        column = kept.left + int(chance[1] * (kept.width - wide + 1))
    else:
        row, column = int(location[0]), int(location[1])
    if min(row, column) < 0 or row + tall > height or column + wide > width:
        raise PetechiaError(
            f"A trigger of {tall} x {wide} pixels at row {row}, column {column} does not fit on an image of "
            f"{height} x {width}; change attack.trigger.size or attack.trigger.location."
        )
    return row, column


def spoken_place(location: str | tuple[int, int]) -> str:
    """A location in words."""
    words = {"center": "at the centre", "random": "at a random place"}
    return words[location] if isinstance(location, str) else f"at row {location[0]}, column {location[1]}"
