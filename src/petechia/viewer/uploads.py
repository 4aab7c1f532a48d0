"""The readers' own images, and limits on the memory and time that receiving them may take."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import HTTPException, Request

from petechia.core.errors import PetechiaError
from petechia.viewer.pictures import Picture, Pictures
from petechia.viewer.work import BusyError

MOST_UPLOAD = 64 * 1024 * 1024  # bytes
MOST_UPLOADS = 8  # at once; each takes the memory of its file
MOST_UPLOADS_EACH = 4  # at once, of one reader
MOST_SECONDS = 60.0  # for one upload
STALLED = 5.0  # seconds behind the slowest rate; who sends less holds the place of others
SLOWEST = 256 * 1024  # bytes in a second
MOST_SIDE = 32_767  # pixels; browsers draw no larger image
AGAIN = 3  # seconds after which to try again


class Uploads:
    """The uploaded images.

    Attributes:
        pictures: those in memory.
    """

    def __init__(self, colour: bool) -> None:
        """Receive images.

        Args:
            colour: whether the model takes images in colour.
        """
        self.pictures = Pictures()
        self._colour = colour
        self._receiving: Counter[str] = Counter()  # by reader

    @asynccontextmanager
    async def reading(self, request: Request, reader: str) -> AsyncIterator[bytes]:
        """The uploaded file.

        Raises:
            HTTPException: it is too large, or takes too long.
            BusyError: too many others are being received.
        """
        if self._receiving.total() >= MOST_UPLOADS or self._receiving[reader] >= MOST_UPLOADS_EACH:
            raise BusyError(f"Too many images are being opened at the same time; try again in {AGAIN} s.", AGAIN)
        self._receiving[reader] += 1
        try:
            yield await read_body(request, MOST_UPLOAD, MOST_SECONDS)
        finally:
            self._receiving[reader] -= 1
            self._receiving += Counter()  # forgets who has none

    def keep(self, content: bytes, reader: str) -> tuple[str, Picture]:
        """Decode an image file; return the name under which it is kept, and the picture.

        Raises:
            PetechiaError: it cannot be read, is too large for a browser to show, or other readers' images fill the memory.
        """
        picture = Picture.read(content, "The image", self._colour)
        height, width = picture.shape
        if max(height, width) > MOST_SIDE:
            raise PetechiaError(f"The image has {width} x {height} pixels; give one of at most {MOST_SIDE:,} a side.")
        return self.pictures.add(picture, reader), picture


async def read_body(request: Request, most: int, seconds: float) -> bytes:
    """The body of a request, in memory.

    Args:
        request: to read.
        most: bytes; the rest of a larger body is not read.
        seconds: for all of it.

    Raises:
        HTTPException: 413, it is too large; 408, it takes too long, or falls behind the slowest rate.
    """
    try:
        return await asyncio.wait_for(_read(request, most), seconds)
    except TimeoutError:
        sentence = f"The request took longer than {seconds:.0f} seconds to arrive, or stalled; try again."
        raise HTTPException(408, sentence, {"Connection": "close"}) from None


async def _read(request: Request, most: int) -> bytes:
    size = f"{most // 1024**2} MiB" if most >= 1024**2 else f"{most // 1024} KiB"
    too_large = HTTPException(413, f"This is larger than {size}; send less.", {"Connection": "close"})
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > most):
        raise too_large
    content, parts, start = bytearray(), request.stream(), asyncio.get_running_loop().time()
    while True:
        try:
            async with asyncio.timeout_at(start + STALLED + len(content) / SLOWEST):
                content += await anext(parts)
        except StopAsyncIteration:
            break
        if len(content) > most:
            raise too_large
    return bytes(content)
