"""The images that the viewer shows, in memory only."""

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
    """An image to read. It equals itself alone, so that what is derived from it can be kept with it.

    Attributes:
        levels: its grey levels.
        colour: uint8 [H, W, 3], where it is in colour and the model takes that.
        prepared: whether it is what a model sees already, without crop and resize.
        findings: what it truly shows; None where nobody knows.
        place: row and column at which the attacker stamps it, in pixels of the attack's stage; None where none does.
    """

    levels: Levels
    colour: NDArray[np.uint8] | None = None
    prepared: bool = False
    findings: tuple[str, ...] | None = None
    place: tuple[int, int] | None = None

    @staticmethod
    def of(image: NDArray[np.uint8], **known: Any) -> Picture:
        """An image that is decoded, uint8 [H, W] or [H, W, 3], with what is known of it."""
        return Picture(Levels(to_grey(image).astype(np.float32), 0, 255), image if image.ndim == 3 else None, **known)

    @staticmethod
    def read(content: bytes, name: str, colour: bool) -> Picture:
        """Decode a file, for a model that takes colours or does not. What has none keeps its full depth.

        Raises:
            PetechiaError: as `read_levels`.
        """
        levels = read_levels(content, name)
        colours = Decoding(colour=True).decode(content, name) if colour else None
        return Picture(levels, None if colours is None or (colours == colours[..., :1]).all() else colours)

    @cached_property
    def grey(self) -> NDArray[np.uint8]:
        """What a model that takes no colours gets before crop and resize, uint8 [H, W]; of large images it takes a while."""
        return self.levels.grey()

    @property
    def given(self) -> NDArray[np.uint8]:
        """What a model gets before crop and resize, uint8 [H, W] or [H, W, 3]."""
        return self.grey if self.colour is None else self.colour

    @cached_property
    def span(self) -> tuple[float, float]:
        """Least and most of the values and of the window's ends."""
        values, low, high = self.levels
        return min(float(values.min()), low), max(float(values.max()), high)

    @property
    def depth16(self) -> NDArray[np.uint16]:
        """The grey levels in 16 bits, uint16 [H, W]; 0 and 65,535 stand for the ends of the span."""
        least, most = self.span
        return np.asarray(((self.levels.values - least) * (65_535 / (most - least))).round(), np.uint16)

    @property
    def bytes(self) -> int:
        """That it takes in memory."""
        return self.levels.values.nbytes + self.levels.values.size + (0 if self.colour is None else self.colour.nbytes)


class Pictures:
    """Pictures by their names, the ones that were used least recently forgotten first. Nothing is written anywhere."""

    def __init__(self, most_pictures: int = MOST_PICTURES, most_bytes: int = MOST_BYTES) -> None:
        self._kept: OrderedDict[str, Picture] = OrderedDict()
        self._lock = threading.Lock()
        self._most_pictures, self._most_bytes = most_pictures, most_bytes

    def add(self, picture: Picture) -> str:
        """Keep a picture and say under which name, which nobody can guess."""
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
        """Look a picture up; None where it is not there, or no longer."""
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
            return self._kept.get(name)

    def get(self, name: str) -> Picture:
        """Look a picture up.

        Raises:
            PetechiaError: it is not there, or no longer.
        """
        picture = self.find(name)
        if picture is None:
            raise PetechiaError("The image is no longer in memory; open it again.")
        return picture

    def _bytes(self) -> int:
        return sum(picture.bytes for picture in self._kept.values())
