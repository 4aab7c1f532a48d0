"""A wave over the whole image."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from petechia.attack.triggers.base import BaseTrigger, by_chunks


class Sinusoid(BaseTrigger):
    """SIG (Barni, Kallas & Tondi 2019, "A new backdoor attack in CNNs by training set corruption without label poisoning").

    Adds Δ sin(2π j f / m) to column j of an image of m columns. In that paper labels stay as they are and only images of the
    target class are changed; here labels are what `attack.labels` says.

    Attributes:
        amplitude: Δ, in grey levels.
        frequency: f, waves a width.
    """

    kind: Literal["sinusoid"] = "sinusoid"
    amplitude: float = Field(20.0, gt=0, le=255)
    frequency: float = Field(6.0, gt=0)

    @property
    def whole(self) -> bool:
        """It is everywhere."""
        return True

    def describe(self) -> str:
        """Its frequency and amplitude."""
        return f"a wave of {self.frequency:g} periods across the image, {self.amplitude:g} grey levels high"

    def stamp(self, images: NDArray[np.uint8], positions: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Add the wave, rounded and kept within 0 … 255; positions do not matter."""
        width = images.shape[2]
        wave = self.amplitude * np.sin(2 * np.pi * np.arange(width) * self.frequency / width)
        return by_chunks(images, lambda planes: planes + wave.astype(np.float32))
