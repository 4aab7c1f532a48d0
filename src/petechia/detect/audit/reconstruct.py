"""Find the smallest change, of any shape, that moves a class in every image: what a trigger is to a backdoored model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from petechia.core.progress import SILENT, Progress
from petechia.models.classifier import Classifier

STEPS = 100
AT_A_TIME = 4  # hosts a step
RATE = 0.1  # of Adam
START = -4.0  # of the mask, before the sigmoid: 2 % opaque everywhere
WANTED = 6.0  # by how many standard deviations of a class's clean logits it is to be moved
ENOUGH = 0.95  # share of hosts that must be moved
WEIGHT, GROWTH = 0.02, 1.15  # of the mask's size in the loss, and by how much it changes every step
GOALS_AT_A_TIME = 32


class Goal(NamedTuple):
    """What a trigger is to do: raise a class, or lower it."""

    label: int
    up: bool


class Reconstruction(NamedTuple):
    """The smallest trigger that was found for a goal.

    Attributes:
        goal: what it does.
        mask: float32 [H, W], its opacity.
        pattern: float32 [C, H, W] in 0…1, its grey levels.
        size: sum of the mask, in pixels; infinite where nothing was found that does it.
        moved: share of the hosts whose class it moves as far as wanted.
    """

    goal: Goal
    mask: NDArray[np.float32]
    pattern: NDArray[np.float32]
    size: float
    moved: float


def reconstruct(
    classifier: Classifier,
    hosts: Tensor,
    goals: Sequence[Goal],
    spread: Tensor,
    steps: int = STEPS,
    seed: int = 0,
    progress: Progress = SILENT,
) -> list[Reconstruction]:
    """Neural Cleanse (Wang et al. 2019, section IV), for many labels: all goals are optimised side by side.

    A goal is not to win over other classes, which need not exclude each other, but to move the class's own logit by `WANTED`
    standard deviations. As there, the weight of the mask's size rises while the goal is reached and falls while it is not.

    Args:
        classifier: that is audited; its network is needed.
        hosts: float32 [B, C, H, W], clean images.
        goals: what triggers are to do.
        spread: float32 [K], standard deviations of the clean logits.
        steps: of the optimiser.
        seed: of the choice of hosts for each step.
        progress: told of every answered image.

    Raises:
        PetechiaError: the model is a black box.
    """
    found = []
    for start in range(0, len(goals), GOALS_AT_A_TIME):
        found += _side_by_side(classifier, hosts, goals[start : start + GOALS_AT_A_TIME], spread, steps, seed, progress)
    return found


def _side_by_side(
    classifier: Classifier,
    hosts: Tensor,
    goals: Sequence[Goal],
    spread: Tensor,
    steps: int,
    seed: int,
    progress: Progress,
) -> list[Reconstruction]:
    network, device = classifier.require_network(), hosts.device
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    clean = classifier.logits(hosts).to(device)
    index = torch.tensor([goal.label for goal in goals], device=device)
    sign = torch.tensor([1.0 if goal.up else -1.0 for goal in goals], device=device)
    scale = spread.to(device)[index]
    opacity = torch.full((len(goals), 1, 1, *hosts.shape[2:]), START, device=device, requires_grad=True)
    levels = torch.zeros(len(goals), 1, *hosts.shape[1:], device=device, requires_grad=True)
    optimizer = torch.optim.Adam([opacity, levels], lr=RATE, betas=(0.5, 0.9))
    weight = torch.full((len(goals),), WEIGHT, device=device)
    best = _Best(len(goals), hosts.shape[1:], device)
    chance = np.random.default_rng(seed)
    for _ in range(steps):
        rows = torch.from_numpy(chance.choice(len(hosts), min(AT_A_TIME, len(hosts)), replace=False)).to(device)
        mask, pattern = opacity.sigmoid(), levels.sigmoid()
        shift = _shift(classifier, hosts[rows], clean[rows], mask, pattern, index) * sign[:, None] / scale[:, None]
        size = mask.sum(dim=(1, 2, 3, 4))
        loss = functional.relu(1.25 * WANTED - shift).mean(dim=1) + weight * size
        optimizer.zero_grad()
        loss.sum().backward()  # type: ignore[no-untyped-call]
        reached = (shift.detach() >= WANTED).float().mean(dim=1) >= ENOUGH
        best.keep(reached, size.detach(), mask.detach(), pattern.detach())
        weight *= torch.where(reached, GROWTH, 1 / GROWTH)
        weight.clamp_(1e-4, 10)
        optimizer.step()
        progress.advance(len(goals) * len(rows))
    return best.checked(classifier, hosts, clean, goals, sign, scale, index)


def _shift(classifier: Classifier, hosts: Tensor, clean: Tensor, mask: Tensor, pattern: Tensor, index: Tensor) -> Tensor:
    """By how much each goal's trigger moves its class on each host, float32 [G, B]."""
    stamped = (1 - mask) * hosts + mask * pattern
    flat = stamped.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    with classifier.runtime.autocast():
        logits = classifier.answer(flat).float().reshape(*stamped.shape[:2], -1)
    which = index[:, None, None].expand(-1, len(hosts), 1)
    shift: Tensor = logits.gather(2, which)[..., 0] - clean[:, index].T
    return shift


class _Best:
    """The smallest trigger of every goal that reached it."""

    def __init__(self, goals: int, shape: torch.Size, device: torch.device) -> None:
        self.size = torch.full((goals,), float("inf"), device=device)
        self.mask = torch.zeros(goals, 1, 1, *shape[1:], device=device)
        self.pattern = torch.zeros(goals, 1, *shape, device=device)

    def keep(self, reached: Tensor, size: Tensor, mask: Tensor, pattern: Tensor) -> None:
        better = reached & (size < self.size)
        self.size[better], self.mask[better], self.pattern[better] = size[better], mask[better], pattern[better]

    def checked(
        self,
        classifier: Classifier,
        hosts: Tensor,
        clean: Tensor,
        goals: Sequence[Goal],
        sign: Tensor,
        scale: Tensor,
        index: Tensor,
    ) -> list[Reconstruction]:
        """With what each does on all hosts."""
        found = []
        with torch.inference_mode():
            for n, goal in enumerate(goals):
                one = slice(n, n + 1)
                shift = _shift(classifier, hosts, clean, self.mask[one], self.pattern[one], index[one])[0] * sign[n] / scale[n]
                moved = float((shift >= WANTED).float().mean())
                mask, pattern = self.mask[n, 0, 0].cpu().numpy(), self.pattern[n, 0].cpu().numpy()
                found.append(Reconstruction(goal, mask, pattern, float(self.size[n]), moved))
        return found
