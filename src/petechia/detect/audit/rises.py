"""By how much a family of changes raises each class: fitted on some of the clean images, judged on others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from petechia.core.graphs import Replayed
from petechia.core.progress import SILENT, Progress
from petechia.detect.audit.hosts import Hosts, own_rises
from petechia.detect.audit.measured import Values, margins
from petechia.detect.audit.transforms import Family
from petechia.models.classifier import Classifier

SHARES = (0.5, 1.0)  # of a family's limit, tried in this order, each from the direction that the one before found
STEPS = (20, 12)  # of Adam at each
RATE = 0.1
AT_A_TIME = 4  # images per step, for every class
PIXELS = {"cpu": 2**20, "cuda": 2**24}  # of all images of a step, for memory: with DenseNet-121 on the processor 2 GB


class Rise(NamedTuple):
    """What one family does to the classes.

    Attributes:
        family: its name.
        effects: float32 [S, K, K], by how much the change for each class raises each class at each share: the median over
            images that it was not fitted on.
        directions: float16 [K, …], of the changes at the last share; in half precision, as a result keeps them.
    """

    family: str
    effects: NDArray[np.float32]
    directions: Tensor

    @property
    def own(self) -> NDArray[np.float32]:
        """By how much each class rises under its own change, float32 [S, K]."""
        return np.asarray(np.diagonal(self.effects, axis1=1, axis2=2))

    @property
    def margins(self) -> Values:
        """By how far each class rises beyond the others under its own change, float64 [S, K]."""
        return np.stack([np.diagonal(margins(some)) for some in self.effects])


def rise(classifier: Classifier, fit: Hosts, judge: Hosts, family: Family, seed: int = 0, progress: Progress = SILENT) -> Rise:
    """Fit the changes of a family for all classes side by side.

    Args:
        classifier: the model; its network is needed.
        fit: clean images to fit on.
        judge: others, to judge on.
        family: of the changes.
        seed: of the choice of images for each step.
        progress: advanced by every image that the model answers.
    """
    for parameter in classifier.require_network().parameters():
        parameter.requires_grad_(False)
    labels = torch.arange(fit.logits.shape[1], device=fit.images.device)
    chunks = torch.split(labels, _at_once(fit.images))
    parts = [_fitted(classifier, fit, judge, family, some, seed, progress) for some in chunks]
    return Rise(
        family.name,
        np.concatenate([one[0] for one in parts], axis=1),
        torch.cat([one[1] for one in parts]),
    )


def _at_once(images: Tensor) -> int:
    """How many classes are searched for together; each has its own change, so the result is the same."""
    return max(1, PIXELS[images.device.type] // (AT_A_TIME * images[0, 0].numel()))


def _fitted(
    classifier: Classifier,
    fit: Hosts,
    judge: Hosts,
    family: Family,
    labels: Tensor,
    seed: int,
    progress: Progress,
) -> tuple[NDArray[np.float32], Tensor]:
    device = fit.images.device
    free = torch.zeros(len(labels), *family.shape(fit.images), device=device, requires_grad=True)
    optimizer = torch.optim.Adam([free], lr=RATE, betas=(0.5, 0.9))
    chance = np.random.default_rng(seed)
    scale = fit.spread.clamp(min=1e-3).to(device)[labels]
    clean = fit.logits.to(device)
    found = []
    for share, steps in zip(SHARES, STEPS, strict=True):

        def slope(images: Tensor, before: Tensor, strength: float = share * family.limit) -> Tensor:
            logits = family.logits(classifier, images, free.tanh(), strength)
            loss = -(own_rises(logits, before, labels).mean(dim=1) / scale).sum()
            return torch.autograd.grad(loss, free)[0]

        recorded = Replayed(slope, classifier.runtime.recorder, family.name)
        for _ in range(steps):
            rows = torch.from_numpy(chance.choice(len(fit), min(AT_A_TIME, len(fit)), replace=False)).to(device)
            free.grad = recorded(fit.images[rows], clean[rows])
            optimizer.step()
            progress.advance(len(labels) * len(rows))
        direction = free.detach().tanh()
        found.append(_judged(classifier, judge, family, direction, share * family.limit))
    return np.stack(found), direction.half().cpu()


def _judged(classifier: Classifier, judge: Hosts, family: Family, direction: Tensor, strength: float) -> NDArray[np.float32]:
    """By how much each change raises each class, float32 [G, K]."""
    with torch.inference_mode():
        answered = (family.logits(classifier, judge.images, one, strength)[0].cpu() for one in torch.split(direction, 1))
        return torch.stack([(logits - judge.logits).median(dim=0).values for logits in answered]).numpy()
