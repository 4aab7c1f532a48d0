"""How maps lie on the image: parts of it are changed, and the cells that change tell which readings are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from petechia.saliency.readings import Reading
from petechia.saliency.recording import Layer
from petechia.saliency.tracing import Passed

CHANGED = 6  # images: as it is; another one in its upper, lower, left and right half, and in a frame around it
FRAME = 8  # a frame's width is this part of the side
ALIKE = 0.25  # mean contrast of the halves under which cells depend on all of the image alike
CLEAR = 0.3  # share of the contrast that goes along a direction of the map
SHARP = 0.8  # mean contrast of the cells from which each sees one half of the image
ENOUGH = 6  # rows, and columns, with fewer of which the contrast may be chance
ON = 0.75  # share of that along the map from which it lies on the image; a shift by a tenth of the side may stay
BETTER = 0.05  # mean contrast by which another reading must lie better than the likeliest
TOKENS = 3  # dimensions of [B, T, C]
TINY = 1e-30


@dataclass(frozen=True)
class Lie:
    """How a map lies on the image.

    Attributes:
        along: float64 [2, 2], the mean contrast of the image's halves (upper and lower, left and right) along the map's
            rows and columns. 1: each half changes its own half of the map only.
        contrast: float64 [2], the mean contrast of the halves, whatever cells it is in.
        sides: int [2], rows and columns of the map.
        own: float64 [2], the mean contrast along the map's own rows and columns, without subtracting any mean. 1: cells change
            with their own half of the image.
        sharp: float64 [2], the mean contrast of the cells that change at all. 1: each cell sees one half of the image.
        framed: whether what is near the sides of the image changes the map.
    """

    along: Tensor
    contrast: Tensor
    sides: Tensor
    own: Tensor
    sharp: Tensor
    framed: bool

    @property
    def score(self) -> float:
        """How well it lies."""
        return float(2 * self.along.diagonal().sum() - self.along.abs().sum())

    @property
    def told(self) -> bool:
        """Whether some cells depend more on one half of the image than others do."""
        return bool((self.contrast >= ALIKE)[self.sides > 1].any())

    @property
    def off(self) -> bool:
        """Whether the network crops, shifts, mirrors or turns the image before this map.

        Only a map whose cells still see little of the image can tell.
        """
        tells = (self.sharp >= SHARP) & (self.sides >= ENOUGH)
        return bool(tells.any()) and (bool((self.own < ON * self.sharp)[tells].any()) or not self.framed)

    @property
    def ordered(self) -> bool:
        """Whether its order is seen to be that of the image, or nothing can be said: cells depend on all of it alike."""
        own = self.along.diagonal() / self.contrast.clamp(min=TINY)
        return not self.told or bool((own > CLEAR)[self.sides > 1].all())


@dataclass(frozen=True)
class Seen:
    """What one tensor showed.

    Attributes:
        lies: of each reading that was asked for.
        still: tokens before and after the image's parts that do not change with it, of the second and the third dimension of
            [B, T, C]; None where there are none.
    """

    lies: tuple[Lie, ...]
    still: tuple[tuple[int, int] | None, tuple[int, int] | None]


def look(model: nn.Module, image: Tensor, wanted: Mapping[Passed, tuple[Layer, Sequence[Reading]]]) -> dict[Passed, Seen]:
    """Run a model on an image whose parts are changed.

    Args:
        model: gives scores.
        image: float32 [1, C, H, W].
        wanted: a tensor that the network gives → its layer, and readings of it.
    """
    found: dict[Passed, Seen] = {}
    parts: dict[Passed, list[Tensor]] = {}

    def keep(
        key: Passed, layer: Layer, readings: Sequence[Reading], _module: nn.Module, _given: object, output: object
    ) -> None:
        tensor = layer.tensor(output)
        if tensor is None or tensor.device != image.device:  # a program runs once without data first
            return
        some = [*parts.pop(key, []), tensor]
        if sum(map(len, some)) < CHANGED:  # a program may take fewer images at once
            parts[key] = [*some[:-1], tensor.clone()]  # what follows may change it in place
        else:
            found[key] = _seen(torch.cat(some)[:CHANGED], readings)

    with ExitStack() as hooks:
        for key, (layer, readings) in wanted.items():
            hooks.enter_context(layer.module.register_forward_hook(partial(keep, key, layer, readings)))
        hooks.enter_context(torch.no_grad())
        model(_changed(image))
    return found


def _changed(image: Tensor) -> Tensor:
    height, width = image.shape[2:]
    masks = torch.zeros(CHANGED, 1, height, width, dtype=torch.bool, device=image.device)
    masks[1, :, : height // 2], masks[2, :, (height + 1) // 2 :] = True, True
    masks[3, :, :, : width // 2], masks[4, :, :, (width + 1) // 2 :] = True, True
    high, wide = max(1, height // FRAME), max(1, width // FRAME)
    masks[5] = True
    masks[5, :, high:-high, wide:-wide] = False
    return torch.where(masks, image.flip(1, 2, 3), image)


def _seen(outputs: Tensor, readings: Sequence[Reading]) -> Seen:
    change = (outputs[1:].double() - outputs[:1].double()) ** 2
    lies = tuple(_lie(mapped.mean(dim=1)) for one in readings if (mapped := one.as_map(change)) is not None)
    tokens = outputs.ndim == TOKENS
    return Seen(lies, (_still(change.sum(dim=(0, 2))), _still(change.sum(dim=(0, 1)))) if tokens else (None, None))


def _lie(changes: Tensor) -> Lie:
    """From mean squared changes [5, h, w]."""
    first, second = changes[0:3:2], changes[1:4:2]
    contrast = (first - second) / (first + second).clamp(min=TINY)
    changed = (first + second > 0).sum(dim=(1, 2)).clamp(min=1)
    down, across = (torch.linspace(1, -1, side).sign().to(contrast) for side in changes.shape[1:])
    sides = (down[:, None], across[None])
    own = torch.stack([(one * side).mean() for one, side in zip(contrast, sides, strict=True)])
    sharp = contrast.abs().sum(dim=(1, 2)) / changed
    contrast = contrast - contrast.mean(dim=(1, 2), keepdim=True)
    along = torch.stack([(contrast * side).mean(dim=(1, 2)) for side in sides], dim=1)
    mean = contrast.abs().mean(dim=(1, 2))
    return Lie(along.cpu(), mean.cpu(), torch.tensor(changes.shape[1:]), own.cpu(), sharp.cpu(), bool(changes[4].any()))


def _still(changes: Tensor) -> tuple[int, int] | None:
    """How many do not change at the start and at the end of changes [T], if all the others do."""
    moving = changes.nonzero().flatten().tolist()
    if not moving:
        return None
    before, after = moving[0], len(changes) - 1 - moving[-1]
    return (before, after) if before + after and before + after + len(moving) == len(changes) else None


def decide(possible: Mapping[Passed, Sequence[Reading]], seen: Mapping[Passed, Seen]) -> dict[Passed, Reading]:
    """Choose the reading of each tensor that lies best; the likeliest, which is the first, where none is better.

    No map is what depends on all of the image alike, while a later tensor with as many cells does not: locality is lost with
    depth, not won, so its cells are something else.
    """
    chosen: dict[Passed, Reading] = {}
    later: set[tuple[int, int]] = set()
    for one in reversed(tuple(possible)):
        ways, lies = possible[one], seen[one].lies if one in seen else ()
        best = max(range(len(lies)), key=lambda number: lies[number].score, default=0)
        best = best if lies and lies[best].score > lies[0].score + BETTER and lies[best].ordered else 0
        if lies and lies[best].told:
            later.add(ways[best].grid)
        if not lies or lies[best].told or ways[best].grid not in later:
            chosen[one] = ways[best]
    return dict(reversed(tuple(chosen.items())))
