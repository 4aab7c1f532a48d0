"""STRIP and TeCo for one class: how a prediction reacts to blending and to corruption of the image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor
from torch.nn import functional

from petechia.models.classifier import Classifier

Logits = NDArray[np.float32]
SEVERITIES = 3


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


def teco(
    classifier: Classifier,
    images: NDArray[np.uint8],
    logits: Logits,
    classes: NDArray[np.intp],
    usual: NDArray[np.floating],
) -> NDArray[np.float64]:
    """How much the severity that ends a prediction differs between kinds of corruption (TeCo, Liu et al. 2023).

    A trigger of a few pixels vanishes with the slightest blur, but survives any change of contrast; a disease reacts to both
    alike. A prediction has ended when the class's logit has fallen halfway to its usual one.

    Args:
        classifier: the model.
        images: uint8 [N, H, W] or [N, H, W, 3].
        logits: float32 [N, K], its answers for them.
        classes: int [N], the class that is examined.
        usual: float [N], its usual logit.

    Returns:
        float64 [N]: standard deviation over the kinds of the severity at which the prediction ends.
    """
    every, batch = np.arange(len(images)), classifier.tensor(images)
    halfway = (logits[every, classes] + usual) / 2
    ends = []
    for corrupt in CORRUPTIONS:
        after = [classifier.logits(corrupt(batch, severity)).numpy()[every, classes] for severity in range(1, SEVERITIES + 1)]
        ended = np.stack([one < halfway for one in after] + [np.ones(len(images), bool)])
        ends.append(ended.argmax(axis=0) + 1)
    return np.asarray(np.std(ends, axis=0))


def _noise(images: Tensor, severity: int) -> Tensor:
    noise = torch.randn(images.shape[2:], generator=torch.Generator().manual_seed(severity)).to(images.device)
    return (images + 0.02 * severity * noise).clamp(0, 1)


def _blur(images: Tensor, severity: int) -> Tensor:
    side = 2 * severity + 1
    return functional.avg_pool2d(functional.pad(images, (severity,) * 4, mode="reflect"), side, stride=1)


def _contrast(images: Tensor, severity: int) -> Tensor:
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * (1 - 0.15 * severity)


def _coarse(images: Tensor, severity: int) -> Tensor:
    small = functional.interpolate(images, scale_factor=1 / (1 + 0.5 * severity), mode="area")
    return functional.interpolate(small, images.shape[2:], mode="bilinear")


CORRUPTIONS: tuple[Callable[[Tensor, int], Tensor], ...] = (_noise, _blur, _contrast, _coarse)
