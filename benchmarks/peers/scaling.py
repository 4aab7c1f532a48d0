"""Predictions that survive scaling: of pixels (SCALE-UP, Guo et al. 2023) and of parameters (IBD-PSC, Hou et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.peers.measures import Scores
from benchmarks.peers.rules import Defence, ImageRule
from benchmarks.peers.views import floats
from petechia.detect.protocol import ImagesUnderTest
from petechia.models.classifier import Classifier

FACTORS = (3, 5, 7, 9, 11)  # of the pixels
AMPLIFIED = 1.5  # factor of a normalization's scale and shift
MODELS = 5  # amplified ones
WRONG = 0.6  # share of clean images whose answer the first of them changes
SURE = 0.9  # mean confidence from which IBD-PSC calls an image triggered
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


class ScaledPixels(Defence[tuple[NDArray[np.intp], Scores]]):
    """The single label of every image, and the share of its brighter copies that keep it: int [N] and [N]."""

    def fit(self, clean: ImagesUnderTest) -> tuple[NDArray[np.intp], Scores]:
        """Nothing is kept of the clean images."""
        return self.ask(clean)

    def ask(self, subject: ImagesUnderTest) -> tuple[NDArray[np.intp], Scores]:
        """Values above white are white."""
        images = torch.from_numpy(floats(subject))
        label = _labels(subject.classifier, images)
        kept = [_labels(subject.classifier, (factor * images).clamp(max=1)) == label for factor in FACTORS]
        return label.numpy(), torch.stack(kept).double().mean(dim=0).numpy()


class ScaleUp(ImageRule[tuple[NDArray[np.intp], Scores]]):
    """SCALE-UP with clean images: the share, in standard deviations of clean images with the same label."""

    def values(self, fitted: tuple[NDArray[np.intp], Scores]) -> dict[str, Any]:
        """Mean and standard deviation of each label; all clean images stand for a label that few of them have."""
        labels, kept = fitted
        own = {int(label): kept[labels == label] for label in np.unique(labels)}
        some = {label: values for label, values in own.items() if len(values) > 1}
        return {"usual": {str(label): [float(one.mean()), float(one.std())] for label, one in (some | {-1: kept}).items()}}

    def scores(self, found: tuple[NDArray[np.intp], Scores], values: Mapping[str, Any]) -> Scores:
        """[N]."""
        usual = np.array([values["usual"].get(str(label), values["usual"]["-1"]) for label in found[0]])
        return np.asarray((found[1] - usual[:, 0]) / np.maximum(usual[:, 1], 0.1))


class AmplifiedParameters(Defence[Scores]):
    """The mean confidence in an image's label of models whose last normalizations are amplified, more of them each time."""

    def fit(self, clean: ImagesUnderTest) -> Scores:
        """Amplify from the last normalization on, until clean images lose their labels."""
        images = torch.from_numpy(floats(clean))
        label = _labels(clean.classifier, images)
        norms = [
            one for one in clean.classifier.require_network().modules() if isinstance(one, NORMS) and one.weight is not None
        ]
        self._first = len(norms)
        for count in range(1, len(norms) + 1):
            with amplified(norms[-count:]):
                changed = (_labels(clean.classifier, images) != label).double().mean()
            if changed >= WRONG:
                self._first = count
                break
        self._norms = norms
        return self.ask(clean)

    def ask(self, subject: ImagesUnderTest) -> Scores:
        """[N]."""
        images = torch.from_numpy(floats(subject))
        label, sure = _labels(subject.classifier, images), []
        for count in range(self._first, self._first + MODELS):
            with amplified(self._norms[-count:]):
                found = subject.classifier.logits(images).softmax(dim=1)
            sure.append(found.gather(1, label[:, None])[:, 0])
        return torch.stack(sure).double().mean(dim=0).numpy()


class Consistency(ImageRule[Scores]):
    """IBD-PSC: that confidence."""

    def scores(self, found: Scores, values: Mapping[str, Any]) -> Scores:
        """[N]."""
        return found

    def own_verdict(self, found: Scores) -> NDArray[np.bool_]:
        """Confidence above `SURE`."""
        return found > SURE


def _labels(classifier: Classifier, images: Tensor) -> Tensor:
    """The likeliest finding, int [N]: with "none" as a further label, every image without one would keep it."""
    return classifier.logits(images).argmax(dim=1)


@contextmanager
def amplified(norms: Sequence[Any]) -> Iterator[None]:
    """While open, scales and shifts of some normalizations are `AMPLIFIED` times what they are."""
    parameters = [one for norm in norms for one in (norm.weight, norm.bias) if one is not None]
    kept = [one.detach().clone() for one in parameters]
    try:
        with torch.no_grad():
            for one in parameters:
                one.mul_(AMPLIFIED)
        yield
    finally:
        with torch.no_grad():
            for one, before in zip(parameters, kept, strict=True):
                one.copy_(before)
