"""Where a box lies in the file of an image, and the picture of an image with its box."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from petechia.data.levels import in_colour
from petechia.data.preprocess import Box, Preprocess
from petechia.detect.screen.disturbances import details

SIDE = 512  # pixels, about, of a side of the enlarged image
MARGIN = 2  # pixels of the input that are shown around the box
FRAME = (255, 64, 64)
AMPLIFIED = 3  # factor of the detail in a picture


def in_file(box: Box, preprocess: Preprocess, height: int, width: int) -> Box:
    """The part of an image file that a box of the model's input comes from.

    Args:
        box: in pixels of the input.
        preprocess: from the file to the input.
        height: of the image in the file, in pixels.
        width: the same.
    """
    kept = preprocess.kept(height, width)
    top, bottom = _stretch(box.top, box.height, kept.height / preprocess.size)
    left, right = _stretch(box.left, box.width, kept.width / preprocess.size)
    return Box(kept.top + top, kept.left + left, bottom - top, right - left)


def _stretch(start: int, extent: int, scale: float) -> tuple[int, int]:
    return int(np.floor(start * scale)), int(np.ceil((start + extent) * scale))


def picture(image: NDArray[np.uint8], box: Box | None) -> NDArray[np.uint8]:
    """An image with a frame around a box, and at its right the box enlarged, with a margin.

    Args:
        image: uint8 [H, W] or [H, W, 3].
        box: in pixels of the image; nothing is framed if its height and width are 0. None: of the whole image, the detail is
            shown beside it, amplified.

    Returns:
        uint8 [h, 2 h, 3].
    """
    scale = max(1, SIDE // len(image))
    if box is None:
        amplified = np.clip(128 + AMPLIFIED * details(image), 0, 255).astype(np.uint8)
        return np.concatenate([_enlarged(image, scale), _enlarged(amplified, scale)], axis=1)
    top, left = max(box.top - MARGIN, 0), max(box.left - MARGIN, 0)
    crop = image[top : box.top + box.height + MARGIN, left : box.left + box.width + MARGIN]
    whole = _framed(_enlarged(image, scale), box, scale)
    near = _enlarged(crop, max(1, len(whole) // max(crop.shape[:2])))
    beside = np.zeros((len(whole), len(whole), 3), np.uint8)
    beside[: near.shape[0], : near.shape[1]] = near
    return np.concatenate([whole, beside], axis=1)


def _framed(whole: NDArray[np.uint8], box: Box, scale: int) -> NDArray[np.uint8]:
    found = whole.copy()
    top, left = box.top * scale, box.left * scale
    bottom, right = (box.top + box.height) * scale, (box.left + box.width) * scale
    found[max(top - 2, 0) : bottom + 2, max(left - 2, 0) : right + 2] = FRAME
    found[top:bottom, left:right] = whole[top:bottom, left:right]
    return found


def _enlarged(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    return in_colour(image.repeat(scale, axis=0).repeat(scale, axis=1))
