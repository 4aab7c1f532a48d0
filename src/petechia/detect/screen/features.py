"""How unlike the clean images an image is to the network itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from petechia.core.parallel import in_this_thread
from petechia.models.classifier import Classifier
from petechia.saliency.layers import find_layers, names_of

NEIGHBOURS = 5
Features = NDArray[np.float32]


def has_maps(classifier: Classifier) -> bool:
    """Whether the classifier is a network with a layer that is a map of the image."""
    if classifier.network is None:
        return False
    size, colours = classifier.preprocess.size, (3,) if classifier.colour else ()
    return "last" in names_of(classifier.network, classifier.tensor(np.zeros((1, size, size, *colours), np.uint8)))


def answered(classifier: Classifier, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], Features]:
    """What a network and its last map say of images, in one pass.

    Args:
        classifier: a network with a layer that is a map of the image.
        images: uint8 [N, H, W] or [N, H, W, 3].

    Returns:
        The logits, float32 [N, K]; and the features, float32 [N, 2 C]: of each of C channels the mean and the standard
        deviation over the map.

    Raises:
        PetechiaError: the classifier is a black box, or has no such layer.
    """
    layer = find_layers(classifier.require_network(), ["last"], classifier.tensor(images[:1]))["last"]
    found: list[Features] = []

    def keep(_module: object, _given: object, output: Any) -> None:
        given = layer.of(output)
        maps = None if given is None or layer.reading is None else layer.reading.as_map(given)
        if maps is not None and not maps.is_meta:  # a program rehearses new sizes without data
            places = maps.float().flatten(2)
            found.append(torch.cat([places.mean(dim=2), places.std(dim=2)], dim=1).cpu().numpy())

    handle = layer.module.register_forward_hook(in_this_thread(keep))
    try:
        logits = classifier.logits(images).numpy()
    finally:
        handle.remove()
    times = sum(map(len, found)) // len(images)  # a network may use a module several times in one pass; the last counts
    return logits, np.concatenate(found[times - 1 :: times])


def strangeness(given: Features, known: Features, own: bool = False) -> NDArray[np.float64]:
    """How far images are from the clean ones near them, after Sun et al. 2022 (deep nearest neighbours).

    Args:
        given: float32 [N, D].
        known: float32 [n, D], of the clean images.
        own: whether these are the clean images themselves; each is then compared with the others.

    Returns:
        float64 [N], the distance to the `NEIGHBOURS`-th nearest, each feature in units of its standard deviation.
    """
    if not own:
        return _distances(given, known)
    return np.concatenate([_distances(known[row : row + 1], np.delete(known, row, axis=0)) for row in range(len(known))])


def _distances(given: Features, known: Features) -> NDArray[np.float64]:
    spread = known.std(axis=0) + 1e-3 * np.abs(known).mean() + 1e-6  # of channels that hardly ever answer
    which = min(NEIGHBOURS, len(known)) - 1
    return np.asarray(np.partition(cdist(given / spread, known / spread), which, axis=1)[:, which])
