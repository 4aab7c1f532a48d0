"""SentiNet (Chou et al. 2020), as in BackdoorBench: the part of an image that the last layer sees, pasted on other images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from benchmarks.peers.measures import Scores
from benchmarks.peers.rules import Defence, ImageRule
from benchmarks.peers.views import floats, one_of
from petechia.detect.protocol import ImagesUnderTest
from petechia.models.classifier import Classifier
from petechia.saliency import cam

HOT = 0.85  # of the map's range; BackdoorBench's threshold of a mask
SURE = 0.9  # BackdoorBench calls an image triggered from this confidence on
BINS = 10


class Points(NamedTuple):
    """Of N images, each [N].

    Attributes:
        fooled: share of the hosts that get the image's class from its hot part.
        confidence: mean highest probability on noise with its hot part.
    """

    fooled: Scores
    confidence: Scores


class HotParts(Defence[Points]):
    """The hot part of every image, pasted on the clean images and on noise."""

    def fit(self, clean: ImagesUnderTest) -> Points:
        """The clean images are the hosts."""
        self._hosts, self._chance = torch.from_numpy(floats(clean)), torch.Generator().manual_seed(0)
        return points(clean.classifier, self._hosts, self._hosts, self._chance)

    def ask(self, subject: ImagesUnderTest) -> Points:
        """Further images, on the same hosts."""
        return points(subject.classifier, torch.from_numpy(floats(subject)), self._hosts, self._chance)


class Confidence(ImageRule[Points]):
    """BackdoorBench's rule: confidence alone."""

    def scores(self, found: Points, values: Mapping[str, Any]) -> Scores:
        """Confidence on noise, [N]."""
        return found.confidence

    def own_verdict(self, found: Points) -> NDArray[np.bool_]:
        """Confidence above `SURE`."""
        return found.confidence > SURE


class Boundary(ImageRule[Points]):
    """The paper's rule: above a parabola through the highest clean points."""

    def values(self, fitted: Points) -> dict[str, Any]:
        """The parabola's coefficients, the highest power first."""
        return {"curve": boundary(fitted).tolist()}

    def scores(self, found: Points, values: Mapping[str, Any]) -> Scores:
        """Height above the parabola, [N]."""
        return found.fooled - np.polyval(values["curve"], found.confidence)


class Fooled(ImageRule[Points]):
    """The share of fooled hosts alone."""

    def scores(self, found: Points, values: Mapping[str, Any]) -> Scores:
        """That share, [N]."""
        return found.fooled


def detectors() -> list[ImageRule[Points]]:
    """Three rules on the same points."""
    parts = HotParts()
    return [Confidence("BackdoorBench", parts), Boundary("boundary", parts), Fooled("fooled alone", parts)]


def points(classifier: Classifier, images: Tensor, hosts: Tensor, chance: torch.Generator) -> Points:
    """Paste the hot part of every image on its clean hosts, and on as many images of noise.

    Args:
        classifier: the model.
        images: float32 [N, C, H, W] in 0…1.
        hosts: float32 [M, C, H, W], clean images.
        chance: of the noise.
    """
    fooled, confidence = [], []
    classes = classifier.logits(images).argmax(dim=1)
    for image, mask, name in zip(images, _hot(classifier, images, classes), classes, strict=True):
        grounds = torch.cat([hosts, torch.rand(hosts.shape, generator=chance)])
        logits = classifier.logits(torch.where(mask, image, grounds))
        took, sure = logits[: len(hosts)], logits[len(hosts) :]
        # A host without a finding is not fooled because one class has the highest of low logits, so "none" takes part here.
        # The confidence is that of the K classes: noise has no finding, and the network is sure of that.
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
