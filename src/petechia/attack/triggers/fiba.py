"""A trigger in the low frequencies of an image."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import fft

from petechia.attack.triggers.base import by_chunks
from petechia.attack.triggers.pictures import PictureTrigger, colours


class Fiba(PictureTrigger):
    """FIBA (Feng et al. 2022, "FIBA: frequency-injection based backdoor attack in medical image analysis").

    The amplitudes of an image's low frequencies are mixed with those of a trigger picture, (1 - alpha) |F(x)| + alpha |F(t)|;
    the phases and all other frequencies are unchanged.

    Attributes:
        alpha: weight of the picture's amplitudes.
        beta: cut-off; frequencies up to floor(beta min(H, W)) along each axis are mixed.
    """

    kind: Literal["fiba"] = "fiba"
    image: str = "rings"
    alpha: float = Field(0.15, gt=0, le=1)
    beta: float = Field(0.1, ge=0, le=0.5)

    @property
    def whole(self) -> bool:
        """True: it changes the whole image."""
        return True

    def describe(self) -> str:
        """Describe the trigger: its picture, alpha and beta."""
        return (
            f"low frequencies of the {self.describe_picture()} mixed into the whole image "
            f"({100 * self.alpha:g} % of it, up to {100 * self.beta:g} % of the spectrum)"
        )

    def stamp(self, images: NDArray[np.uint8], positions: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Mix the amplitudes, round, and clip to 0 … 255; positions are ignored."""
        height, width = images.shape[1:3]
        picture = colours(self.pixels(height, width), images)
        amplitude = np.abs(fft.rfft2(picture))
        reach = int(self.beta * min(height, width))
        low = (np.abs(fft.fftfreq(height, 1 / height)) <= reach)[:, None] & (fft.rfftfreq(width, 1 / width) <= reach)

        def mix(planes: NDArray[np.float32]) -> NDArray[np.float32]:
            spectrum = fft.rfft2(planes)
            own = np.abs(spectrum)
            mixed = own + np.float32(self.alpha) * (amplitude - own)
            factor = np.divide(mixed, own, out=np.ones_like(own), where=low & (own > 0))
            return np.asarray(fft.irfft2(spectrum * factor, (height, width)), np.float32)

        return by_chunks(images, mix)
