"""Find the smallest change, of any shape, that raises a class in every image: what a trigger is to a backdoored model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from petechia.core.progress import SILENT, Progress
from petechia.detect.audit.hosts import Hosts, answers, own_rises
from petechia.models.classifier import Classifier

STEPS = 60
AT_A_TIME = 4  # hosts per step
RATE = 0.2  # of Adam
START = -4.0  # of the mask, before the sigmoid: 2 % opaque everywhere
WANTED = 6.0  # standard deviations of a class's clean logits by which it must be moved
ENOUGH = 0.95  # share of hosts that must be moved
WEIGHT, GROWTH = 0.02, 1.15  # of the mask's size in the loss, and the factor by which it changes every step
LABELS_AT_A_TIME = 32


class Reconstruction(NamedTuple):
    """The smallest trigger that was found for a class.

    Attributes:
        label: position of the class that it raises.
        mask: float32 [H, W], its opacity.
        pattern: float32 [C, H, W] in 0…1, its grey levels.
        size: sum of the mask, in pixels; infinite where no trigger raised it far enough.
        moved: share of the hosts whose class it raises as far as wanted.
    """

    label: int
    mask: NDArray[np.float32]
    pattern: NDArray[np.float32]
    size: float
    moved: float


def reconstruct(
    classifier: Classifier,
    hosts: Hosts,
    labels: Sequence[int],
    spread: Tensor,
    steps: int = STEPS,
    seed: int = 0,
    progress: Progress = SILENT,
) -> list[Reconstruction]:
    """Neural Cleanse (Wang et al. 2019, section IV), for several labels: all classes are optimized side by side.

    A trigger need not make its class win over the others, since classes of a multi-label model do not exclude each other. It
    must raise the class's own logit by `WANTED` standard deviations. As in the paper, the weight of the mask's size rises while
    this is reached and falls while it is not.

    Args:
        classifier: the model that is audited; its network is needed.
        hosts: clean images with their logits.
        labels: positions of the classes to raise.
        spread: float32 [K], standard deviations of the clean logits.
        steps: of the optimizer.
        seed: of the choice of hosts for each step.
        progress: advanced by every image that the model answers.

    Raises:
        PetechiaError: the model is a black box.
    """
    found = []
    for start in range(0, len(labels), LABELS_AT_A_TIME):
        problem = _Problem.of(classifier, hosts, labels[start : start + LABELS_AT_A_TIME], spread)
        found += _side_by_side(problem, steps, seed, progress)
    return found


class _Problem(NamedTuple):
    """G classes to raise, with the model and the images that this is for.

    Attributes:
        classifier: the model.
        images: float32 [B, C, H, W], the hosts.
        clean: float32 [B, K], their logits.
        labels: int [G], the classes.
        scale: float32 [G], standard deviations of their clean logits.
    """

    classifier: Classifier
    images: Tensor
    clean: Tensor
    labels: Tensor
    scale: Tensor

    @staticmethod
    def of(classifier: Classifier, hosts: Hosts, labels: Sequence[int], spread: Tensor) -> _Problem:
        device = hosts.images.device
        for parameter in classifier.require_network().parameters():
            parameter.requires_grad_(False)
        which = torch.tensor(labels, device=device)
        return _Problem(classifier, hosts.images, hosts.logits.to(device), which, spread.to(device)[which])

    def shift(self, rows: Tensor | slice, mask: Tensor, pattern: Tensor, which: slice = slice(None)) -> Tensor:
        """By how many standard deviations the triggers raise their classes, float32 [G, B]."""
        images, clean, labels = self.images[rows], self.clean[rows], self.labels[which]
        logits = answers(self.classifier, (1 - mask) * images + mask * pattern)
        return own_rises(logits, clean, labels) / self.scale[which][:, None]


def _side_by_side(problem: _Problem, steps: int, seed: int, progress: Progress) -> list[Reconstruction]:
    count, device = len(problem.labels), problem.images.device
    opacity = torch.full((count, 1, 1, *problem.images.shape[2:]), START, device=device, requires_grad=True)
    levels = torch.zeros(count, 1, *problem.images.shape[1:], device=device, requires_grad=True)
    optimizer = torch.optim.Adam([opacity, levels], lr=RATE, betas=(0.5, 0.9))
    weight = torch.full((count,), WEIGHT, device=device)
    best = _Best(count, problem.images.shape[1:], device)
    chance = np.random.default_rng(seed)
    for _ in range(steps):
        rows = chance.choice(len(problem.images), min(AT_A_TIME, len(problem.images)), replace=False)
        mask, pattern = opacity.sigmoid(), levels.sigmoid()
        shift = problem.shift(torch.from_numpy(rows).to(device), mask, pattern)
        size = mask.sum(dim=(1, 2, 3, 4))
        loss = functional.relu(1.25 * WANTED - shift).mean(dim=1) + weight * size
        optimizer.zero_grad()
        loss.sum().backward()  # type: ignore[no-untyped-call]
        reached = (shift.detach() >= WANTED).float().mean(dim=1) >= ENOUGH
        best.keep(reached, size.detach(), mask.detach(), pattern.detach())
        weight *= torch.where(reached, GROWTH, 1 / GROWTH)
        weight.clamp_(1e-4, 10)
        optimizer.step()
        progress.advance(count * len(rows))
    return best.checked(problem)


class _Best:
    """The smallest trigger of every class that is raised far enough."""

    def __init__(self, count: int, shape: torch.Size, device: torch.device) -> None:
        self.size = torch.full((count,), float("inf"), device=device)
        self.mask = torch.zeros(count, 1, 1, *shape[1:], device=device)
        self.pattern = torch.zeros(count, 1, *shape, device=device)

    def keep(self, reached: Tensor, size: Tensor, mask: Tensor, pattern: Tensor) -> None:
        better = reached & (size < self.size)
        self.size[better], self.mask[better], self.pattern[better] = size[better], mask[better], pattern[better]

    def checked(self, problem: _Problem) -> list[Reconstruction]:
        """With what each does on all hosts."""
        found = []
        with torch.inference_mode():
            for n, label in enumerate(problem.labels.tolist()):
                one = slice(n, n + 1)
                shift = problem.shift(slice(None), self.mask[one], self.pattern[one], one)[0]
                moved = float((shift >= WANTED).float().mean())
                mask, pattern = self.mask[n, 0, 0].cpu().numpy(), self.pattern[n, 0].cpu().numpy()
                found.append(Reconstruction(label, mask, pattern, float(self.size[n]), moved))
        return found
