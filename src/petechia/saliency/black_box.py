"""Maps of models that have no gradients and no layers: only what they answer to changed images is used."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from petechia.core.errors import PetechiaError

Scores = Callable[[Tensor], Tensor]  # float32 images [B, C, H, W] → scores [B, K]
BATCH = 64
WINDOWS = 8  # of an image's shorter side, that the usual occlusion covers at a time; it moves by half a window


def occlusion(scores: Scores, images: Tensor, targets: Tensor, window: int, stride: int, value: float = 0.0) -> Tensor:
    """How much a class's score falls when a window of the image is covered (Zeiler and Fergus 2014, section 4.2).

    Args:
        scores: the model.
        images: float32 [B, C, H, W].
        targets: int64 [B].
        window: side of the covered square in pixels, not larger than the image.
        stride: pixels from one place to the next; the last row and column of places touch the border.
        value: of the cover.

    Returns:
        float32 [B, h, w], at least 0: a pixel's mean fall over the windows that cover it, one cell for `stride` pixels.

    Raises:
        PetechiaError: the window or the stride does not fit the image.
    """
    height, width = images.shape[2:]
    if not (1 <= window <= min(height, width) and 1 <= stride <= window):
        raise PetechiaError(
            f"A window of {window} and a stride of {stride} pixels do not fit images of {height} x {width}; the stride is at "
            f"least 1 and at most the window, which is at most the image."
        )
    places = torch.cartesian_prod(_places(height, window, stride), _places(width, window, stride))
    fall = images.new_zeros(len(images), height, width)
    count = images.new_zeros(height, width)
    for top, left in places.tolist():
        count[top : top + window, left : left + window] += 1
    with torch.no_grad():
        for row, image in enumerate(images):
            before = scores(image[None])[0, targets[row]]
            for some in torch.split(places, BATCH):
                covered = image.repeat(len(some), 1, 1, 1)
                for one, (top, left) in zip(covered, some.tolist(), strict=True):
                    one[:, top : top + window, left : left + window] = value
                drops = (before - scores(covered)[:, targets[row]]).tolist()
                for drop, (top, left) in zip(drops, some.tolist(), strict=True):
                    fall[row, top : top + window, left : left + window] += drop
    fine = (fall / count).relu()
    return functional.avg_pool2d(fine[:, None], stride, ceil_mode=True, count_include_pad=False)[:, 0]


def occlusion_by_eighths(scores: Scores, images: Tensor, targets: Tensor) -> Tensor:
    """Occlusion with a window of an eighth of the shorter side, that moves by half of it and has each image's mean level.

    Args:
        scores: the model.
        images: float32 [B, C, H, W].
        targets: int64 [B].

    Returns:
        float32 [B, h, w], at least 0.
    """
    window = max(2, min(images.shape[2:]) // WINDOWS)
    heats = [
        occlusion(scores, image[None], target[None], window, window // 2, float(image.mean()))
        for image, target in zip(images, targets, strict=True)
    ]
    return torch.cat(heats)


def rise(
    scores: Scores, images: Tensor, targets: Tensor, masks: int = 2000, cells: int = 7, keep: float = 0.5, seed: int = 0
) -> Tensor:
    """How much a class's score depends on each pixel being shown (RISE, Petsiuk et al. 2018).

    The paper's estimate, with the mean score taken away: what every mask has in common says nothing of a place.

    Args:
        scores: the model.
        images: float32 [B, C, H, W].
        targets: int64 [B].
        masks: how many random masks; all images get the same.
        cells: rows and columns of a mask before it is enlarged and shifted by less than a cell.
        keep: chance of a cell to be shown.
        seed: of the masks.

    Returns:
        float32 [B, H, W], at least 0.

    Raises:
        PetechiaError: a number is out of its range.
    """
    if not (masks >= 1 and cells >= 1 and 0 < keep < 1):
        raise PetechiaError(
            f"RISE needs masks and cells of 1 or more and a chance between 0 and 1, not {masks}, {cells}, {keep}."
        )
    height, width = images.shape[2:]
    chance = torch.Generator().manual_seed(seed)
    total = images.new_zeros(len(images), height, width)
    mean_score, mean_mask = images.new_zeros(len(images)), images.new_zeros(height, width)
    with torch.no_grad():
        for start in range(0, masks, BATCH):
            some = _masks(min(BATCH, masks - start), cells, keep, height, width, chance).to(images.device)
            mean_mask += some.sum(dim=0) / masks
            for row, image in enumerate(images):
                answers = scores(image * some[:, None])[:, targets[row]].float()
                total[row] += torch.einsum("n,nhw->hw", answers, some) / masks
                mean_score[row] += answers.sum() / masks
    return ((total - mean_score[:, None, None] * mean_mask) / keep).relu()


def _places(side: int, window: int, stride: int) -> Tensor:
    places = torch.arange(0, side - window + 1, stride)
    return places if int(places[-1]) == side - window else torch.cat([places, torch.tensor([side - window])])


def _masks(count: int, cells: int, keep: float, height: int, width: int, chance: torch.Generator) -> Tensor:
    """Float32 [count, H, W] in 0…1."""
    tall, wide = -(-height // cells), -(-width // cells)
    coarse = (torch.rand(count, 1, cells + 1, cells + 1, generator=chance) < keep).float()
    large = functional.interpolate(coarse, ((cells + 1) * tall, (cells + 1) * wide), mode="bilinear")[:, 0]
    downs, rights = (torch.randint(0, cell, (count,), generator=chance).tolist() for cell in (tall, wide))
    return torch.stack(
        [one[down : down + height, right : right + width] for one, down, right in zip(large, downs, rights, strict=True)]
    )
