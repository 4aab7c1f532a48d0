"""The readers' own images, and limits on the memory and time that receiving them may take."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import HTTPException, Request

from petechia.core.errors import PetechiaError
from petechia.viewer.pictures import Picture, Pictures

MOST_UPLOAD = 64 * 1024 * 1024  # bytes
MOST_UPLOADS = 8  # at once
MOST_DECODING = 2  # at once
MOST_SECONDS = 60.0  # for one upload
MOST_SIDE = 32_767  # pixels; browsers draw no larger image


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
        self._receiving = threading.BoundedSemaphore(MOST_UPLOADS)
        self._decoding = threading.BoundedSemaphore(MOST_DECODING)

    @asynccontextmanager
    async def reading(self, request: Request) -> AsyncIterator[bytes]:
        """The uploaded file.

        Raises:
            HTTPException: it is too large, takes too long, or too many others are being received.
        """
        if not self._receiving.acquire(blocking=False):
            raise HTTPException(503, "Too many images are being opened at the same time; try again in a moment.")
        try:
            yield await asyncio.wait_for(read_body(request, MOST_UPLOAD), MOST_SECONDS)
        except TimeoutError:
            raise HTTPException(408, f"The upload took longer than {MOST_SECONDS:.0f} seconds; try again.") from None
        finally:
            self._receiving.release()

    def keep(self, content: bytes) -> tuple[str, Picture]:
        """Decode an image file; return the name under which it is kept, and the picture.

        Raises:
            PetechiaError: it cannot be read, or it is too large for a browser to show.
        """
        with self._decoding:
            picture = Picture.read(content, "The image", self._colour)
        height, width = picture.levels.values.shape
        if max(height, width) > MOST_SIDE:
            raise PetechiaError(f"The image has {width} x {height} pixels; give one of at most {MOST_SIDE:,} a side.")
        return self.pictures.add(picture), picture


async def read_body(request: Request, most: int) -> bytes:
    """The body of a request, in memory.

    Args:
        request: to read.
        most: bytes; the rest of a larger body is not read.

    Raises:
        HTTPException: 413, it is too large.
    """
    size = f"{most // 1024**2} MiB" if most >= 1024**2 else f"{most // 1024} KiB"
    too_large = HTTPException(413, f"This is larger than {size}; send less.", {"Connection": "close"})
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise too_large
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > most:
            raise too_large
    return bytes(content)
