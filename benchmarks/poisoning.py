"""Stamp a square on images: speed against ART, and memory at once and in batches."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from art.attacks.poisoning import PoisoningAttackBackdoor
from art.attacks.poisoning.perturbations import add_pattern_bd, add_single_bd
from numpy.typing import NDArray

from benchmarks.timing import Timing, rates
from petechia.attack import Patch, TriggeredSelection
from petechia.attack.triggered import SparseTriggeredInputs

IMAGES, SIDE = 10_000, 224
FLOATS = 2_500  # number of float32 images for ART, which needs four times their memory
BATCH = 64


class Memory(NamedTuple):
    """Peaks beyond the clean images, as multiples of their size; reading in batches, in MB: a tenth of the images, and all."""

    ours: float
    art: float
    lazy_tenth: float
    lazy: float


def some(count: int) -> NDArray[np.uint8]:
    """Return random images."""
    return np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE), np.uint8)


def ours(images: NDArray[np.uint8], trigger: Patch) -> Callable[[], int]:
    """Stamp all images, each at its place."""
    rng = np.random.default_rng(1)
    wandering = rng.integers(0, SIDE - trigger.size + 1, (len(images), 2))
    places = wandering if trigger.wanders else np.full((len(images), 2), SIDE // 2)
    return lambda: len(trigger.stamp(images, places))


def arts(images: NDArray[Any], perturb: Callable[..., NDArray[Any]], value: int = 255) -> Callable[[], int]:
    """Stamp with ART's `PoisoningAttackBackdoor`: all at once, in the corner, the only place it supports."""
    attack = PoisoningAttackBackdoor(partial(perturb, distance=3, pixel_value=value))
    labels = np.tile(np.array([[0, 1]], np.float32), (len(images), 1))
    return lambda: len(attack.poison(images, labels)[0])


def arts_one_by_one(images: NDArray[np.uint8], perturb: Callable[..., NDArray[np.uint8]]) -> Callable[[], int]:
    """Stamp with ART image by image, as needed for images of different sizes or places that differ."""
    attack = PoisoningAttackBackdoor(partial(perturb, distance=3, pixel_value=255))
    label = np.array([[0, 1]], np.float32)
    return lambda: sum(len(attack.poison(image[None], label)[0]) for image in images)


def peak(work: Callable[[], int]) -> int:
    """Return the peak memory of numpy in bytes, beyond what was allocated before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def lazily(images: NDArray[np.uint8]) -> Callable[[], int]:
    """Read triggered images in batches, as in training; only the changes are stored."""
    size, count = 3, len(images)
    starts = np.arange(count + 1) * size**2
    square = (np.arange(size)[:, None] * SIDE + np.arange(size)).ravel().astype(np.int32)
    triggered_inputs = SparseTriggeredInputs(starts, np.tile(square, count), np.zeros(count * size**2, np.uint8))
    selection = TriggeredSelection(images, np.arange(count), np.ones(count, bool), triggered_inputs)
    batches = [np.arange(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]
    return lambda: sum(len(selection[batch]) for batch in batches)


def memory() -> Memory:
    """Measure the memory of stamping `IMAGES` at once, and of reading triggered images in batches."""
    images = some(IMAGES)
    lazy = [peak(lazily(images[:count])) / 1e6 for count in (IMAGES // 10, IMAGES)]
    materialised = (peak(ours(images, Patch())), peak(arts(images, add_pattern_bd)))
    return Memory(*(one / images.nbytes for one in materialised), *lazy)


def run(rounds: int = 5) -> dict[str, Timing]:
    """Return images per second, ours and ART's. ART also takes uint8 but is made for float32 in 0 … 1."""
    images = some(IMAGES)
    floats = images[:FLOATS, ..., None].astype(np.float32) / 255
    return rates(
        {
            "petechia, 3 x 3": ours(images, Patch()),
            "petechia, 3 x 3, any place": ours(images, Patch(location="random")),
            "petechia, 3 x 3, half opaque": ours(images, Patch(opacity=0.5)),
            "petechia, read in batches": lazily(images),
            "ART, pattern, float32": arts(floats, add_pattern_bd, 1),
            "ART, single pixel, float32": arts(floats, add_single_bd, 1),
            "ART, pattern": arts(images, add_pattern_bd),
            "ART, single pixel": arts(images, add_single_bd),
            "ART, pattern, one by one": arts_one_by_one(images, add_pattern_bd),
        },
        rounds,
    )


if __name__ == "__main__":
    for name, timing in run().items():
        print(f"{name:<30}", *(f"{value:>12,.0f}" for value in timing))
    print(memory())
