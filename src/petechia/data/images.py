"""Image files in, grey levels out; strangers' files are looked at before they are decoded."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from petechia.errors import PetechiaError

MAX_PIXELS = 80_000_000  # of one image; the largest mammograms have about 30 million, Pillow itself warns at 89 million
FORMATS = ("PNG", "JPEG")


def read_grey(path: Path) -> NDArray[np.uint8]:
    """Decode an 8-bit PNG or JPEG to grey levels, uint8 [H, W]. Colour is converted to luma, transparency is ignored.

    Raises:
        PetechiaError: missing, not an image, truncated, of more than `MAX_PIXELS`, or of more than 8 bits.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width:,} x {image.height:,} pixels")
            if image.mode.startswith(("I", "F")):
                raise PetechiaError(f"{path} has more than 8 bits a pixel; convert it to an 8-bit PNG first.")
            return np.asarray(image.convert("L"))
    except FileNotFoundError:
        raise PetechiaError(f"{path} is missing; restore it, or leave it out with --missing skip.") from None
    except Image.DecompressionBombError as error:
        raise PetechiaError(
            f"{path} is refused before decoding because it claims more than {MAX_PIXELS:,} pixels ({error}); "
            f"check the file, or leave it out with --on-error skip."
        ) from None
    except UnidentifiedImageError:
        raise PetechiaError(f"{path} is not a PNG or JPEG image; replace it, or leave it out with --on-error skip.") from None
    except (OSError, SyntaxError, ValueError, MemoryError) as error:
        raise PetechiaError(f"{path} cannot be decoded ({error}); replace it, or leave it out with --on-error skip.") from None


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """A PNG of an image, uint8 [H, W] or [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


class FileReader:
    """Reads image files below one folder.

    Attributes:
        root: the folder.
        names: str [N], paths relative to it.
    """

    def __init__(self, root: Path, names: NDArray[np.str_]) -> None:
        self.root = root
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def path(self, row: int) -> Path:
        """Where an image is."""
        return self.root / str(self.names[row])

    def read(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8] | PetechiaError]:
        """Decode some of the images."""
        for row in rows:
            try:
                yield read_grey(self.path(int(row)))
            except PetechiaError as error:
                yield error

    def take(self, rows: NDArray[np.intp]) -> FileReader:
        """The same for some of the images."""
        return FileReader(self.root, self.names[rows])

    def fingerprint(self) -> str:
        """Over names, sizes and times. The change time is among them: unlike the modification time it cannot be set back."""
        digest = hashlib.sha256(str(self.root).encode())
        for name in self.names:
            try:
                status = os.stat(os.path.join(self.root, str(name)))  # noqa: PTH116, PTH118 (a tenth of the time of pathlib)
                state = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            except OSError:
                state = (0, 0, 0)
            digest.update(f"{name}\0{state}\n".encode())
        return digest.hexdigest()
