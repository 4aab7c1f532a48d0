"""Heat in colours, over the image that it explains."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

COLOURS = "inferno"  # brightness rises with heat, so it is read in grey print and by the colour-blind
OPACITY = 0.7  # of the hottest place


def coloured(heat_map: NDArray[np.float32]) -> NDArray[np.float64]:
    """A map from none to its own maximum as RGBA in 0…1, float [h, w, 4]: the hotter, the brighter and the less transparent."""
    hottest = float(heat_map.max(initial=0))
    if hottest == 0:
        return np.zeros((*heat_map.shape, 4))
    colours = np.asarray(mpl.colormaps[COLOURS](heat_map / hottest))
    colours[..., 3] = OPACITY * heat_map / hottest
    return colours


def enlarged(heat_map: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """A map upsampled bilinearly, float32 [height, width]; each cell covers an equal part of the image."""
    large = functional.interpolate(
        torch.from_numpy(np.ascontiguousarray(heat_map))[None, None], (height, width), mode="bilinear"
    )
    return np.asarray(large[0, 0].numpy())


def overlay(image: NDArray[np.uint8], heat_map: NDArray[np.float32]) -> NDArray[np.uint8]:
    """An image, uint8 [H, W] or [H, W, 3], under its heat, float32 [h, w]; uint8 [H, W, 3]."""
    colours = coloured(enlarged(heat_map, *image.shape[:2]))
    under = image[..., None] if image.ndim == 2 else image
    opacity = colours[..., 3:]
    return np.asarray((under * (1 - opacity) + 255 * colours[..., :3] * opacity).round(), np.uint8)
