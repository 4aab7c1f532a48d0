"""From the parts of a screen to one suspicion, and from clean suspicions to a threshold with its false-positive rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError

Parts = dict[str, NDArray[np.float64]]  # name → [N], higher is more suspicious

# How much each part counts, in units of its spread over the clean images; tuned on the zoo's half for tuning alone. STRIP and
# TeCo added nothing there to the others, and are computed when they are asked for.
WEIGHTS = {"transplant": 1.0, "removal": 1.0, "outlier": 0.5, "heat": 0.25, "strip": 0.0, "teco": 0.0}
PARTS = tuple(WEIGHTS)
FUSED = tuple(name for name, weight in WEIGHTS.items() if weight)
NARROW = 0.5  # of the standard deviation: the least that is taken for the spread of a part


@dataclass(frozen=True)
class Calibration:
    """Conformal: whatever the model, of images like the clean ones a share of at most `fpr` is expected above the threshold.

    Attributes:
        fpr: the false-positive rate.
        middle: part → its median over the clean images.
        spread: part → its spread.
        clean: float64 [n], the clean images' suspicions, ascending.
    """

    fpr: float
    middle: dict[str, float]
    spread: dict[str, float]
    clean: NDArray[np.float64]

    @staticmethod
    def of(parts: Parts, fpr: float) -> Calibration:
        """Calibrate on the parts of clean images.

        Raises:
            PetechiaError: see `check_count`.
        """
        check_count(len(next(iter(parts.values()))), fpr)
        middle = {name: float(np.median(values)) for name, values in parts.items()}
        spread = {name: _spread(values) for name, values in parts.items()}
        unsorted = Calibration(fpr, middle, spread, np.zeros(0))
        return Calibration(fpr, middle, spread, np.sort(unsorted.suspicion(parts)))

    @property
    def threshold(self) -> float:
        """The suspicion above which an image is flagged: the ceil((n + 1) (1 - fpr))-th smallest of the n clean ones."""
        return float(self.clean[_rank(len(self.clean), self.fpr) - 1])

    @property
    def weights(self) -> dict[str, float]:
        """How much each part that there is counts; all alike, where none of them is fused."""
        found = {name: WEIGHTS[name] for name in self.middle}
        return found if any(found.values()) else dict.fromkeys(found, 1.0)

    def suspicion(self, parts: Parts) -> NDArray[np.float64]:
        """The weighted mean of the parts, each in units of its spread over the clean images, float64 [N]."""
        weights = self.weights
        terms = [weights[name] * (parts[name] - self.middle[name]) / self.spread[name] for name in weights]
        return np.asarray(np.sum(terms, axis=0) / sum(weights.values()))

    def p_values(self, suspicion: NDArray[np.float64]) -> NDArray[np.float64]:
        """The share of the clean images and the image itself that are at least as suspicious, float64 [N]."""
        below = np.searchsorted(self.clean, suspicion, side="left")
        return np.asarray((1 + len(self.clean) - below) / (1 + len(self.clean)))


def check_count(count: int, fpr: float) -> None:
    """Refuse a threshold that so many clean images cannot give.

    Raises:
        PetechiaError: the rate is not one, or more images are needed.
    """
    if not 0 < fpr < 1:
        raise PetechiaError(f"The false-positive rate is {fpr:g}; it must lie between 0 and 1, as 0.01 does.")
    needed = math.ceil(1 / fpr - 1 - 1e-9)
    if count < max(needed, 2):
        raise PetechiaError(
            f"{count} clean images cannot set a threshold at a false-positive rate of {fpr:g}: that takes at least "
            f"{max(needed, 2)}; give more, or allow a higher rate."
        )


def _rank(count: int, fpr: float) -> int:
    return math.ceil((count + 1) * (1 - fpr) - 1e-9)  # 100 * 0.99 may be a little over 99


def _spread(values: NDArray[np.float64]) -> float:
    low, high = np.percentile(values, (16, 84))
    return max(float(high - low) / 2, NARROW * float(values.std()), 1e-6)
