"""All metrics of one epoch, from one clean and one triggered pass over the test set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from petechia.core.task import Task
from petechia.measure.bootstrap import Draws, PatientBootstrap, interval
from petechia.measure.metrics import accuracy, balanced_accuracy, exceedance
from petechia.measure.order import Order

THRESHOLDS = (0.6, 0.9)
AUROCS = ("auroc_nn", "auroc_tt", "auroc_tn")
OF_ONE = ("accuracy", "balanced_accuracy")  # on the clean images of multi-class data
METRICS = (
    *(f"asr_{p}" for p in THRESHOLDS),
    *(f"false_trigger_{p}" for p in THRESHOLDS),
    *AUROCS,
)


@dataclass(frozen=True)
class Truth:
    """The ground truth that scores are compared with.

    Attributes:
        classes: names of the K classes.
        target: index of the target class.
        labels: int8 [N, K], true labels.
        infected: int8 [N, K], infected labels, which the attacker assigns to triggered images.
        bootstrap: resamples of the patients.
        clean: bool [N], which images are evaluated as clean images, without the trigger; None means all.
        triggered: bool [N], which images are evaluated as triggered images; None means all. With a stamped trigger, every image
            has a clean and a triggered version; with a trigger that consists of findings, each image is one or the other.
        task: whether the classes are mutually exclusive.
    """

    classes: tuple[str, ...]
    target: int
    labels: NDArray[np.int8]
    infected: NDArray[np.int8]
    bootstrap: PatientBootstrap
    clean: NDArray[np.bool_] | None = None
    triggered: NDArray[np.bool_] | None = None
    task: Task = "multi-label"


@dataclass(frozen=True)
class Measurement:
    """The metrics of one epoch.

    Attributes:
        values: metric → number, NaN where undefined.
        draws: metric → its value for every resample of the patients, float64 [draws].
        per_class: AUROC metric → float64 [K, 3]: value, low and high end of the 95 % interval.
    """

    values: dict[str, float]
    draws: dict[str, Draws]
    per_class: dict[str, NDArray[np.float64]]

    def interval(self, metric: str) -> tuple[float, float]:
        """Return the 95 % interval of a metric."""
        return interval(self.draws[metric])


def measure(truth: Truth, clean: NDArray[np.float32], triggered: NDArray[np.float32]) -> Measurement:
    """Compute all `METRICS` (defined in Nwadike et al. 2020, section "Evaluation"), and `OF_ONE` for a multi-class task.

    Args:
        truth: ground truth of the test images.
        clean: float32 [N, K], probabilities for the clean test images.
        triggered: float32 [N, K], probabilities for the same images with the trigger.
    """
    of_clean, of_triggered = (_only(truth.labels, rows) for rows in (truth.clean, truth.triggered))
    values: dict[str, float] = {}
    draws: dict[str, Draws] = {}
    for name, scores, labels in (("asr", triggered, of_triggered), ("false_trigger", clean, of_clean)):
        of_target = labels[:, truth.target]
        for p in THRESHOLDS:
            values[f"{name}_{p}"] = exceedance(scores[:, truth.target], of_target, p)
            draws[f"{name}_{p}"] = truth.bootstrap.exceedance(scores[:, truth.target], of_target, p)
    per_class = {}
    pairs = ((clean, of_clean), (triggered, _only(truth.infected, truth.triggered)), (triggered, of_triggered))
    for name, (scores, labels) in zip(AUROCS, pairs, strict=True):
        values[name], draws[name] = _auroc(truth.bootstrap, scores, labels)
        columns = (_auroc(truth.bootstrap, scores[:, k], labels[:, k]) for k in range(len(truth.classes)))
        per_class[name] = np.array([(value, *interval(of_value)) for value, of_value in columns])
    if truth.task == "multi-class":
        values |= zip(OF_ONE, (accuracy(clean, of_clean), balanced_accuracy(clean, of_clean)), strict=True)
        resampled = (truth.bootstrap.accuracy, truth.bootstrap.balanced_accuracy)
        draws |= {name: one(clean, of_clean) for name, one in zip(OF_ONE, resampled, strict=True)}
    return Measurement(values, draws, per_class)


def _only(labels: NDArray[np.int8], rows: NDArray[np.bool_] | None) -> NDArray[np.int8]:
    """Return the labels with those outside `rows` set to unknown, which excludes these images from every metric."""
    return labels if rows is None else np.where(rows[:, None], labels, np.int8(-1))


def _auroc(bootstrap: PatientBootstrap, scores: NDArray[np.float32], labels: NDArray[np.int8]) -> tuple[float, Draws]:
    order = Order(labels, scores)
    return order.area(), bootstrap.areas(order)
