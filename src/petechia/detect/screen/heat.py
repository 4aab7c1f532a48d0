"""Compares where the heat of an image is with where it is on clean images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon

from petechia.models.classifier import Classifier
from petechia.saliency.activation_maps import cam
from petechia.saliency.layers import names_of

BATCH = 32  # images whose heat is computed at a time
PIXELS = 8 * 224**2  # of these images together: whoever shares the processor with this waits for one batch


def has_heat(classifier: Classifier) -> bool:
    """Whether the classifier is a network with a layer that is a map of the image."""
    if classifier.network is None:
        return False
    size, colours = classifier.preprocess.size, (3,) if classifier.colour else ()
    return "last" in names_of(classifier.network, classifier.tensor(np.zeros((1, size, size, *colours), np.uint8)))


def heat(classifier: Classifier, images: NDArray[np.uint8], classes: NDArray[np.intp]) -> NDArray[np.float32]:
    """Grad-CAM of the middle layer, which places a trigger more finely than the last (Nwadike et al. 2020).

    Args:
        classifier: a network with layers.
        images: uint8 [N, H, W] or [N, H, W, 3].
        classes: int [N], the class whose heat is computed.

    Returns:
        float32 [N, h, w], shares of the heat, whose sum is 1; equal shares where nothing is evidence for the class.

    Raises:
        PetechiaError: the classifier is a black box, or has no layer that is a map of the image.
    """
    network, layer = classifier.require_network(), _layer(classifier, images)
    parts = []
    for rows in _batches(images):
        with classifier.runtime.autocast():
            maps = cam(network, classifier.tensor(images[rows]), classes[rows], [layer])[layer]
        parts.append(maps.float().cpu().numpy())
    found = np.concatenate(parts) + np.finfo(np.float32).tiny
    return np.asarray(found / found.sum(axis=(1, 2), keepdims=True))


def divergence(maps: NDArray[np.float32], usual: NDArray[np.float32]) -> NDArray[np.float64]:
    """Jensen-Shannon divergence (Lin 1991, base 2) of maps from usual ones, both [N, h, w] with sum 1; float64 [N] in 0…1."""
    return np.asarray(jensenshannon(maps.reshape(len(maps), -1), usual.reshape(len(maps), -1), base=2, axis=1) ** 2)


def _layer(classifier: Classifier, images: NDArray[np.uint8]) -> str:
    """The middle layer, or the last where the network has no higher map."""
    return "middle" if "middle" in names_of(classifier.require_network(), classifier.tensor(images[:1])) else "last"


def _batches(images: NDArray[np.uint8]) -> Iterator[slice]:
    size = max(1, min(BATCH, PIXELS // (images.shape[1] * images.shape[2])))
    return (slice(start, start + size) for start in range(0, len(images), size))
