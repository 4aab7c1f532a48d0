"""Combines the parts of a screen into one suspicion, and sets the threshold from the suspicions of clean images."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, FiniteFloat, model_validator

from petechia.core.errors import PetechiaError
from petechia.core.results import Record
from petechia.detect.protocol import Calibration

Parts = dict[str, NDArray[np.float64]]  # name → [N], higher is more suspicious

PACKAGED = Calibration.packaged("screen").require("screen")
# kind of trigger → its parts; the first decides
GROUPS: dict[str, tuple[str, ...]] = {kind: tuple(parts) for kind, parts in PACKAGED.values["groups"].items()}
PARTS = tuple(dict.fromkeys(part for parts in GROUPS.values() for part in parts))
NARROW: float = PACKAGED.values["least_part_spread"]  # smallest spread of a part, in standard deviations
LEAST: dict[str, float] = PACKAGED.values["least_spread"]  # part → smallest spread, in its own unit
TAIL: float = PACKAGED.values["tail"]  # share of the clean images, the most suspicious ones, whose excess is the unit
LEAST_EXCESS: float = PACKAGED.values["least_excess"]  # of them, in spreads


def _known_part(name: str) -> str:
    if name not in PARTS:
        raise ValueError(f"{name!r} is not a part of the screen")
    return name


PartName = Annotated[str, AfterValidator(_known_part)]
Positive = Annotated[FiniteFloat, Field(gt=0)]


class ReferenceValues(Record):
    """What the clean images gave besides the threshold. The images themselves are not in a calibration.

    Attributes:
        usual_logits: [K], the median logit of every class over the clean images.
        target: index of the one class that is examined; None for all.
        doubtful_share: share of the clean images that may be triggered themselves.
    """

    usual_logits: tuple[FiniteFloat, ...]
    target: int | None = None
    doubtful_share: float = 0.0


class ScreenValues(Record):
    """The values of a calibration of the screen.

    Attributes:
        false_positive_rate: at which the threshold is set.
        middle: part → its median over the clean images.
        spread: part → its spread over the clean images.
        tails: kind of trigger → where the most suspicious clean images begin, and their mean excess.
        clean: the suspicions of the clean images.
        reference: what else is needed to screen further images with the same clean ones.
    """

    false_positive_rate: float
    middle: Annotated[dict[PartName, FiniteFloat], Field(min_length=1)]
    spread: dict[PartName, Positive]
    tails: dict[str, tuple[FiniteFloat, Positive]]
    clean: tuple[FiniteFloat, ...]
    reference: ReferenceValues | None = None

    @model_validator(mode="after")
    def _same_parts(self) -> ScreenValues:
        if set(self.middle) != set(self.spread):
            raise ValueError("middle and spread must have the same parts")
        if set(self.tails) != set(_groups(self.middle)):
            raise ValueError("there must be a tail for each kind of trigger that has a part")
        return self

    @staticmethod
    def of(calibration: Calibration) -> ScreenValues:
        """The values of a calibration.

        Raises:
            PetechiaError: the calibration is another detector's, or a value is missing or not allowed.
        """
        return calibration.read("screen", ScreenValues)


@dataclass(frozen=True)
class ConformalThreshold:
    """A conformal threshold (Vovk et al. 2005) of the suspicion.

    Of images like the clean ones, a share of at most `fpr` is expected above the threshold, whatever the model.

    Attributes:
        fpr: the false-positive rate.
        middle: part → its median over the clean images.
        spread: part → its spread over the clean images.
        tails: kind of trigger → where the most suspicious clean images begin, and their mean excess.
        clean: float64 [n], the suspicions of the clean images, ascending.
    """

    fpr: float
    middle: dict[str, float]
    spread: dict[str, float]
    tails: dict[str, tuple[float, float]]
    clean: NDArray[np.float64]

    @staticmethod
    def of(parts: Parts, fpr: float) -> ConformalThreshold:
        """Set the threshold on the parts of clean images.

        Raises:
            PetechiaError: see `check_count`.
        """
        check_count(len(next(iter(parts.values()))), fpr)
        middle = {name: float(np.median(values)) for name, values in parts.items()}
        spread = {name: max(_spread(values), LEAST.get(name, 0)) for name, values in parts.items()}
        unscaled = ConformalThreshold(fpr, middle, spread, dict.fromkeys(_groups(middle), (0.0, 1.0)), np.zeros(0))
        unsorted = replace(unscaled, tails={kind: _tail(values) for kind, values in unscaled.by_kind(parts).items()})
        return replace(unsorted, clean=np.sort(unsorted.suspicion(parts)))

    @staticmethod
    def from_calibration(calibration: Calibration) -> ConformalThreshold:
        """The threshold in a calibration of the screen.

        Raises:
            PetechiaError: see `ScreenValues.of` and `check_count`.
        """
        values = ScreenValues.of(calibration)
        check_count(len(values.clean), values.false_positive_rate)
        clean = np.sort(np.array(values.clean, np.float64))
        tails = dict(values.tails)
        return ConformalThreshold(values.false_positive_rate, dict(values.middle), dict(values.spread), tails, clean)

    def to_calibration(self, measured_on: str, reference: ReferenceValues | None = None) -> Calibration:
        """The threshold as a calibration, which can be saved.

        Args:
            measured_on: the model and the clean images, in words.
            reference: what the clean images gave besides the threshold.
        """
        values = ScreenValues(
            false_positive_rate=self.fpr,
            middle=self.middle,
            spread=self.spread,
            tails=self.tails,
            clean=tuple(self.clean.tolist()),
            reference=reference,
        )
        return Calibration(detector="screen", measured_on=measured_on, values=values.model_dump(mode="json"))

    @property
    def threshold(self) -> float:
        """The suspicion above which an image is flagged: the ceil((n + 1) (1 - fpr))-th smallest of the n clean ones."""
        return float(self.clean[_rank(len(self.clean), self.fpr) - 1])

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Kind of trigger → those of its parts that are computed; without kinds of which none is."""
        return _groups(self.middle)

    def by_kind(self, parts: Parts) -> dict[str, NDArray[np.float64]]:
        """Kind of trigger → how suspicious of it the images are, float64 [N].

        This is the mean of its parts, each in spreads over the clean images. What the image takes along to clean images, the
        first part of each kind, decides: the mean counts up to twice that part. A strong finding stands out, too, but takes
        nothing along. Then it is put in units of what the most suspicious clean images have in excess, because small findings
        are common in some collections, and should not hide triggers over the whole image.
        """
        units = {name: (parts[name] - self.middle[name]) / self.spread[name] for name in self.middle}
        found = {}
        for kind, names in self.groups.items():
            mean, first, (start, excess) = np.mean([units[name] for name in names], axis=0), GROUPS[kind][0], self.tails[kind]
            decided = np.minimum(mean, 2 * np.maximum(units[first], 0)) if first in units else mean
            found[kind] = (decided - start) / excess
        return found

    def suspicion(self, parts: Parts) -> NDArray[np.float64]:
        """That of the kind of trigger that is likelier, float64 [N]."""
        return np.asarray(np.max([*self.by_kind(parts).values()], axis=0))

    def p_values(self, suspicion: NDArray[np.float64]) -> NDArray[np.float64]:
        """The share of the clean images and the image itself that are at least as suspicious, float64 [N]."""
        below = np.searchsorted(self.clean, suspicion, side="left")
        return np.asarray((1 + len(self.clean) - below) / (1 + len(self.clean)))


def check_count(count: int, fpr: float) -> None:
    """Check that a number of clean images suffices for a false-positive rate.

    Raises:
        PetechiaError: the rate is not between 0 and 1, or more images are needed.
    """
    if not 0 < fpr < 1:
        raise PetechiaError(f"The false-positive rate is {fpr:g}; it must lie between 0 and 1, as 0.01 does.")
    needed = math.ceil(1 / fpr - 1 - 1e-9)
    if count < max(needed, 2):
        raise PetechiaError(
            f"{count} clean images cannot set a threshold at a false-positive rate of {fpr:g}: that takes at least "
            f"{max(needed, 2)}; give more, or allow a higher rate."
        )


def _groups(computed: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Kind of trigger → its computed parts."""
    known = set(computed)
    found = {kind: tuple(part for part in parts if part in known) for kind, parts in GROUPS.items()}
    return {kind: parts for kind, parts in found.items() if parts}


def _tail(values: NDArray[np.float64]) -> tuple[float, float]:
    """Where the highest values begin, and by how much these exceed it on average."""
    start = float(np.quantile(values, 1 - TAIL))
    above = values[values > start]
    return start, max(LEAST_EXCESS, float((above - start).mean()) if len(above) else 0.0)


def _rank(count: int, fpr: float) -> int:
    return math.ceil((count + 1) * (1 - fpr) - 1e-9)  # 100 * 0.99 may be a little over 99


def _spread(values: NDArray[np.float64]) -> float:
    low, high = np.percentile(values, (16, 84))
    return max(float(high - low) / 2, NARROW * float(values.std()), 1e-6)
