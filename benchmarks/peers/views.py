"""Single-label views of a multi-label network and of its data, for peers that take nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from petechia.data.dataset import Images
from petechia.detect.protocol import ImagesUnderTest
from petechia.models.classifier import Classifier

FEW = 20  # images of a class; ART reduces its activations to ten dimensions and splits them in two
Floats = NDArray[np.float32]


def floats(subject: ImagesUnderTest) -> Floats:
    """Images as the peers take them, float32 [N, C, H, W] in 0…1."""
    return np.asarray(subject.classifier.tensor(subject.images).contiguous().numpy())


def one_of(logits: Tensor) -> Tensor:
    """Logits [B, K] as those of K findings and of none, [B, K + 1].

    "None" has logit 0, against which a sigmoid weighs its class: with one class, softmax is its sigmoid.
    """
    return functional.pad(logits, (0, 1))


def one_label(labels: NDArray[np.int8], target: int) -> NDArray[np.intp]:
    """One label for each image: its class, or K if it has none. Of several classes the target is taken, else the rarest.

    Args:
        labels: int8 [N, K].
        target: index of the attacked class; that the peers know it favours them.

    Returns:
        int [N], counted from 0 without gaps. Classes of fewer than `FEW` images count as none.
    """
    present = labels == 1
    rarity = present.sum(axis=0)
    rarity[target] = -1
    single = np.where(present.any(axis=1), np.where(present, rarity, len(labels) + 1).argmin(axis=1), labels.shape[1])
    counts = np.bincount(single, minlength=labels.shape[1] + 1)
    single[counts[single] < FEW] = labels.shape[1]
    return np.unique(single, return_inverse=True)[1]


class SingleLabel:
    """A classifier of K classes, "none" not among them, that ART can ask; images are float32 [N, C, H, W] in 0…1.

    Attributes:
        nb_classes: K.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.nb_classes = len(classifier.classes)
        self._answers: list[Tensor] = []
        self._classifier = classifier

    def predict(self, x: Floats) -> Floats:
        """Probabilities, float32 [N, K]."""
        logits = self._classifier.logits(torch.from_numpy(np.asarray(x, np.float32)))
        self._answers.append(logits)
        return logits.softmax(dim=1).numpy()

    def take_answers(self) -> list[Tensor]:
        """The logits of all calls of `predict` since the last time, call by call."""
        found, self._answers = self._answers, []
        return found


class Featured:
    """A classifier that ART asks for the features of images; it is given the features in place of the images.

    Attributes:
        nb_classes: that labels may have.
        layer_names: one, that before the last layer, as the papers have it.
    """

    layer_names = ("features",)

    def __init__(self, nb_classes: int) -> None:
        self.nb_classes = nb_classes

    def get_activations(self, x: Floats, layer: int, batch_size: int) -> Floats:
        """The features as they are given, float32 [N, D]."""
        return x


def features(classifier: Classifier, images: Images, batch: int = 256) -> Floats:
    """Input of the last layer of a Petechia model, float32 [N, D]."""
    model: Any = classifier.require_network()
    found = []
    with torch.inference_mode(), classifier.runtime.autocast():
        for rows in np.array_split(np.arange(len(images)), -(-len(images) // batch)):
            trunk = model.network.forward_features((classifier.tensor(images[rows]) - model.mean) / model.std)
            found.append(model.network.forward_head(trunk.float(), pre_logits=True).float().cpu())
    return torch.cat(found).numpy()
