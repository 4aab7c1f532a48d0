"""Finds where a trigger may be: small boxes that differ from their surroundings and are evidence for a class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from torch import Tensor
from torch.nn import functional

from petechia.models.classifier import Classifier
from petechia.saliency.methods import slopes

FINE = 64  # side in pixels of the images for which the next two are given
WINDOW = 13  # side of the median's window; a trigger of up to 6 pixels is a minority in it
BOX = 8  # side of a box
STEPS = (1.0, 0.5)  # points between background and image at which gradients are computed
BATCH = 32  # images whose gradients are computed at a time
DIFFERENT = 8  # grey levels from which a pixel counts as different from the background


class Boxes(NamedTuple):
    """Square boxes in images.

    Attributes:
        corners: int [..., 2], row and column of the top left pixel, which may lie outside the image.
        side: in pixels.
    """

    corners: NDArray[np.intp]
    side: int

    def widened(self) -> Boxes:
        """Twice as wide around the same centres, for a trigger that is larger than a box."""
        return Boxes(self.corners - self.side // 2, 2 * self.side)

    def masks(self, size: int) -> NDArray[np.bool_]:
        """The pixels inside, bool [..., size, size]."""
        pixel = np.arange(size)
        rows, columns = (
            (pixel >= start[..., None]) & (pixel < start[..., None] + self.side) for start in np.moveaxis(self.corners, -1, 0)
        )
        return np.asarray(rows[..., :, None] & columns[..., None, :])


def backgrounds(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images without small details: the median over a window's rows of the medians over its columns, for each channel.

    At the borders the windows stay inside the image. In a mirrored border, a trigger in a corner would be the majority.

    Args:
        images: uint8 [N, H, W] or [N, H, W, 3].

    Returns:
        The same shape, uint8.
    """
    reach, found = scaled(WINDOW // 2, images.shape[1]), images
    for axis in (2, 1):
        centres = np.clip(np.arange(images.shape[axis]), reach, images.shape[axis] - 1 - reach)
        found = np.take(median_filter(found, 2 * reach + 1, axes=axis), centres, axis)
    return np.asarray(found)


def differing(images: NDArray[np.uint8], plain: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pixels differ from the background in any channel, bool [N, H, W]."""
    differs = np.abs(images.astype(np.int16) - plain) >= DIFFERENT
    return np.asarray(differs if differs.ndim == 3 else differs.any(axis=3))


def with_channels(pixels: NDArray[np.bool_], images: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """A mask, bool [..., H, W], with a further axis where images, uint8 [N, H, W] or [N, H, W, 3], are in colour."""
    return pixels if images.ndim == 3 else pixels[..., None]


def scaled(length: int, size: int) -> int:
    """A length in images of `FINE` pixels, converted to images of another size; at least 2."""
    return max(2, round(length * size / FINE))


def attributions(
    classifier: Classifier, images: NDArray[np.uint8], plain: NDArray[np.uint8], classes: NDArray[np.intp]
) -> NDArray[np.float32]:
    """How much each pixel's difference from the background adds to a logit (integrated gradients, Sundararajan et al. 2017).

    Args:
        classifier: a network with gradients.
        images: uint8 [N, H, W] or [N, H, W, 3].
        plain: their backgrounds, in the same shape.
        classes: int [N], the class of the logit.

    Returns:
        float32 [N, H, W]; the sum over an image approximates the logit's fall when the image is replaced by its background.
    """
    parts = [
        _attributions(classifier, *batch)
        for batch in zip(*(torch.split(torch.from_numpy(each), BATCH) for each in (images, plain, classes)), strict=True)
    ]
    return np.concatenate(parts)


def _attributions(classifier: Classifier, images: Tensor, plain: Tensor, classes: Tensor) -> NDArray[np.float32]:
    image, background = (classifier.tensor(each.numpy()) for each in (images, plain))
    targets = classes[:, None].to(image.device)
    total = torch.zeros_like(image)
    for share in STEPS:
        point = (background + share * (image - background)).requires_grad_()
        with torch.enable_grad(), classifier.runtime.autocast():
            total += slopes(classifier.answer(point).float(), targets, [point])[0][0].float()
    found: NDArray[np.float32] = ((image - background) * total / len(STEPS)).sum(dim=1).cpu().numpy()
    return found


def contrasts(images: NDArray[np.uint8], plain: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How much each pixel differs from the background, in 0…1, float32 [N, H, W]; for black boxes, without gradients."""
    contrast = np.abs(images.astype(np.float32) - plain) / 255
    return np.asarray(contrast if contrast.ndim == 3 else contrast.mean(axis=3))


def hottest_boxes(maps: NDArray[np.float32], count: int) -> Boxes:
    """The boxes with the highest sums, the highest first. Of boxes less than half a side apart only the highest is kept.

    Args:
        maps: float32 [N, H, W].
        count: number of boxes in each image.

    Returns:
        corners [N, count, 2].
    """
    side = scaled(BOX, maps.shape[1])
    sums = functional.avg_pool2d(torch.from_numpy(maps)[:, None], side, stride=1)[:, 0]
    reach, width = side // 2, sums.shape[2]
    every = torch.arange(len(sums))
    padded = functional.pad(sums, (reach,) * 4)
    corners = []
    for _ in range(count):
        place = padded[:, reach:-reach, reach:-reach].flatten(1).argmax(dim=1)
        row, column = place // width, place % width
        corners.append(torch.stack([row, column], dim=1))
        for down in range(2 * reach + 1):
            for right in range(2 * reach + 1):
                padded[every, row + down, column + right] = -torch.inf
    return Boxes(torch.stack(corners, dim=1).numpy(), side)
