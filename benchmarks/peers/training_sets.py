"""Training sets as filters examine them, and Petechia's own ranking of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.measures import Scores
from benchmarks.peers.views import Floats
from petechia.core.progress import SILENT, Progress
from petechia.detect.protocol import Calibration, Finding, Findings
from petechia.detect.scan.features import feature_outliers


class TrainingSet(NamedTuple):
    """What a filter examines: a training set as the network that was trained on it sees it.

    Attributes:
        features: float32 [N, D], input of the network's last layer.
        labels: int8 [N, K].
        target: index of the attacked class, for the single-label views.
    """

    features: Floats
    labels: NDArray[np.int8]
    target: int


class Found(NamedTuple):
    """Scores of N images, higher is more suspicious, and whether the filter's own rule flags them."""

    scores: Scores
    flagged: NDArray[np.bool_]


def findings_of(name: str, calibration: Calibration, rows: NDArray[np.intp], found: Found) -> Findings:
    """Findings about rows of a training set."""
    each = zip(rows.tolist(), found.scores.tolist(), found.flagged.tolist(), strict=True)
    findings = (Finding(about=str(row), kind="image", score=score, flagged=flagged) for row, score, flagged in each)
    return Findings(detector=name, measured_on=calibration.measured_on, found=tuple(findings))


class FeatureRanks:
    """The ranking of `petechia scan --model` on the same features: it flags none, and needs no single-label view."""

    name: str = "scan --model"
    examines: Literal["dataset", "model", "images"] = "dataset"

    def calibrate(self, clean: Sequence[TrainingSet]) -> Calibration:
        """Nothing is set."""
        return Calibration(detector=self.name, measured_on="nothing: a ranking", values={})

    def examine(self, subject: TrainingSet, calibration: Calibration, progress: Progress = SILENT) -> Findings:
        """Rank the images."""
        calibration.require(self.name)
        ranks = feature_outliers(subject.features, subject.labels, np.ones(len(subject.labels), bool)).rank
        return findings_of(self.name, calibration, np.arange(len(ranks)), Found(ranks, np.zeros(len(ranks), bool)))
