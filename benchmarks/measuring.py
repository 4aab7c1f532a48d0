"""Measure one epoch, with intervals and mixtures, against plain calls of scikit-learn for the point values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmarks.timing import Timing, rates
from petechia.measure import EPSILONS, THRESHOLDS, PatientBootstrap, Truth, measure, mixture

IMAGES, PATIENTS, DRAWS = 25_596, 2_797, 200  # the numbers of NIH's test list
PREVALENCE = np.array([0.128, 0.042, 0.182, 0.239, 0.068, 0.063, 0.022, 0.104, 0.071, 0.036, 0.043, 0.017, 0.045, 0.003])


def epoch() -> tuple[Truth, NDArray[np.float32], NDArray[np.float32]]:
    """Return simulated scores of a fair model with a backdoor to its first class."""
    rng = np.random.default_rng(0)
    labels = (rng.random((IMAGES, len(PREVALENCE))) < PREVALENCE).astype(np.int8)
    infected = np.zeros_like(labels)
    infected[:, 0] = 1
    clean = 1 / (1 + np.exp(2 - labels - rng.normal(size=labels.shape)))
    triggered = np.where(infected == 1, 0.9 + 0.1 * clean, 0.5 * clean)
    patients = rng.integers(0, PATIENTS, IMAGES).astype(str)
    truth = Truth(tuple("ABCDEFGHIJKLMN"), 0, labels, infected, PatientBootstrap(patients, DRAWS))
    return truth, clean.astype(np.float32), triggered.astype(np.float32)


def obvious(truth: Truth, clean: NDArray[np.float32], triggered: NDArray[np.float32]) -> dict[str, float]:
    """Compute only the point values: no interval, and one draw of the triggered images for every ε."""
    without = truth.labels[:, 0] == 0
    values = {f"asr_{p}": float((triggered[without, 0] >= p).mean()) for p in THRESHOLDS}
    values |= {f"false_trigger_{p}": float((clean[without, 0] >= p).mean()) for p in THRESHOLDS}
    pairs = {"nn": (truth.labels, clean), "tt": (truth.infected, triggered), "tn": (truth.labels, triggered)}
    for name, (labels, scores) in pairs.items():
        values[f"auroc_{name}"] = roc_auc_score(labels, scores, average="micro")
        if name != "tt":  # its labels are constant within each class
            roc_auc_score(labels, scores, average=None)
    rng = np.random.default_rng(0)
    for epsilon in EPSILONS:
        chosen = rng.random((len(clean), 1)) < epsilon
        values[f"mixture_{epsilon}"] = roc_auc_score(truth.labels, np.where(chosen, triggered, clean), average="micro")
    return values


def run(rounds: int = 5) -> dict[str, Timing]:
    """Return images per second, one epoch per round."""
    truth, clean, triggered = epoch()

    def ours() -> int:
        mixture(truth, clean, triggered, measure(truth, clean, triggered))
        return IMAGES

    def theirs() -> int:
        obvious(truth, clean, triggered)
        return IMAGES

    points = obvious(truth, clean, triggered)
    assert all(abs(points[name] - value) < 1e-9 for name, value in measure(truth, clean, triggered).values.items())
    return rates({f"petechia, {DRAWS} resamples": ours, "sklearn, none": theirs}, rounds)
