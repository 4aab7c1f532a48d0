"""Filters of training sets: ART's activation defence and spectral signatures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from art.defences.detector.poison import ActivationDefence, SpectralSignatureDefense
from numpy.typing import NDArray

from benchmarks.peers.training_sets import Found, TrainingSet, findings_of
from benchmarks.peers.views import Featured, Floats, one_label
from petechia.core.progress import SILENT, Progress
from petechia.detect.protocol import Calibration, Findings

Filter = Callable[[Floats, NDArray[np.intp]], Found]


def activation(features: Floats, labels: NDArray[np.intp]) -> Found:
    """ART's activation clustering with its own settings; the score is higher the nearer an image is to a flagged cluster."""
    defence = ActivationDefence(_featured(labels), features, labels)
    _, clean = defence.detect_poison()
    scores = np.zeros(len(features))
    for name, reduced in enumerate(defence.red_activations_by_class):
        clusters, suspicious = defence.clusters_by_class[name], int(np.argmax(defence.poisonous_clusters[name]))
        distance = [np.linalg.norm(reduced - reduced[clusters == k].mean(axis=0), axis=1) for k in (0, 1)]
        scores[labels == name] = distance[1 - suspicious] - distance[suspicious]
    return Found(scores, np.array(clean) == 0)


def spectral(features: Floats, labels: NDArray[np.intp]) -> Found:
    """ART's spectral signatures with its own settings."""
    _, clean = SpectralSignatureDefense(_featured(labels), features, labels).detect_poison()
    # It gives the scores of flagged images only, so it is called again to flag all.
    report, _ = SpectralSignatureDefense(_featured(labels), features, labels, expected_pp_poison=1.0).detect_poison()
    return Found(np.array([float(report[row]) for row in range(len(features))]), np.array(clean) == 0)


def centred(features: Floats, labels: NDArray[np.intp]) -> Found:
    """Spectral signatures as published by Tran et al. 2018; ART does not subtract the mean before it projects."""
    scores = np.zeros(len(features))
    flagged = np.zeros(len(features), bool)
    for name in np.unique(labels):
        own = features[labels == name].astype(np.float64)
        own -= own.mean(axis=0)
        scores[labels == name] = (own @ np.linalg.svd(own, full_matrices=False)[2][0]) ** 2
        flagged[labels == name] = scores[labels == name] >= np.quantile(scores[labels == name], 1 - 1.5 * 0.33)  # as ART
    return Found(scores, flagged)


FILTERS: dict[str, Filter] = {"activation": activation, "spectral": spectral, "spectral as published": centred}


class TrainingFilter:
    """A filter under one view of the labels.

    Args:
        name: of the filter.
        apply: the filter.
        told: whether it is told the attacked class, which a defender would not know, and examines the images with that label
            only; else every image has one label, and all classes are examined.
    """

    examines: Literal["dataset", "model", "images"] = "dataset"

    def __init__(self, name: str, apply: Filter, told: bool) -> None:
        self.name = name
        self._apply = apply
        self._told = told

    def calibrate(self, clean: Sequence[TrainingSet]) -> Calibration:
        """Nothing is set: the filters flag a fixed share, or a whole cluster."""
        return Calibration(detector=self.name, measured_on="nothing: the filter's own settings", values={})

    def examine(self, subject: TrainingSet, calibration: Calibration, progress: Progress = SILENT) -> Findings:
        """Score the images; a finding is about a row of the training set."""
        calibration.require(self.name)
        if self._told:
            rows = np.flatnonzero(subject.labels[:, subject.target] == 1)
            found = self._apply(subject.features[rows], np.zeros(len(rows), np.intp))
        else:
            rows = np.arange(len(subject.labels))
            found = self._apply(subject.features, one_label(subject.labels, subject.target))
        return findings_of(self.name, calibration, rows, found)


VIEWS = {"all classes": False, "told the class": True}


def detectors() -> dict[tuple[str, ...], TrainingFilter]:
    """Filter and view → detector. They draw from one sequence of random numbers, in this order."""
    np.random.seed(0)  # what ART draws from
    return {
        (name, view): TrainingFilter(f"{name}, {view}", apply, told)
        for name, apply in FILTERS.items()
        for view, told in VIEWS.items()
    }


def _featured(labels: NDArray[np.intp]) -> Featured:
    return Featured(int(labels.max()) + 1)
