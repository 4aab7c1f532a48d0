"""The images that the viewer shows. They are kept in memory only."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.data.formats.images import Decoding, read_levels
from petechia.data.levels import Levels, to_grey

MOST_PICTURES = 16
MOST_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, eq=False)
class Picture:
    """An image to read. Two pictures are never equal, so that results can be cached by picture.

    Attributes:
        levels: its grey levels.
        colour: uint8 [H, W, 3], where the image has colours and the model takes them.
        prepared: whether it is cropped and resized for the model already.
        findings: its true labels; None where they are unknown.
        place: row and column where the attacker stamps it, in pixels of the attack's stage; None where it is not stamped.
    """

    levels: Levels
    colour: NDArray[np.uint8] | None = None
    prepared: bool = False
    findings: tuple[str, ...] | None = None
    place: tuple[int, int] | None = None

    @staticmethod
    def of(image: NDArray[np.uint8], **known: Any) -> Picture:
        """A picture of a decoded image, uint8 [H, W] or [H, W, 3], with further attributes."""
        return Picture(Levels(to_grey(image).astype(np.float32), 0, 255), image if image.ndim == 3 else None, **known)

    @staticmethod
    def read(content: bytes, name: str, colour: bool) -> Picture:
        """Decode an image file. An image without colours keeps its full depth.

        Args:
            content: of the file.
            name: of the image in error messages.
            colour: whether the model takes images in colour.

        Raises:
            PetechiaError: as `read_levels`.
        """
        levels = read_levels(content, name)
        colours = Decoding(colour=True).decode(content, name) if colour else None
        return Picture(levels, None if colours is None or (colours == colours[..., :1]).all() else colours)

    @cached_property
    def grey(self) -> NDArray[np.uint8]:
        """What a model for grey images gets before crop and resize, uint8 [H, W]. Slow for large images, and kept."""
        return self.levels.grey()

    @property
    def given(self) -> NDArray[np.uint8]:
        """What a model gets before crop and resize, uint8 [H, W] or [H, W, 3]."""
        return self.grey if self.colour is None else self.colour

    @cached_property
    def span(self) -> tuple[float, float]:
        """The smallest and the largest of the values and of the ends of the window."""
        values, low, high = self.levels
        return min(float(values.min()), low), max(float(values.max()), high)

    @property
    def depth16(self) -> NDArray[np.uint16]:
        """The grey levels in 16 bits, uint16 [H, W]; 0 and 65,535 stand for the ends of the span."""
        least, most = self.span
        return np.asarray(((self.levels.values - least) * (65_535 / (most - least))).round(), np.uint16)

    @property
    def bytes(self) -> int:
        """Its size in memory."""
        return self.levels.values.nbytes + self.levels.values.size + (0 if self.colour is None else self.colour.nbytes)


class Pictures:
    """Pictures by name. When there are too many, those used least recently are dropped. Nothing is written to disk."""

    def __init__(self, most_pictures: int = MOST_PICTURES, most_bytes: int = MOST_BYTES) -> None:
        self._kept: OrderedDict[str, Picture] = OrderedDict()
        self._lock = threading.Lock()
        self._most_pictures, self._most_bytes = most_pictures, most_bytes

    def add(self, picture: Picture) -> str:
        """Keep a picture under a new name that cannot be guessed, and return the name."""
        name = secrets.token_urlsafe(16)
        self.put(name, picture)
        return name

    def put(self, name: str, picture: Picture) -> None:
        """Keep a picture under a name."""
        with self._lock:
            self._kept[name] = picture
            while len(self._kept) > 1 and (len(self._kept) > self._most_pictures or self._bytes() > self._most_bytes):
                self._kept.popitem(last=False)

    def find(self, name: str) -> Picture | None:
        """The picture of that name; None where it is not, or no longer, in memory."""
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
            return self._kept.get(name)

    def get(self, name: str) -> Picture:
        """The picture of that name.

        Raises:
            PetechiaError: it is not, or no longer, in memory.
        """
        picture = self.find(name)
        if picture is None:
            raise PetechiaError("The image is no longer in memory; open it again.")
        return picture

    def _bytes(self) -> int:
        return sum(picture.bytes for picture in self._kept.values())
