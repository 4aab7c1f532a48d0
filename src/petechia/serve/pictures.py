"""The images that the viewer shows: test images of the run, read when they are asked for, and uploads, kept in memory."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from petechia.data.levels import Levels
from petechia.errors import PetechiaError

MOST_PICTURES = 32
MOST_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True)
class Picture:
    """An image to read.

    Attributes:
        levels: its grey levels.
        prepared: whether it is what a model sees already, without crop and resize.
        findings: what it truly shows; None where nobody knows.
        place: row and column at which the attacker stamps it, in pixels of the attack's stage; None where none does.
    """

    levels: Levels
    prepared: bool = False
    findings: tuple[str, ...] | None = None
    place: tuple[int, int] | None = None

    @property
    def depth16(self) -> tuple[NDArray[np.uint16], float, float]:
        """The levels in 16 bits, uint16 [H, W], and which values 0 and 65,535 stand for."""
        values = self.levels.values
        least, most = min(float(values.min()), self.levels.low), max(float(values.max()), self.levels.high)
        return np.asarray(((values - least) * (65_535 / (most - least))).round(), np.uint16), least, most


class Pictures:
    """Pictures by unguessable names, the ones that were used least recently forgotten first. Nothing is written anywhere."""

    def __init__(self, most_pictures: int = MOST_PICTURES, most_bytes: int = MOST_BYTES) -> None:
        self._kept: OrderedDict[str, Picture] = OrderedDict()
        self._lock = threading.Lock()
        self._most_pictures, self._most_bytes = most_pictures, most_bytes

    def add(self, picture: Picture) -> str:
        """Keep a picture and say under which name."""
        name = secrets.token_urlsafe(16)
        with self._lock:
            self._kept[name] = picture
            while len(self._kept) > 1 and (len(self._kept) > self._most_pictures or self._bytes() > self._most_bytes):
                self._kept.popitem(last=False)
        return name

    def get(self, name: str) -> Picture:
        """Look a picture up.

        Raises:
            PetechiaError: it is not there, or no longer.
        """
        with self._lock:
            if name not in self._kept:
                raise PetechiaError("The image is no longer in memory; open it again.")
            self._kept.move_to_end(name)
            return self._kept[name]

    def _bytes(self) -> int:
        return sum(picture.levels.values.nbytes for picture in self._kept.values())
