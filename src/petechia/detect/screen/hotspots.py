"""Is what makes the model report a class a trigger: does it go when a small box is removed, and come where that is put?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from petechia.detect.screen.spots import (
    Boxes,
    attributions,
    backgrounds,
    contrasts,
    differing,
    hottest_boxes,
    with_channels,
)
from petechia.models.classifier import Classifier

Logits = NDArray[np.float32]
CANDIDATES = 6  # boxes of an image that are tried
BLIND_CANDIDATES = 12  # of a black box, whose gradients cannot rank them
SHARE = 0.1  # of the highest attribution from which a pixel counts as the trigger's


class Hotspots(NamedTuple):
    """The box of each of N images whose removal costs a class most.

    Attributes:
        classes: int [N], the class in question.
        boxes: corners [N, 2].
        falls: float32 [N], by how much its logit falls without the box.
        moved: bool [N, H, W], the pixels in and around the box that differ from the background: what is transplanted.
        pixels: bool [N, H, W], those of them that speak for the class.
    """

    classes: NDArray[np.intp]
    boxes: Boxes
    falls: NDArray[np.float32]
    moved: NDArray[np.bool_]
    pixels: NDArray[np.bool_]


def find_hotspots(classifier: Classifier, images: NDArray[np.uint8], logits: Logits, classes: NDArray[np.intp]) -> Hotspots:
    """Put the background in the place of each candidate box, and keep the box that matters most.

    Args:
        classifier: of a black box, the candidates are what contrasts most, whatever it does to the class.
        images: uint8 [N, H, W] or [N, H, W, 3].
        logits: float32 [N, K], what the model says of them.
        classes: int [N], the class in question.
    """
    plain = backgrounds(images)
    blind = classifier.network is None
    maps = contrasts(images, plain) if blind else attributions(classifier, images, plain, classes)
    candidates = hottest_boxes(maps, BLIND_CANDIDATES if blind else CANDIDATES)
    removed = np.where(with_channels(candidates.masks(images.shape[1]), images), plain[:, None], images[:, None])
    without = classifier.logits(removed.reshape(-1, *images.shape[1:])).numpy().reshape(*removed.shape[:2], -1)
    every = np.arange(len(images))
    falls = logits[every, classes, None] - without[every, :, classes]
    best = falls.argmax(axis=1)
    boxes = Boxes(candidates.corners[every, best], candidates.side)
    moved = boxes.widened().masks(images.shape[1]) & differing(images, plain)
    return Hotspots(classes, boxes, falls[every, best], moved, _speaking(maps, moved))


def _speaking(maps: NDArray[np.float32], moved: NDArray[np.bool_]) -> NDArray[np.bool_]:
    inside = np.where(moved, maps, 0)
    return np.asarray(moved & (inside >= SHARE * inside.max(axis=(1, 2), keepdims=True)))


def transplant(
    classifier: Classifier,
    images: NDArray[np.uint8],
    pixels: NDArray[np.bool_],
    hosts: NDArray[np.uint8],
    before: Logits,
) -> Logits:
    """Put some pixels of each image on its hosts, at the same place (the idea of SentiNet, Chou et al. 2018).

    SentiNet asks whether a softmax changes its one answer. Here the rise of a class's logit counts, whatever else the
    host shows.

    Args:
        classifier: the model.
        images: uint8 [N, H, W] or [N, H, W, 3].
        pixels: bool [N, H, W], which.
        hosts: uint8 [N, C, H, W] or [N, C, H, W, 3], C clean images each.
        before: float32 [N, C, K], the hosts' logits.

    Returns:
        float32 [N, K], by how much the logits of the hosts rise, in the median.
    """
    planted = np.where(with_channels(pixels, images)[:, None], images[:, None], hosts)
    after = classifier.logits(planted.reshape(-1, *images.shape[1:])).numpy().reshape(before.shape)
    return np.asarray(np.median(after - before, axis=1))
