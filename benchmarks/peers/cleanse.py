"""Neural Cleanse as published (Wang et al. 2019), in a single-label view; ART's runs on Keras networks alone."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.peers.measures import Scores
from benchmarks.peers.views import Floats, one_of
from petechia.models.classifier import Classifier

STEPS, BATCH, RATE = 300, 32, 0.1
BATCHES = 3  # over which success is counted: a pass over 100 images
COST, PATIENCE, HARDER = 1e-3, 5, 1.5  # first weight of the mask's size; steps until it changes, and by what factor
SUCCESS, SETTLED = 0.99, 10  # share of images that must be turned; checks without a smaller mask until it stops
OUTLIER = 2.0  # anomaly index from which a class is called backdoored


class Trigger(NamedTuple):
    """What turns images into a class.

    Attributes:
        size: sum of the mask.
        success: share of all clean images that it turns.
        steps: that it took.
    """

    size: float
    success: float
    steps: int


def judge(classifier: Classifier, fitted: Floats) -> dict[str, Any]:
    """The smallest trigger of every class, and the classes whose is an outlier among these."""
    chance = torch.Generator().manual_seed(0)
    images = torch.from_numpy(fitted)
    triggers = [reconstruct(classifier, images, k, chance) for k in range(len(classifier.classes))]
    index = anomaly(np.array([trigger.size for trigger in triggers]))
    names = classifier.classes
    return {
        "flagged": [name for name, value in zip(names, index, strict=True) if value > OUTLIER],
        "index": dict(zip(names, index.tolist(), strict=True)),
        "triggers": {name: trigger._asdict() for name, trigger in zip(names, triggers, strict=True)},
    }


def anomaly(sizes: Scores) -> Scores:
    """By how many deviations each size is below the median of all, above it 0; deviations are by the median too."""
    below = np.median(sizes) - sizes
    spread = 1.4826 * np.median(np.abs(below))
    return np.clip(below, 0, None) / max(float(spread), 1e-12)


class Price:
    """What a mask's size costs: more while it keeps turning images, less while it does not."""

    def __init__(self) -> None:
        self.value = COST
        self.moved: set[bool] = set()  # whether it was ever raised (True) and lowered (False)
        self._last, self._times = False, 0

    def hear(self, success: bool) -> None:
        """Of one more step."""
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
