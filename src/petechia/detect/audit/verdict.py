"""How surprising the evidence for a class is, given how strong the strongest evidence in clean models is."""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.01  # probability that a clean model is flagged
LEAST = 1e-3  # of a strength


class Null(NamedTuple):
    """What the strongest class of clean models has as evidence.

    Attributes:
        mean: over the models.
        std: over the models, as a sample.
        models: how many they are.
    """

    mean: float
    std: float
    models: int

    def p_values(self, evidence: NDArray[np.float64]) -> NDArray[np.float64]:
        """For each class, the chance that any class of another clean model has evidence as strong.

        This is Student's prediction for one more model, so few models make no small p-values. It counts all classes of a model
        together: nothing is left to correct for.
        """
        distance = (evidence - self.mean) / (self.std * sqrt(1 + 1 / self.models))
        return np.asarray(stats.t.sf(distance, self.models - 1))

    @staticmethod
    def of(strongest: list[float], least: float) -> Null:
        """Measured on clean models; `least` is a standard deviation that few models may not fall below by luck."""
        return Null(float(np.mean(strongest)), max(least, float(np.std(strongest, ddof=1))), len(strongest))


# Measured on the clean models of the zoo's half for tuning: `python -m benchmarks.auditing ZOO --half tune`.
STAMPS = Null(0.75, 0.2, 7)
TRIGGERS = Null(-2.8, 0.4, 7)


def stamp_evidence(gains: NDArray[np.float32], spread: NDArray[np.float32]) -> NDArray[np.float64]:
    """How strongly each class answers to its best stamp.

    The highest gain is taken in standard deviations of the class's clean logits, and compared with that of the model's median
    class, as the logarithm of their ratio: every class answers a little to the best of thousands of stamps, and how much
    differs from model to model. Of an even number of classes the lower of the middle two counts, so that one backdoor in
    two classes shows.

    Args:
        gains: float32 [S, K], of stamps.
        spread: float32 [K], the standard deviations.

    Returns:
        float64 [K].
    """
    strength = np.maximum(gains.max(axis=0) / np.maximum(spread, LEAST), LEAST).astype(np.float64)
    return np.asarray(np.log(strength) - np.log(np.quantile(strength, 0.5, method="lower")))


def trigger_evidence(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """How small the trigger of each class is: the negative logarithm of its pixels; float64 [K], -inf where there is none."""
    return np.asarray(-np.log(np.maximum(sizes, LEAST)))


def either(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """The p-value of two tests together (Bonferroni); a test that was not made is NaN and costs nothing."""
    made = np.stack([one, other])
    count = (~np.isnan(made)).any(axis=1).sum()
    return np.asarray(np.minimum(1.0, count * np.fmin(one, other)))
