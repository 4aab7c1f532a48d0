"""SentiNet (Chou et al. 2020), in the manner of BackdoorBench: where the last layer looks, pasted on other images."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.peers.measures import Scores, of_images, share
from benchmarks.peers.views import Floats, one_of
from petechia.models.classifier import Classifier
from petechia.saliency import cam

HOT = 0.85  # of the map's range; BackdoorBench's threshold of a mask
SURE = 0.9  # BackdoorBench calls an image triggered from this confidence on
BINS = 10


class Points(NamedTuple):
    """Of N images, each [N].

    Attributes:
        fooled: share of the carriers that take the image's class on with its hot part.
        confidence: mean highest probability on noise with its hot part.
    """

    fooled: Scores
    confidence: Scores


def judge(classifier: Classifier, fitted: Floats, clean: Floats, triggered: Floats) -> dict[str, Any]:
    """BackdoorBench's rule (confidence alone), and the boundary of the paper, fitted to clean images."""
    hosts, chance = torch.from_numpy(fitted), torch.Generator().manual_seed(0)
    groups = [points(classifier, torch.from_numpy(images), hosts, chance) for images in (fitted, clean, triggered)]
    confidence = of_images(*(group.confidence for group in groups))
    for name, group in (("own_fpr", groups[1]), ("own_tpr", groups[2])):
        confidence[name] = share(int((group.confidence > SURE).sum()), len(group.confidence))
    curve = boundary(groups[0])
    above = of_images(*(group.fooled - np.polyval(curve, group.confidence) for group in groups))
    return {"BackdoorBench": confidence, "boundary": above, "fooled alone": of_images(*(group.fooled for group in groups))}


def points(classifier: Classifier, images: Tensor, hosts: Tensor, chance: torch.Generator) -> Points:
    """Paste the hot part of every image on clean carriers, and on as many of noise.

    Args:
        classifier: the model.
        images: float32 [N, C, H, W] in 0…1.
        hosts: float32 [M, C, H, W], clean ones.
        chance: of the noise.
    """
    fooled, confidence = [], []
    classes = classifier.logits(images).argmax(dim=1)
    for image, mask, name in zip(images, _hot(classifier, images, classes), classes, strict=True):
        grounds = torch.cat([hosts, torch.rand(hosts.shape, generator=chance)])
        logits = classifier.logits(torch.where(mask, image, grounds))
        took, sure = logits[: len(hosts)], logits[len(hosts) :]
        # A carrier without a finding is not fooled because one class's logit is the least low, so "none" takes part here;
        # the confidence is that of the K classes: noise has no finding, and the network is sure of that.
        fooled.append(float((one_of(took).argmax(dim=1) == name).float().mean()))
        confidence.append(float(sure.softmax(dim=1).amax(dim=1).mean()))
    return Points(np.array(fooled), np.array(confidence))


def boundary(clean: Points) -> Scores:
    """Coefficients of the parabola through the highest of the clean points in every range of confidence.

    Where only one or two ranges have points, of a constant or a line.
    """
    edges = np.linspace(clean.confidence.min(), clean.confidence.max(), BINS + 1)
    place = np.clip(np.digitize(clean.confidence, edges) - 1, 0, BINS - 1)
    tops = [np.flatnonzero(place == k)[clean.fooled[place == k].argmax()] for k in np.unique(place)]
    return np.polyfit(clean.confidence[tops], clean.fooled[tops], min(2, len(tops) - 1))


def _hot(classifier: Classifier, images: Tensor, classes: Tensor) -> Tensor:
    """Where Grad-CAM of the last layer is within `HOT` of its range, bool [N, 1, H, W]."""
    maps = torch.cat(
        [
            cam(classifier.require_network(), some, names, ("last",))["last"]
            for some, names in zip(torch.split(images, 64), torch.split(classes, 64), strict=True)
        ]
    )[:, None].float()
    maps = maps - maps.amin(dim=(2, 3), keepdim=True)
    maps = maps / maps.amax(dim=(2, 3), keepdim=True).clamp(min=1e-7)
    return functional.interpolate(maps, images.shape[2:], mode="bilinear", align_corners=False) >= HOT
