"""Neural Cleanse as published (Wang et al. 2019), in a single-label view; ART's takes Keras networks only."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.peers.measures import Scores
from benchmarks.peers.views import floats, one_of
from petechia.core.progress import SILENT, Progress
from petechia.detect.protocol import Calibration, Finding, Findings, ImagesUnderTest, ModelUnderTest
from petechia.models.classifier import Classifier

STEPS, BATCH, RATE = 300, 32, 0.1
BATCHES = 3  # over which success is counted: a pass over 100 images
COST, PATIENCE, HARDER = 1e-3, 5, 1.5  # first weight of the mask's size; steps until it changes, and by what factor
SUCCESS, SETTLED = 0.99, 10  # share of images that must be turned; checks without a smaller mask until it stops
OUTLIER = 2.0  # anomaly index from which a class is called backdoored


def published(detector: str) -> Calibration:
    """The threshold of the paper, for detectors that look for outliers as it does."""
    return Calibration(detector=detector, measured_on="nothing: the threshold of Wang et al. 2019", values={"outlier": OUTLIER})


class Trigger(NamedTuple):
    """A trigger that turns images into a class.

    Attributes:
        size: sum of the mask.
        success: share of all clean images that it turns.
        steps: of the optimisation.
    """

    size: float
    success: float
    steps: int


class NeuralCleanse:
    """The smallest trigger of every class, and the classes whose trigger is an outlier among these."""

    name: str = "Neural Cleanse"
    examines: Literal["dataset", "model", "images"] = "model"

    def calibrate(self, clean: Sequence[ModelUnderTest]) -> Calibration:
        """The threshold of the paper; clean models are not used."""
        return published(self.name)

    def examine(self, subject: ModelUnderTest, calibration: Calibration, progress: Progress = SILENT) -> Findings:
        """Reconstruct a trigger for every class; a class's score is its anomaly index."""
        outlier = calibration.require(self.name).values["outlier"]
        classifier, chance = subject.classifier, torch.Generator().manual_seed(0)
        images = torch.from_numpy(floats(ImagesUnderTest(classifier, subject.clean)))
        triggers = []
        for k in range(len(classifier.classes)):
            triggers.append(reconstruct(classifier, images, k, chance))
            progress.advance()
        index = anomaly(np.array([trigger.size for trigger in triggers]))
        found = tuple(
            Finding(about=name, kind="class", score=value, flagged=value > outlier, threshold=outlier, evidence=one._asdict())
            for name, value, one in zip(classifier.classes, index.tolist(), triggers, strict=True)
        )
        return Findings(detector=self.name, measured_on=calibration.measured_on, found=found)


def anomaly(sizes: Scores) -> Scores:
    """By how many median absolute deviations each size is below the median; 0 above it."""
    below = np.median(sizes) - sizes
    spread = 1.4826 * np.median(np.abs(below))
    return np.clip(below, 0, None) / max(float(spread), 1e-12)


class Price:
    """The weight of a mask's size in the loss: it rises while the mask turns images, and falls while it does not."""

    def __init__(self) -> None:
        self.value = COST
        self.moved: set[bool] = set()  # True once it was raised, False once it was lowered
        self._last, self._times = False, 0

    def hear(self, success: bool) -> None:
        """Take the outcome of one more step into account."""
        self._times = self._times + 1 if success == self._last else 1
        self._last = success
        if self._times == PATIENCE:
            self._times = 0
            self.moved.add(success)
            self.value *= HARDER if success else HARDER**-1.5


def reconstruct(classifier: Classifier, images: Tensor, target: int, chance: torch.Generator) -> Trigger:
    """A mask and a pattern that turn images into the target; the mask is made as small as success allows."""
    raw = [torch.rand(1, *images.shape[2:], generator=chance), torch.rand(images.shape[1:], generator=chance)]
    optimizer = torch.optim.Adam([part.requires_grad_() for part in raw], lr=RATE, betas=(0.5, 0.9))
    price, smallest, best, still, steps = Price(), float("inf"), raw, 0, 0
    turned: deque[float] = deque(maxlen=BATCHES)
    while steps < STEPS and not (len(price.moved) == 2 and still >= SETTLED):
        steps += 1
        mask, pattern = units = _units(raw)
        some = images[torch.randint(len(images), (BATCH,), generator=chance)]
        answer = _answer(classifier, some * (1 - mask) + mask * pattern)
        loss = functional.cross_entropy(answer, torch.full((BATCH,), target)) + price.value * mask.sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        turned.append(float((answer.argmax(dim=1) == target).float().mean()))
        success = sum(turned) / len(turned) >= SUCCESS
        price.hear(success)
        size = float(mask.detach().sum())
        still = 0 if success and size < SUCCESS * smallest else still + (smallest < float("inf"))
        if (success and size < smallest) or smallest == float("inf"):  # until one succeeds, the last
            best, smallest = [part.detach() for part in units], size if success else smallest
    mask, pattern = best
    with torch.no_grad():
        found = _answer(classifier, images * (1 - mask) + mask * pattern).argmax(dim=1) == target
    return Trigger(float(mask.sum()), float(found.float().mean()), steps)


def _answer(classifier: Classifier, images: Tensor) -> Tensor:
    with classifier.runtime.autocast():
        return one_of(classifier.answer(images).float())


def _units(raw: list[Tensor]) -> list[Tensor]:
    """In 0…1."""
    return [part.tanh() / 2 + 0.5 for part in raw]
