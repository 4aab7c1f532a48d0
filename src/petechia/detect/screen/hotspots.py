"""Removes small boxes from an image and puts them on clean images: a trigger takes its class along, a disease does not."""

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
CANDIDATES = 6  # boxes of an image that are removed in turn
BLIND_CANDIDATES = 12  # the same for a black box, without gradients to rank them
SHARE = 0.1  # share of the highest attribution from which a pixel counts as part of the trigger


class Hotspots(NamedTuple):
    """For each of N images, the box whose removal lowers a class's logit most.

    Attributes:
        classes: int [N], the class that is examined.
        boxes: corners [N, 2].
        falls: float32 [N], by how much the class's logit falls without the box.
        moved: bool [N, H, W], the pixels in and around the box that differ from the background; they are transplanted.
        pixels: bool [N, H, W], those of them that are evidence for the class.
    """

    classes: NDArray[np.intp]
    boxes: Boxes
    falls: NDArray[np.float32]
    moved: NDArray[np.bool_]
    pixels: NDArray[np.bool_]


def find_hotspots(classifier: Classifier, images: NDArray[np.uint8], logits: Logits, classes: NDArray[np.intp]) -> Hotspots:
    """Replace each candidate box by the background, and keep the box that matters most.

    Args:
        classifier: the model. For a black box the candidates are the boxes with most contrast, whatever their effect.
        images: uint8 [N, H, W] or [N, H, W, 3].
        logits: float32 [N, K], the model's answers for them.
        classes: int [N], the class that is examined.
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
    return Hotspots(classes, boxes, falls[every, best], moved, _evident(maps, moved))


def _evident(maps: NDArray[np.float32], moved: NDArray[np.bool_]) -> NDArray[np.bool_]:
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

    SentiNet asks whether the one answer of a softmax changes. Here the rise of a class's logit counts, whatever else the
    host shows.

    Args:
        classifier: the model.
        images: uint8 [N, H, W] or [N, H, W, 3].
        pixels: bool [N, H, W], the pixels to put on the hosts.
        hosts: uint8 [N, C, H, W] or [N, C, H, W, 3], C clean images each.
        before: float32 [N, C, K], the hosts' logits.

    Returns:
        float32 [N, K], the median rise of the hosts' logits.
    """
    planted = np.where(with_channels(pixels, images)[:, None], images[:, None], hosts)
    after = classifier.logits(planted.reshape(-1, *images.shape[1:])).numpy().reshape(before.shape)
    return np.asarray(np.median(after - before, axis=1))
