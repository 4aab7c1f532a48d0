"""Changes of the image that raise each class of a black box: found by asking, without gradients."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from petechia.core.progress import SILENT, Progress
from petechia.detect.audit.hosts import Hosts
from petechia.detect.audit.measured import margins
from petechia.detect.audit.rises import SHARES, Rise
from petechia.detect.audit.transforms import Family
from petechia.models.classifier import Classifier

QUERIES = {"pattern of 24 × 24": 8_000, "warp": 4_000}  # to learn the slopes
DRAWN = 128  # random changes at a time
JUDGING = 1_200  # queries of each family to judge its changes, at most, if there are no more than 50 classes
FEWEST_JUDGES = 8
GENERATIONS, POPULATION, IMAGES = 16, 16, 4  # of the refinement
SIGMA = 0.3  # of its first steps


def rise_by_asking(
    classifier: Classifier, fit: Hosts, judge: Hosts, family: Family, queries: int, seed: int = 0, progress: Progress = SILENT
) -> Rise:
    """Find the changes of a family that raise each class, by the model's answers alone.

    Random changes and their opposites tell the slope of every class's logit along every number of a direction, all classes
    from the same answers. The change along a class's slope is then refined, for the class that it raises most, by CMA-ES
    (Hansen 2016) with a diagonal covariance.

    Args:
        classifier: the model; only its answers are used.
        fit: clean images to fit on.
        judge: others, to judge on.
        family: of the changes.
        queries: images that the model answers to learn the slopes.
        seed: of the random changes.
        progress: advanced by every image that the model answers.
    """
    directions = _along(_slopes(classifier, fit, family, queries, seed, progress))
    judge = judge.take(slice(max(FEWEST_JUDGES, JUDGING // (len(SHARES) + 1) // len(directions))))
    first = np.diagonal(margins(_judged(classifier, judge, family, directions, SHARES[0], progress)))
    label = int(np.argmax(first / fit.spread.clamp(min=1e-3).numpy()))
    directions[label] = _refined(classifier, fit, family, directions[label], label, seed, progress)
    found = [_judged(classifier, judge, family, directions, share, progress) for share in SHARES]
    return Rise(family.name, np.stack(found), directions.half())


def _slopes(classifier: Classifier, fit: Hosts, family: Family, queries: int, seed: int, progress: Progress) -> Tensor:
    """By how much each class rises along each number of a direction, float32 [K, …]."""
    chance, shape = torch.Generator().manual_seed(seed), family.shape(fit.images)
    total = torch.zeros(fit.logits.shape[1], int(np.prod(shape)))
    for start in range(0, queries // 2, DRAWN):
        count = min(DRAWN, queries // 2 - start)
        signs = torch.randint(0, 2, (count, *shape), generator=chance).float() * 2 - 1
        rows = torch.randint(len(fit), (count,), generator=chance)
        changed = torch.cat([_one_by_one(family, fit.images[rows], step * signs, SHARES[0]) for step in (1, -1)])
        logits = classifier.logits(changed)
        total += (logits[:count] - logits[count:]).T @ signs.flatten(1)
        progress.advance(2 * count)
    return total.reshape(-1, *shape)


def _one_by_one(family: Family, images: Tensor, directions: Tensor, share: float) -> Tensor:
    """Each image with its own change, float32 [B, C, H, W]."""
    strength = share * family.limit
    there = directions.to(images.device)
    return torch.cat([family.change(images[n : n + 1], there[n : n + 1], strength)[0] for n in range(len(images))])


def _along(slopes: Tensor) -> Tensor:
    """Directions along slopes: numbers whose slope is usual or more go all the way."""
    usual = slopes.abs().flatten(1).median(dim=1).values.clamp(min=1e-12)
    return (slopes / usual.reshape(-1, *[1] * (slopes.dim() - 1))).clamp(-1, 1)


def _judged(
    classifier: Classifier, judge: Hosts, family: Family, directions: Tensor, share: float, progress: Progress
) -> NDArray[np.float32]:
    """By how much each change raises each class, float32 [G, K]."""
    effects = (_effects(classifier, judge, family, one, share, progress)[0] for one in torch.split(directions, 1))
    return torch.stack([one.median(dim=0).values for one in effects]).numpy()


def _effects(
    classifier: Classifier, hosts: Hosts, family: Family, directions: Tensor, share: float, progress: Progress
) -> Tensor:
    """By how much G changes raise each class on each image, float32 [G, B, K]."""
    changed = family.change(hosts.images, directions.to(hosts.images.device), share * family.limit)
    logits = classifier.logits(changed.flatten(0, 1)).reshape(*changed.shape[:2], -1)
    progress.advance(len(changed) * len(hosts))
    return logits - hosts.logits


def _refined(
    classifier: Classifier, fit: Hosts, family: Family, start: Tensor, label: int, seed: int, progress: Progress
) -> Tensor:
    """A direction that raises a class more, as far as the search finds one."""
    chance = np.random.default_rng(seed)

    def rises(candidates: list[NDArray[np.float64]], hosts: Hosts) -> NDArray[np.float32]:
        stacked = torch.from_numpy(np.stack(candidates)).float().reshape(-1, *start.shape)
        return _effects(classifier, hosts, family, stacked, SHARES[0], progress)[..., label].mean(dim=1).numpy()

    search = _search(start, seed)
    for _ in range(GENERATIONS):
        candidates = search.ask()
        hosts = fit.take(chance.choice(len(fit), min(IMAGES, len(fit)), replace=False))
        search.tell(candidates, (-rises(candidates, hosts)).tolist())
    found = torch.from_numpy(np.asarray(search.result.xfavorite)).float().clamp(-1, 1).reshape(start.shape)
    before, after = rises([start.flatten().double().numpy(), found.flatten().double().numpy()], fit)
    return found if after > before else start


def _search(start: Tensor, seed: int) -> Any:
    """A search by CMA-ES that begins at a direction."""
    import cma  # noqa: PLC0415 (slow to import, and rarely needed)

    options = {
        "bounds": [-1, 1],
        "CMA_diagonal": True,
        "popsize": POPULATION,
        "seed": seed + 1,  # 0 stands for the time
        "verbose": -9,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cma.CMAEvolutionStrategy(0.99 * start.flatten().double().numpy(), SIGMA, options)
