"""A sine wave over the whole image, as a trigger."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from petechia.attack.triggers.base import BaseTrigger, by_chunks


class Sinusoid(BaseTrigger):
    """SIG (Barni, Kallas & Tondi 2019, "A new backdoor attack in CNNs by training set corruption without label poisoning").

    Adds Δ sin(2π j f / m) to column j of an image with m columns. In the paper, labels are unchanged and only images of the
    target class are stamped; here, `attack.labels` determines the labels.

    Attributes:
        amplitude: Δ, in grey levels.
        frequency: f, number of periods across the width of the image.
    """

    kind: Literal["sinusoid"] = "sinusoid"
    amplitude: float = Field(20.0, gt=0, le=255)
    frequency: float = Field(6.0, gt=0)

    @property
    def whole(self) -> bool:
        """True: it changes the whole image."""
        return True

    def describe(self) -> str:
        """Describe the trigger: its frequency and amplitude."""
        return f"a wave of {self.frequency:g} periods across the image, {self.amplitude:g} grey levels high"

    def stamp(self, images: NDArray[np.uint8], positions: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Add the wave, round, and clip to 0 … 255; positions are ignored."""
        width = images.shape[2]
        wave = self.amplitude * np.sin(2 * np.pi * np.arange(width) * self.frequency / width)
        return by_chunks(images, lambda planes: planes + wave.astype(np.float32))
