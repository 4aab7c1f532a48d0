"""How surprising the evidence for a class is, given the strongest evidence in clean models."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import sqrt
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import stats

from petechia.core.results import Record
from petechia.detect.protocol import Calibration

DETECTOR = "audit"
LEAST = 1e-3  # of a gain or a size, before the logarithm
LEAST_STD = 0.1  # of a null; a few clean models that are alike by luck must not make it narrower

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Null(NamedTuple):
    """How strong the evidence for the strongest class of a clean model is.

    Attributes:
        mean: over clean models.
        std: over clean models, as a sample.
        models: how many models were measured.
    """

    mean: Finite
    std: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    models: Annotated[int, Field(ge=2)]

    def p_values(self, evidence: NDArray[np.float64]) -> NDArray[np.float64]:
        """For each class, the chance that any class of another clean model has evidence as strong.

        This is Student's prediction for one more model, so few models give no small p-values. It counts all classes of a
        model together, so no correction for the number of classes is left to make.

        Args:
            evidence: float64 [K].

        Returns:
            float64 [K].
        """
        distance = (evidence - self.mean) / (self.std * sqrt(1 + 1 / self.models))
        return np.asarray(stats.t.sf(distance, self.models - 1))

    @staticmethod
    def of(strongest: Sequence[float], least: float = LEAST_STD) -> Null:
        """From the strongest evidence of each clean model; `least` is the smallest standard deviation that is believed."""
        return Null(float(np.mean(strongest)), max(least, float(np.std(strongest, ddof=1))), len(strongest))


class AuditNulls(Record):
    """What decides the verdict of an audit: the values of its calibration file.

    Attributes:
        level: p-value below which a class is flagged: the chance that a clean model is flagged.
        fewest_classes: classes that a model must have for its classes to be compared with each other.
        strength: null of `strengths`; decides where the classes are fewer.
        contrast: null of `contrasts`; decides where they are not.
        trigger: null of `trigger_evidence`; None where no trigger was reconstructed from the clean models.
    """

    level: float = Field(gt=0, lt=1)
    fewest_classes: int = Field(ge=2)
    strength: Null
    contrast: Null
    trigger: Null | None = None

    @staticmethod
    def of(calibration: Calibration | None = None) -> AuditNulls:
        """The values of a calibration, by default of the one that comes with Petechia.

        Raises:
            PetechiaError: the calibration is another detector's, or a value is missing or wrong.
        """
        return (calibration or packaged_calibration()).read(DETECTOR, AuditNulls)

    def values(self) -> dict[str, object]:
        """As a calibration file has them."""
        nulls = {"strength": self.strength, "contrast": self.contrast, "trigger": self.trigger}
        return {
            "level": self.level,
            "fewest_classes": self.fewest_classes,
            **{name: null._asdict() for name, null in nulls.items() if null},
        }


@cache
def packaged_calibration() -> Calibration:
    """The calibration that comes with Petechia."""
    return Calibration.packaged(DETECTOR)


def strengths(gains: NDArray[np.float32]) -> NDArray[np.float64]:
    """How strongly each class answers to its best stamp: the logarithm of the gain of its logit; float [K] → float64 [K]."""
    return np.asarray(np.log(np.maximum(gains, LEAST)).astype(np.float64))


def contrasts(strength: NDArray[np.float64], fewest: int) -> NDArray[np.float64]:
    """How far each class's strength is above that of the model's median class.

    Every class answers a little to the best of thousands of stamps, and on small images to any. What one class does beyond the
    others is its own. Gains are not divided by the spread of the clean logits: a model that is sure of a finding spreads its
    logit widely, which would hide a backdoor for it. Of an even number of classes the lower of the middle two counts.

    Args:
        strength: float64 [K], see `strengths`.
        fewest: with fewer classes than this none is typical.

    Returns:
        float64 [K]; NaN with too few classes.
    """
    if len(strength) < fewest:
        return np.full(len(strength), np.nan)
    return np.asarray(strength - np.quantile(strength, 0.5, method="lower"))


def trigger_evidence(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """How small the trigger of each class is: the negative logarithm of its pixels; float64 [K], -inf where there is none."""
    return np.asarray(-np.log(np.maximum(sizes, LEAST)))


def stamp_p_values(gains: NDArray[np.float32], nulls: AuditNulls) -> NDArray[np.float64]:
    """For each class, whether it stands out: among the classes of its model or, where these are few, by its strength alone.

    Clean models differ less in contrast than in strength, so the contrast says more.

    Args:
        gains: float32 [K], the highest gain of each class's logit by any stamp.
        nulls: of clean models.

    Returns:
        float64 [K].
    """
    strength = strengths(gains)
    contrast = contrasts(strength, nulls.fewest_classes)
    return nulls.strength.p_values(strength) if np.isnan(contrast).any() else nulls.contrast.p_values(contrast)


def trigger_p_values(sizes: NDArray[np.float64], nulls: AuditNulls) -> NDArray[np.float64]:
    """For each class, whether its reconstructed trigger is smaller than those of clean models.

    Args:
        sizes: float64 [K], pixels of the smallest trigger; infinite where none was found, NaN where none was tried.
        nulls: of clean models.

    Returns:
        float64 [K]; NaN where none was tried, or clean models give no null.
    """
    return nulls.trigger.p_values(trigger_evidence(sizes)) if nulls.trigger else np.full(len(sizes), np.nan)


def combine_p_values(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """The p-value of two tests together (Bonferroni); a test that was not made is NaN and costs nothing."""
    made = np.stack([one, other])
    count = (~np.isnan(made)).any(axis=1).sum()
    return np.asarray(np.minimum(1.0, count * np.fmin(one, other)))


def strongest_evidence(gains: NDArray[np.float32], sizes: NDArray[np.float64], fewest: int) -> dict[str, float]:
    """What the strongest class of one model shows, for each null.

    Args:
        gains: float32 [K], see `stamp_p_values`.
        sizes: float64 [K], see `trigger_p_values`.
        fewest: see `contrasts`.

    Returns:
        "strength", "contrast" and "trigger"; NaN where the model has too few classes, or no trigger was tried.
    """
    strength = strengths(gains)
    evidence = {"strength": strength, "contrast": contrasts(strength, fewest), "trigger": trigger_evidence(sizes)}
    return {name: float(values.max()) for name, values in evidence.items()}
