"""MM-BD (Wang et al. 2024): the largest answers that any input gets, after the paper; adapted to several labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from benchmarks.peers.measures import Scores
from petechia.core.progress import SILENT, Progress
from petechia.detect.audit.hosts import answers
from petechia.detect.protocol import Calibration, Finding, Findings, ModelUnderTest
from petechia.models.classifier import Classifier

STARTS, STEPS, RATE = 4, 60, 0.1  # of gradient ascent, by Adam
SIGNIFICANT = 0.05


class MaximumMargin:
    """Gradient ascent over free inputs raises every class; the highest is compared with an exponential distribution.

    The paper's margin is over the other classes, which do not exclude each other here: a class is raised by its own logit.
    """

    name: str = "MM-BD"
    examines: Literal["dataset", "model", "images"] = "model"

    def calibrate(self, clean: Sequence[ModelUnderTest]) -> Calibration:
        """The significance of the paper; clean models are not used."""
        return Calibration(
            detector=self.name, measured_on="nothing: the significance of Wang et al. 2024", values={"p": SIGNIFICANT}
        )

    def examine(self, subject: ModelUnderTest, calibration: Calibration, progress: Progress = SILENT) -> Findings:
        """The score of a class is the negative logarithm of its p-value."""
        limit = calibration.require(self.name).values["p"]
        classifier = subject.classifier
        p_values = order_statistic(largest_logits(classifier, classifier.tensor(subject.clean[:1]).shape[1:]))
        found = tuple(
            Finding(about=name, kind="class", score=-float(np.log(max(p, 1e-300))), flagged=bool(p <= limit), p_value=float(p))
            for name, p in zip(classifier.classes, p_values, strict=True)
        )
        return Findings(detector=self.name, measured_on=calibration.measured_on, found=found)


def largest_logits(classifier: Classifier, shape: Sequence[int], seed: int = 0) -> Scores:
    """The largest logit of every class over inputs in 0…1 of a shape [C, H, W], float64 [K]."""
    count = len(classifier.classes)
    device = classifier.runtime.device
    free = torch.rand(count, STARTS, *shape, generator=torch.Generator().manual_seed(seed)).to(device).requires_grad_(True)
    optimizer = torch.optim.Adam([free], lr=RATE)
    own = torch.arange(count, device=device)[:, None, None].expand(-1, STARTS, 1)
    best = torch.full((count,), -torch.inf, device=device)
    for _ in range(STEPS):
        logits = answers(classifier, free).gather(2, own)[..., 0]
        best = torch.maximum(best, logits.detach().amax(dim=1))
        optimizer.zero_grad()
        (-logits.sum()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            free.clamp_(0, 1)
    return best.cpu().double().numpy()


def order_statistic(margins: Scores) -> Scores:
    """The chance that the largest of K draws is as large: of an exponential distribution, fitted to all but the largest."""
    positive = margins - min(0.0, float(margins.min()))
    mean = max(float(np.sort(positive)[:-1].mean()), 1e-9)
    return np.asarray(-np.expm1(len(positive) * np.log1p(-np.exp(-np.maximum(positive, 1e-12) / mean))))
