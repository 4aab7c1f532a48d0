"""Filters of training sets: ART's activation defence and spectral signatures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from art.defences.detector.poison import ActivationDefence, SpectralSignatureDefense
from numpy.typing import NDArray

from benchmarks.peers.measures import Scores, of_training_set
from benchmarks.peers.views import Featured, Floats, one_label
from petechia.detect.scan.features import feature_outliers


class TrainingSet(NamedTuple):
    """What a filter is given, and the truth.

    Attributes:
        features: float32 [N, D], what the network's last layer gets.
        labels: int8 [N, K].
        triggered: bool [N].
        target: index of the class.
    """

    features: Floats
    labels: NDArray[np.int8]
    triggered: NDArray[np.bool_]
    target: int


class Found(NamedTuple):
    """Of N images: how suspicious, and whether the filter's own rule flags them."""

    scores: Scores
    flagged: NDArray[np.bool_]


Filter = Callable[[Floats, NDArray[np.intp]], Found]


def activation(features: Floats, labels: NDArray[np.intp]) -> Found:
    """ART's activation clustering with its own settings; an image scores the more, the nearer it is to a flagged cluster."""
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
    # It tells the scores of flagged images alone, so it is asked again to flag all.
    report, _ = SpectralSignatureDefense(_featured(labels), features, labels, expected_pp_poison=1.0).detect_poison()
    return Found(np.array([float(report[row]) for row in range(len(features))]), np.array(clean) == 0)


def centred(features: Floats, labels: NDArray[np.intp]) -> Found:
    """Spectral signatures as Tran et al. 2018 publish them; ART projects features from which no mean is taken."""
    scores = np.zeros(len(features))
    flagged = np.zeros(len(features), bool)
    for name in np.unique(labels):
        own = features[labels == name].astype(np.float64)
        own -= own.mean(axis=0)
        scores[labels == name] = (own @ np.linalg.svd(own, full_matrices=False)[2][0]) ** 2
        flagged[labels == name] = scores[labels == name] >= np.quantile(scores[labels == name], 1 - 1.5 * 0.33)  # as ART
    return Found(scores, flagged)


FILTERS: dict[str, Filter] = {"activation": activation, "spectral": spectral, "spectral as published": centred}


def judge(given: TrainingSet) -> dict[str, Any]:
    """The measures of all filters, each under two views of the labels.

    Returns:
        Filter → view → measures. "all classes": every image has one label, and all classes are searched; "told the class":
        only the images labelled with the target are, which a defender would not know.
    """
    np.random.seed(0)  # what ART draws from
    return {name: _judge(given, apply) for name, apply in FILTERS.items()}


def ours(given: TrainingSet) -> dict[str, Any]:
    """What `petechia scan --model` makes of the same features: it ranks and flags none; labels are seen as they are."""
    ranks = feature_outliers(given.features, given.labels, np.ones(len(given.labels), bool)).rank
    return of_training_set(ranks, np.zeros(len(ranks), bool), given.triggered)


def _judge(given: TrainingSet, apply: Filter) -> dict[str, Any]:
    labels = one_label(given.labels, given.target)
    blind = apply(given.features, labels)
    inside = given.labels[:, given.target] == 1
    own = apply(given.features[inside], np.zeros(int(inside.sum()), np.intp))
    return {
        "all classes": of_training_set(*blind, given.triggered),
        "told the class": of_training_set(*own, given.triggered[inside]),
    }


def _featured(labels: NDArray[np.intp]) -> Featured:
    return Featured(int(labels.max()) + 1)
