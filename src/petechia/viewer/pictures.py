"""The images that the viewer shows. They are kept in memory only."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.data.formats.images import Decoding, read_levels
from petechia.data.levels import Levels, to_grey

MOST_PICTURES = 256
MOST_BYTES = 512 * 1024 * 1024
MOST_EACH = 32  # pictures of one reader
FORGOTTEN = 15 * 60.0  # seconds without use after which a picture makes room for any reader's
AT_A_TIME = 1 << 20  # pixels that are converted at a time: bounds memory
CHUNK = 1 << 18  # bytes that are sent at a time


@dataclass(frozen=True, eq=False)
class Picture:
    """An image to read. Two pictures are never equal, so that results can be cached by picture.

    Attributes:
        depth16: its grey levels, uint16 [H, W]; 0 and 65,535 stand for the ends of the span.
        grey: what a model for grey images gets before crop and resize, uint8 [H, W].
        span: the smallest and the largest of the values and of the ends of the window, in the unit of the file.
        window: the values that are displayed as black and as white, in the unit of the file.
        colour: uint8 [H, W, 3], where the image has colours and the model takes them.
        prepared: whether it is cropped and resized for the model already.
        findings: its true labels; None where they are unknown.
        place: row and column where the attacker stamps it, in pixels of the attack's stage; None where it is not stamped.
    """

    depth16: NDArray[np.uint16]
    grey: NDArray[np.uint8]
    span: tuple[float, float]
    window: tuple[float, float]
    colour: NDArray[np.uint8] | None = None
    prepared: bool = False
    findings: tuple[str, ...] | None = None
    place: tuple[int, int] | None = None

    @staticmethod
    def of_levels(levels: Levels, **known: Any) -> Picture:
        """A picture of grey levels, with further attributes. Everything is computed here, once."""
        values, low, high = levels
        span = min(float(values.min()), low), max(float(values.max()), high)
        return Picture(_in_16_bits(values, *span), levels.grey(), span, (low, high), **known)

    @staticmethod
    def of(image: NDArray[np.uint8], **known: Any) -> Picture:
        """A picture of a decoded image, uint8 [H, W] or [H, W, 3], with further attributes."""
        grey, ends = to_grey(image), (0.0, 255.0)
        return Picture(grey.astype("<u2") * 257, grey, ends, ends, image if image.ndim == 3 else None, **known)

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
        return Picture.of_levels(levels, colour=None if colours is None or (colours == colours[..., :1]).all() else colours)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.grey.shape
        return height, width

    @property
    def given(self) -> NDArray[np.uint8]:
        """What a model gets before crop and resize, uint8 [H, W] or [H, W, 3]."""
        return self.grey if self.colour is None else self.colour

    @property
    def bytes(self) -> int:
        """Its size in memory."""
        return self.depth16.nbytes + self.grey.nbytes + (0 if self.colour is None else self.colour.nbytes)

    def levels(self) -> tuple[int, Iterator[memoryview]]:
        """Grey levels in 16 bits, or red, green and blue in 8 bits each; row by row.

        Returns:
            The number of bytes, and the bytes in chunks.
        """
        levels = self.depth16 if self.colour is None else self.colour
        content = memoryview(np.ascontiguousarray(levels).reshape(-1).view(np.uint8).data)
        return len(content), (content[start : start + CHUNK] for start in range(0, len(content), CHUNK))


def _in_16_bits(values: NDArray[np.float32], least: float, most: float) -> NDArray[np.uint16]:
    found = np.empty(values.shape, "<u2")
    rows = max(1, AT_A_TIME // max(1, values.shape[1]))
    for start in range(0, len(values), rows):
        some = slice(start, start + rows)
        found[some] = ((values[some] - least) * (65_535 / (most - least))).round()
    return found


class _Kept(NamedTuple):
    picture: Picture
    reader: str
    used: float  # when, in seconds of a clock


class Pictures:
    """Pictures by name, in memory that readers share. Nothing is written to disk.

    When there is no more room, a reader's new picture takes the place of that reader's own oldest, of one that nobody has used
    for long, or of one of a reader who has more of the memory than its share; never of another's who has no more than that.
    """

    def __init__(self, most_pictures: int = MOST_PICTURES, most_bytes: int = MOST_BYTES, most_each: int = MOST_EACH) -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # the one used last is the last
        self._lock = threading.Lock()
        self._most_pictures, self._most_bytes, self._most_each = most_pictures, most_bytes, most_each

    def add(self, picture: Picture, reader: str = "") -> str:
        """Keep a picture under a new name that cannot be guessed, and return the name.

        Raises:
            PetechiaError: other readers' pictures fill the memory.
        """
        name = secrets.token_urlsafe(16)
        self.put(name, picture, reader)
        return name

    def put(self, name: str, picture: Picture, reader: str = "") -> None:
        """Keep a picture under a name.

        Raises:
            PetechiaError: other readers' pictures fill the memory.
        """
        with self._lock:
            self._kept.pop(name, None)
            while self._kept and (excess := self._excess(picture, reader)):
                dropped = self._dispensable(picture, reader, excess)
                if dropped is None:
                    raise PetechiaError(
                        "The viewer's memory is full of other readers' images; open a smaller image, or try again in some "
                        "minutes."
                    )
                del self._kept[dropped]
            self._kept[name] = _Kept(picture, reader, time.monotonic())

    def find(self, name: str) -> Picture | None:
        """The picture of that name; None where it is not, or no longer, in memory."""
        with self._lock:
            kept = self._kept.get(name)
            if kept is None:
                return None
            self._kept[name] = kept._replace(used=time.monotonic())
            self._kept.move_to_end(name)
            return kept.picture

    def get(self, name: str) -> Picture:
        """The picture of that name.

        Raises:
            PetechiaError: it is not, or no longer, in memory.
        """
        picture = self.find(name)
        if picture is None:
            raise PetechiaError("The image is no longer in memory; open it again.")
        return picture

    def _excess(self, picture: Picture, reader: str) -> str:
        """What a new picture would exceed: "own", the reader's number; "all", the memory; or nothing."""
        if sum(kept.reader == reader for kept in self._kept.values()) >= self._most_each:
            return "own"
        full = sum(kept.picture.bytes for kept in self._kept.values()) + picture.bytes > self._most_bytes
        return "all" if full or len(self._kept) >= self._most_pictures else ""

    def _dispensable(self, picture: Picture, reader: str, excess: str) -> str | None:
        """The name of the picture that makes room."""
        own = [name for name, kept in self._kept.items() if kept.reader == reader]
        forgotten = [name for name, kept in self._kept.items() if time.monotonic() - kept.used > FORGOTTEN]
        if excess == "all" and forgotten:
            return forgotten[0]
        if own:
            return own[0]
        held = {kept.reader: 0 for kept in self._kept.values()}
        for kept in self._kept.values():
            held[kept.reader] += kept.picture.bytes
        greedy = max(held, key=lambda one: held[one])
        several = [name for name, kept in self._kept.items() if kept.reader == greedy]
        fair = held[greedy] > self._most_bytes / (len(held) + 1) or len(several) > self._most_pictures / (len(held) + 1)
        return several[0] if fair and len(several) > 1 else None
