"""BTI-DBF (Xu et al., ICLR 2024): features that carry the answers stay, all others move; adapted to several labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.peers.cleanse import published
from benchmarks.peers.inversion import LEAST, Halves, Transforms, verdict
from petechia.core.progress import SILENT, Progress
from petechia.detect.audit.hosts import Hosts
from petechia.detect.protocol import Calibration, Findings, ModelUnderTest

MASK_STEPS, MASK_RATE = 200, 0.01  # of Adam
STEPS, BATCH, RATE = 300, 16, 0.01
BOUND = 0.1  # of the grey scale: largest root mean square of an image's change


class DecoupledFeatures:
    """The class that images move to once everything but their benign features has moved.

    As in the paper, its first step decouples benign features, and its second inverts the trigger, for all classes at once. What
    differs: clean images have no labels, so benign features are those that carry the model's own answers; a mask has one value
    per channel; and as classes do not exclude each other, the class that images move to is one that most of them newly reach
    and whose logit rises beyond those of the others, in standard deviations over clean images.
    """

    name: str = "BTI-DBF"
    examines: Literal["dataset", "model", "images"] = "model"

    def calibrate(self, clean: Sequence[ModelUnderTest]) -> Calibration:
        """The threshold of Neural Cleanse; clean models are not used."""
        return published(self.name)

    def examine(self, subject: ModelUnderTest, calibration: Calibration, progress: Progress = SILENT) -> Findings:
        """Invert on one half of the clean images, judge on the other; a class's score is its anomaly index, see `verdict`."""
        calibration.require(self.name)
        classifier, half = subject.classifier, len(subject.clean) // 2
        fit, judge = (Hosts.of(classifier, some) for some in (subject.clean[:half], subject.clean[half : half + 40]))
        halves = Halves.of(classifier, fit.images)
        transform = inverted(halves, fit.images, benign(halves, fit), progress)
        with torch.no_grad():
            logits = classifier.logits(transform(judge.images)[0])
        rises = (logits - judge.logits).mean(dim=0) / judge.spread.clamp(min=LEAST)
        reached = ((logits > 0) & (judge.logits <= 0)).float().mean(dim=0)
        return verdict(classifier, rises, reached, calibration)


def benign(halves: Halves, hosts: Hosts) -> Tensor:
    """The channels of the last map that carry the answers (step 1 of the paper).

    With them alone the model answers as before, without them it does not; and the mask is to be small. With a weight as low as
    0.72 every channel of a multi-label network is benign, and nothing is left to invert; here the whole mask costs as much as
    it gains.

    Returns:
        float32 [1, …] in 0…1, one value a channel.
    """
    with torch.no_grad():
        maps, answers = halves.maps(hosts.images), hosts.logits.to(hosts.images.device).sigmoid()
        gain = 2 * (_difference(halves.logits(0 * maps), answers) - _difference(halves.logits(maps), answers))
    shape = [size if axis == halves.channels else 1 for axis, size in enumerate(maps.shape)]
    mask = torch.ones(shape, device=maps.device, requires_grad=True)
    optimizer = torch.optim.Adam([mask], lr=MASK_RATE)
    for _ in range(MASK_STEPS):
        kept, lost = halves.logits(torch.cat([maps * mask, maps * (1 - mask)])).chunk(2)
        loss = _difference(kept, answers) - _difference(lost, answers) + gain * mask.mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            mask.clamp_(0, 1)
    return mask.detach()


def inverted(halves: Halves, images: Tensor, mask: Tensor, progress: Progress = SILENT) -> Transforms:
    """A transform that moves what a mask leaves out, and keeps what it holds (step 2 of the paper)."""
    transform, rng = Transforms(1, tuple(images.shape[1:]), BOUND).to(images.device), np.random.default_rng(0)
    optimizer = torch.optim.Adam(transform.parameters(), lr=RATE)
    with torch.no_grad():
        clean = halves.maps(images)
    for _ in range(STEPS):
        rows = rng.choice(len(images), min(BATCH, len(images)), replace=False)
        moved = halves.maps(transform(images[rows])[0]) - clean[rows]
        loss = (mask * moved).square().mean() - ((1 - mask) * moved).square().mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        progress.advance()
    return transform


def _difference(logits: Tensor, answers: Tensor) -> Tensor:
    """Cross-entropy with answers in 0…1, [B, K]: the sum over classes, the mean over images."""
    return functional.binary_cross_entropy_with_logits(logits, answers, reduction="none").sum(dim=1).mean()
