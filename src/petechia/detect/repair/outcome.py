"""What a repair did: AUROC on clean images and the success of known triggers, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from petechia.core.randomness import stream
from petechia.core.runtime import Runtime
from petechia.detect.repair.clean import CleanSet
from petechia.detect.repair.known_trigger import Known
from petechia.measure import Count, PatientBootstrap, auroc
from petechia.measure.bootstrap import Draws, interval
from petechia.measure.epoch import THRESHOLDS
from petechia.models.model import Model
from petechia.models.scoring import predict


class Effect(NamedTuple):
    """What a trigger does to a model.

    Attributes:
        trigger: the trigger.
        asr: threshold → of the images without the class, those that get it with the trigger.
        false_trigger: threshold → those that get it without the trigger.
    """

    trigger: Known
    asr: dict[float, Count]
    false_trigger: dict[float, Count]


class RepairOutcome(NamedTuple):
    """A model, measured.

    Attributes:
        auroc: micro-average on clean images (AUROC-NN); NaN without labels.
        draws: the same for resampled patients.
        effects: what each trigger does.
        images: how many were measured.
    """

    auroc: float
    draws: Draws
    effects: tuple[Effect, ...]
    images: int


def measure(model: Model, clean: CleanSet, triggers: Sequence[Known], runtime: Runtime) -> RepairOutcome:
    """Measure a model on clean images and on the same with each trigger.

    An image counts for a trigger if it is labelled not to have the class; where no image is labelled for it, all count.

    Args:
        model: before or after.
        clean: images that it was not repaired with.
        triggers: to measure.
        runtime: where to compute.
    """
    placed = runtime.to_device(model)
    scores = predict(placed, clean.images, runtime)
    effects = tuple(_effect(placed, clean, scores, trigger, runtime) for trigger in triggers)
    labelled = (clean.labels >= 0).any()
    draws = PatientBootstrap(clean.patients).auroc(scores, clean.labels) if labelled else np.full(1, np.nan)
    return RepairOutcome(auroc(scores, clean.labels) if labelled else float("nan"), draws, effects, len(scores))


def _effect(model: Model, clean: CleanSet, scores: NDArray[np.float32], trigger: Known, runtime: Runtime) -> Effect:
    target = model.description.classes.index(trigger.target)
    labels = clean.labels[:, target]
    rows = np.flatnonzero(labels == 0 if (labels >= 0).any() else labels == -1)
    images = clean.images[rows]
    places = trigger.places(len(rows), images.shape[1], stream(0, "repair places"))
    triggered = predict(model, trigger.on(images, places), runtime)[:, target]
    return Effect(
        trigger,
        {p: Count(int((triggered >= p).sum()), len(rows)) for p in THRESHOLDS},
        {p: Count(int((scores[rows, target] >= p).sum()), len(rows)) for p in THRESHOLDS},
    )


def change(before: RepairOutcome, after: RepairOutcome) -> tuple[float, float, float]:
    """By how much the AUROC rose, with its 95 % interval; both on the same images."""
    return after.auroc - before.auroc, *interval(after.draws - before.draws)
