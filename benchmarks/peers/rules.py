"""Detectors of triggered images that are rules on what a defence computes, such as entropies."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.measures import FPR, Scores
from petechia.core.errors import PetechiaError
from petechia.core.progress import SILENT, Progress
from petechia.detect.protocol import Calibration, Finding, Findings, ImagesUnderTest

T = TypeVar("T")


class Defence(ABC, Generic[T]):
    """What a defence computes of images, once for all rules that read it.

    Random numbers are drawn in the order in which images are given for the first time.
    """

    def __init__(self) -> None:
        self._fitted: tuple[bytes, T] | None = None
        self._known: dict[bytes, T] = {}

    @abstractmethod
    def fit(self, clean: ImagesUnderTest) -> T:
        """Start anew with clean images, and compute the same of them."""

    @abstractmethod
    def ask(self, subject: ImagesUnderTest) -> T:
        """Compute it of further images."""

    def fitted(self, clean: ImagesUnderTest) -> T:
        """As `fit`; done again only for other images."""
        key = _digest(clean)
        if self._fitted is None or self._fitted[0] != key:
            self._known = {}
            self._fitted = key, self.fit(clean)
        return self._fitted[1]

    def asked(self, subject: ImagesUnderTest) -> T:
        """As `ask`; done once for the same images."""
        key = _digest(subject)
        if key not in self._known:
            self._known[key] = self.ask(subject)
        return self._known[key]


class ImageRule(ABC, Generic[T]):
    """A detector whose threshold is set on clean images at a false-positive rate of `FPR`.

    Args:
        name: of the rule.
        defence: what the rule reads.
    """

    examines: Literal["dataset", "model", "images"] = "images"

    def __init__(self, name: str, defence: Defence[T]) -> None:
        self.name = name
        self.defence = defence

    @abstractmethod
    def scores(self, found: T, values: Mapping[str, Any]) -> Scores:
        """[N], higher is more suspicious; `values` are those of the calibration."""

    def values(self, fitted: T) -> dict[str, Any]:
        """What the scores need of the clean images, besides the threshold."""
        return {}

    def own_verdict(self, found: T) -> NDArray[np.bool_] | None:
        """Which images the defence's own threshold flags; None where it has none."""
        return None

    def calibrate(self, clean: Sequence[ImagesUnderTest]) -> Calibration:
        """Set the threshold on the clean images of one model."""
        if len(clean) != 1:
            raise PetechiaError(f"{self.name} takes the clean images of one model, not {len(clean)}; give one subject.")
        fitted = self.defence.fitted(clean[0])
        values = self.values(fitted)
        values["threshold"] = float(np.quantile(self.scores(fitted, values), 1 - FPR, method="higher"))
        return Calibration(detector=self.name, measured_on=f"{len(clean[0].images)} clean images", values=values)

    def examine(self, subject: ImagesUnderTest, calibration: Calibration, progress: Progress = SILENT) -> Findings:
        """Score images. The evidence says whether the defence's own threshold flags one as well."""
        values = calibration.require(self.name).values
        found = self.defence.asked(subject)
        scores, own = self.scores(found, values), self.own_verdict(found)
        ids = subject.ids or tuple(map(str, range(len(scores))))
        findings = [
            Finding(
                about=ids[row],
                kind="image",
                score=float(score),
                flagged=bool(score > values["threshold"]),
                threshold=values["threshold"],
                false_positive_rate=FPR,
                evidence={} if own is None else {"own_verdict": bool(own[row])},
            )
            for row, score in enumerate(scores)
        ]
        progress.advance(len(findings))
        return Findings(detector=self.name, measured_on=calibration.measured_on, found=tuple(findings))


def _digest(subject: ImagesUnderTest) -> bytes:
    return hashlib.sha256(subject.classifier.name.encode() + b"\0" + subject.images.tobytes()).digest()
