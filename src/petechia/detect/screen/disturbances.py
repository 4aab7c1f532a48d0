"""What of a class an image takes along to others, and what is left of it when others are laid over the image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.special import expit

from petechia.detect.screen.spots import FINE
from petechia.models.classifier import Classifier

Logits = NDArray[np.float32]
COARSE = 5.0  # standard deviation of the Gaussian that leaves no detail, in pixels of an image of `FINE`


def details(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What of images is finer than their lungs and ribs: the images less their blurred copies.

    Args:
        images: uint8 [..., H, W] or, if `images.shape[-1]` is 3, [..., H, W, 3].

    Returns:
        The same shape, float32, in grey levels.
    """
    values = images.astype(np.float32)
    first = values.ndim - (3 if images.shape[-1] == 3 else 2)
    sigma = COARSE * images.shape[first] / FINE
    return np.asarray(values - gaussian_filter(values, sigma, axes=(first, first + 1), mode="nearest"))


def carried(
    classifier: Classifier, images: NDArray[np.uint8], coarse: NDArray[np.float32], hosts: NDArray[np.intp], before: Logits
) -> Logits:
    """Give the hosts of each image its detail in place of their own: a pattern or a wave takes its class along.

    Args:
        classifier: the model.
        images: uint8 [N, H, W] or [N, H, W, 3].
        coarse: float32 [M, H, W] or [M, H, W, 3], clean images less their details.
        hosts: int [N, C], which of them are the hosts of each image.
        before: float32 [N, C, K], the hosts' logits, with their own details.

    Returns:
        float32 [N, K], the median rise of the hosts' logits.
    """
    fine, rises = details(images), []
    for number in range(hosts.shape[1]):
        changed = np.clip(np.rint(coarse[hosts[:, number]] + fine), 0, 255).astype(np.uint8)
        rises.append(classifier.logits(changed).numpy() - before[:, number])
    return np.asarray(np.median(rises, axis=0))


def strip(
    classifier: Classifier,
    images: NDArray[np.uint8],
    hosts: NDArray[np.uint8],
    classes: NDArray[np.intp],
    usual: NDArray[np.floating],
) -> NDArray[np.float64]:
    """How certain a class stays when the image is superimposed on others (STRIP, Gao et al. 2019).

    STRIP takes the entropy of one softmax. Here it is the entropy of one class, present or absent. Most classes are rare, and
    a model is certain of their absence in every image. Therefore odds are relative to the class's usual odds, and only
    certainty that the class is present counts.

    Args:
        classifier: the model.
        images: uint8 [N, H, W] or [N, H, W, 3].
        hosts: uint8 [N, C, H, W] or [N, C, H, W, 3], C clean images each.
        classes: int [N], the class that is examined.
        usual: float [N], its usual logit.

    Returns:
        float64 [N] in 0…1: 1 less the entropy in bits, averaged over the hosts.
    """
    blended = ((images[:, None].astype(np.uint16) + hosts) // 2).astype(np.uint8)
    logits = classifier.logits(blended.reshape(-1, *images.shape[1:])).numpy().reshape(*hosts.shape[:2], -1)
    odds = logits[np.arange(len(images)), :, classes] - usual[:, None]
    return np.asarray(np.where(odds > 0, 1 - _entropy(expit(odds.astype(np.float64))), 0).mean(axis=1))


def _entropy(share: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.clip(share, 1e-12, 1 - 1e-12)
    return np.asarray(-inside * np.log2(inside) - (1 - inside) * np.log2(1 - inside))
