"""The EXIF orientation of image files: how stored pixels are turned to be seen upright, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TAG = 0x0112  # of EXIF and TIFF
UPRIGHT = 1
# What turns the stored pixels upright: first rows become columns, then rows and columns are reversed.
TURNED, UPSIDE_DOWN, MIRRORED = (5, 6, 7, 8), (3, 4, 7, 8), (2, 3, 6, 7)
Pixels = NDArray[Any]


def stored_orientation(image: Image.Image) -> int:
    """Return the orientation that an opened file states, 1 to 8; 1, which is upright, if it states none that is valid."""
    try:
        stated = image.getexif().get(TAG, UPRIGHT)
    except Exception:  # damaged EXIF data are ignored, as viewers do
        return UPRIGHT
    return stated if isinstance(stated, int) and 1 <= stated <= 8 else UPRIGHT


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn stored pixels, [H, W] or [H, W, C], to how they are seen (EXIF 2.32, 4.6.4)."""
    if orientation in TURNED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in UPSIDE_DOWN:
        pixels = pixels[::-1]
    if orientation in MIRRORED:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def as_stored(pixels: Pixels, orientation: int) -> Pixels:
    """Turn an upright image to how a file with this orientation stores it."""
    return upright(pixels, {6: 8, 8: 6}.get(orientation, orientation))


def exif_of(orientation: int) -> bytes:
    """Return EXIF data that state an orientation."""
    exif = Image.Exif()
    exif[TAG] = orientation
    return exif.tobytes()
