"""FeatureRE (Wang et al., NeurIPS 2022): triggers that meet on a hyperplane of features; adapted to several labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.cleanse import published
from benchmarks.peers.inversion import EMPTY, LEAST, Halves, Transforms, verdict
from petechia.core.progress import SILENT, Progress
from petechia.detect.audit.hosts import Hosts, own_rises
from petechia.detect.protocol import Calibration, Findings, ModelUnderTest

STEPS, BATCH = 60, 6  # of Adam, for all classes side by side; images per step
RATE, MASK_RATE = 0.01, 0.3
BOUND = 0.1  # of the grey scale: largest root mean square of an image's change
SHARE = 0.05  # of the features that a mask may cover
SPREAD, PENALTY = 0.5, 1.0  # of changed images' features, in mean spreads of clean ones; weight of what is above it
CLASSES = 16  # at a time


class Planes(NamedTuple):
    """A hyperplane for each of G classes, and the transform that leads there.

    Attributes:
        transforms: G of them.
        masks: float32 [G, 1, …] in 0…1, over the last map.
        points: float32 [G, 1, …], where changed images meet.
    """

    transforms: Transforms
    masks: Tensor
    points: Tensor


class FeatureHyperplane:
    """How far each class rises once a few features are those of transformed images.

    As in the paper, a transform and a mask are fitted for every class: where the mask is, an image's features are replaced by
    the mean of the transformed images' features, which must lie close together; the image's change and the mask's size are
    bounded. What differs: these two bounds are kept by construction; as classes do not exclude each other, a class is raised by
    its own logit, in standard deviations over clean images, and not by cross-entropy; and in place of a success of 90 % most
    images must newly reach a class, and its rise must be an outlier among those of all.
    """

    name: str = "FeatureRE"
    examines: Literal["dataset", "model", "images"] = "model"

    def calibrate(self, clean: Sequence[ModelUnderTest]) -> Calibration:
        """The threshold of Neural Cleanse; clean models are not used."""
        return published(self.name)

    def examine(self, subject: ModelUnderTest, calibration: Calibration, progress: Progress = SILENT) -> Findings:
        """Fit hyperplanes on one half of the clean images, judge on the other; a score is an anomaly index, see `verdict`."""
        calibration.require(self.name)
        classifier, half = subject.classifier, len(subject.clean) // 2
        fit, judge = (Hosts.of(classifier, some) for some in (subject.clean[: min(24, half)], subject.clean[half : half + 24]))
        halves = Halves.of(classifier, fit.images)
        parts = [
            judged(halves, judge, labels, planes(halves, fit, labels, progress))
            for labels in torch.split(torch.arange(len(classifier.classes)), CLASSES)
        ]
        rises, reached = (torch.cat(some) for some in zip(*parts, strict=True))
        return verdict(classifier, rises, reached, calibration)


def planes(halves: Halves, hosts: Hosts, labels: Tensor, progress: Progress = SILENT) -> Planes:
    """Fit hyperplanes for G classes, int [G], side by side."""
    images, rng = hosts.images, np.random.default_rng(0)
    transforms = Transforms(len(labels), tuple(images.shape[1:]), BOUND).to(images.device)
    with torch.no_grad():
        clean = halves.maps(images)
    start = torch.logit(torch.tensor(SHARE)).item()
    raw = torch.full((len(labels), 1, *clean.shape[1:]), start, device=clean.device, requires_grad=True)
    groups: list[dict[str, Any]] = [{"params": transforms.parameters()}, {"params": [raw], "lr": MASK_RATE}]
    optimizer = torch.optim.Adam(groups, lr=RATE)
    for _ in range(STEPS):
        rows = rng.choice(len(images), min(BATCH, len(images)), replace=False)
        masks, changed = small(raw.sigmoid()), _changed(halves, transforms, images[rows])
        logits = mixed(halves, clean[rows], masks, changed.mean(dim=1, keepdim=True))
        rises = own_rises(logits.cpu(), hosts.logits[rows], labels).mean(dim=1) / hosts.spread[labels].clamp(min=LEAST)
        loss = (PENALTY * excess(changed, clean[rows], masks).cpu() - rises).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        progress.advance()
    with torch.no_grad():
        return Planes(transforms, small(raw.sigmoid()), _changed(halves, transforms, images).mean(dim=1, keepdim=True))


@torch.no_grad()
def judged(halves: Halves, hosts: Hosts, labels: Tensor, found: Planes) -> tuple[Tensor, Tensor]:
    """By how much each class rises on other images, less the penalty, and the share that newly reach it, float32 [G] each."""
    clean = halves.maps(hosts.images)
    logits = mixed(halves, clean, found.masks, found.points).cpu()
    rises = own_rises(logits, hosts.logits, labels)
    before = hosts.logits[:, labels].T
    reached = ((before + rises > 0) & (before <= 0)).float().mean(dim=1)
    over = excess(_changed(halves, found.transforms, hosts.images), clean, found.masks).cpu()
    return rises.mean(dim=1) / hosts.spread[labels].clamp(min=LEAST) - PENALTY * over, reached


def mixed(halves: Halves, clean: Tensor, masks: Tensor, points: Tensor) -> Tensor:
    """Logits, float32 [G, B, K], of clean maps [B, …] that are at G points [G, 1, …] where the masks [G, 1, …] are 1."""
    maps = (1 - masks) * clean + masks * points
    return halves.logits(maps.flatten(0, 1)).reshape(*maps.shape[:2], -1)


def small(masks: Tensor) -> Tensor:
    """Masks [G, 1, …] in 0…1, those that cover more than `SHARE` scaled down to it."""
    size = masks.flatten(1).mean(dim=1).reshape(-1, *[1] * (masks.ndim - 1))
    return masks * (SHARE / size).clamp(max=1)


def excess(changed: Tensor, clean: Tensor, masks: Tensor) -> Tensor:
    """By how much the spread of changed images' features, where the masks are, is above its bound, float32 [G].

    It is measured in mean spreads of all features of clean images: the features of a trigger may have none of their own there.

    Args:
        changed: float32 [G, B, …], maps of changed images.
        clean: float32 [B, …], of the same images as they are.
        masks: float32 [G, 1, …] in 0…1.
    """
    masks = masks[:, 0].flatten(1)
    spread = (masks * changed.std(dim=1).flatten(1)).sum(dim=1) / (masks.sum(dim=1) + EMPTY)
    return (spread / (clean.std(dim=0).mean() + EMPTY) - SPREAD).clamp(min=0)


def _changed(halves: Halves, transforms: Transforms, images: Tensor) -> Tensor:
    """Last maps of changed images, float32 [G, B, …], with gradients."""
    changed = transforms(images)
    maps = halves.maps(changed.flatten(0, 1))
    return maps.reshape(*changed.shape[:2], *maps.shape[1:])
