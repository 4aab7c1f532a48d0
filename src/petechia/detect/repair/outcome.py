"""What a repair did: AUROC on clean images and the success of known triggers, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from petechia.core.randomness import stream
from petechia.core.runtime import Runtime
from petechia.detect.repair.clean import CleanSet
from petechia.detect.repair.known_trigger import Stamp
from petechia.measure import Count, PatientBootstrap, auroc
from petechia.measure.bootstrap import Draws, interval
from petechia.measure.epoch import THRESHOLDS
from petechia.models.model import Model, predict


class Effect(NamedTuple):
    """What a trigger does to a model.

    Attributes:
        stamp: the trigger.
        asr: threshold → of the images without the class, those that get it with the trigger.
        false_trigger: threshold → those that get it without the trigger.
    """

    stamp: Stamp
    asr: dict[float, Count]
    false_trigger: dict[float, Count]


class RepairOutcome(NamedTuple):
    """A model, measured.

    Attributes:
        auroc: micro-average on clean images (AUROC-NN); NaN without labels.
        draws: the same for resampled patients.
        effects: of every trigger.
        images: how many were used.
    """

    auroc: float
    draws: Draws
    effects: tuple[Effect, ...]
    images: int

    def as_json(self) -> dict[str, Any]:
        """As it stands in the JSON file; undefined is null."""
        effects = [
            {
                "trigger": effect.stamp.model_dump(),
                **{f"asr_{p}": _count(effect.asr[p]) for p in THRESHOLDS},
                **{f"false_trigger_{p}": _count(effect.false_trigger[p]) for p in THRESHOLDS},
            }
            for effect in self.effects
        ]
        return {"images": self.images, "auroc_nn": value(self.auroc, *interval(self.draws)), "triggers": effects}


def measure(model: Model, clean: CleanSet, stamps: Sequence[Stamp], runtime: Runtime) -> RepairOutcome:
    """Measure a model on clean images and on the same with each trigger.

    An image counts for a trigger if it is labelled not to have the class; where no image is labelled for it, all count.

    Args:
        model: before or after.
        clean: images that it was not repaired with.
        stamps: the triggers.
        runtime: where to compute.
    """
    placed = runtime.to_device(model)
    scores = predict(placed, clean.images, runtime)
    effects = tuple(_effect(placed, clean, scores, stamp, runtime) for stamp in stamps)
    labelled = (clean.labels >= 0).any()
    draws = PatientBootstrap(clean.patients).auroc(scores, clean.labels) if labelled else np.full(1, np.nan)
    return RepairOutcome(auroc(scores, clean.labels) if labelled else float("nan"), draws, effects, len(scores))


def _effect(model: Model, clean: CleanSet, scores: NDArray[np.float32], stamp: Stamp, runtime: Runtime) -> Effect:
    target = model.description.classes.index(stamp.target)
    labels = clean.labels[:, target]
    rows = np.flatnonzero(labels == 0 if (labels >= 0).any() else labels == -1)
    images = clean.images[rows]
    places = stamp.places(len(rows), images.shape[1], stream(0, "repair places"))
    triggered = predict(model, stamp.on(images, places), runtime)[:, target]
    return Effect(
        stamp,
        {p: Count(int((triggered >= p).sum()), len(rows)) for p in THRESHOLDS},
        {p: Count(int((scores[rows, target] >= p).sum()), len(rows)) for p in THRESHOLDS},
    )


def change(before: RepairOutcome, after: RepairOutcome) -> tuple[float, float, float]:
    """How much AUROC was won, with its 95 % interval; both on the same images."""
    return after.auroc - before.auroc, *interval(after.draws - before.draws)


def _count(count: Count) -> dict[str, Any]:
    return {"hits": count.hits, "of": count.of, **value(count.share, *count.interval)}


def value(point: float, low: float, high: float) -> dict[str, float | None]:
    """A number with its interval for a JSON file; undefined is null."""
    named = {"value": point, "low": low, "high": high}
    return {name: None if np.isnan(number) else float(number) for name, number in named.items()}
