"""Single-label views of a multi-label network and of its data: what the peers can take."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from petechia.data.dataset import Images
from petechia.models.classifier import Classifier

FEW = 20  # ART reduces a class's activations to ten dimensions and splits them in two: that takes some images
Floats = NDArray[np.float32]


def one_of(logits: Tensor) -> Tensor:
    """Logits [B, K] as those of K findings and of none, [B, K + 1].

    "None" has logit 0, against which a sigmoid weighs its class: with one class, softmax is its sigmoid.
    """
    return functional.pad(logits, (0, 1))


def one_label(labels: NDArray[np.int8], target: int) -> NDArray[np.intp]:
    """One label an image: its class; K for none; of several the target, else the rarest.

    Args:
        labels: int8 [N, K].
        target: knowing it favours the peers.

    Returns:
        int [N], counted from 0 without gaps. Classes that fewer than `FEW` images are left with count as none.
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
        answers: the logits behind all that `predict` has given, call by call.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.nb_classes = len(classifier.classes)
        self.answers: list[Tensor] = []
        self._classifier = classifier

    def predict(self, x: Floats) -> Floats:
        """Probabilities, float32 [N, K]."""
        logits = self._classifier.logits(torch.from_numpy(np.asarray(x, np.float32)))
        self.answers.append(logits)
        return logits.softmax(dim=1).numpy()


class Featured:
    """A classifier that ART asks for the features of images, given these in place of the images.

    Attributes:
        nb_classes: that labels may have.
        layer_names: one, that before the last layer, as the papers have it.
    """

    layer_names = ("features",)

    def __init__(self, nb_classes: int) -> None:
        self.nb_classes = nb_classes

    def get_activations(self, x: Floats, layer: int, batch_size: int) -> Floats:
        """What is given, float32 [N, D]."""
        return x


def features(classifier: Classifier, images: Images, batch: int = 256) -> Floats:
    """What the last layer of a Petechia model gets, float32 [N, D]."""
    model: Any = classifier.require_network()
    found = []
    with torch.inference_mode(), classifier.runtime.autocast():
        for rows in np.array_split(np.arange(len(images)), -(-len(images) // batch)):
            trunk = model.network.forward_features((classifier.tensor(images[rows]) - model.mean) / model.std)
            found.append(model.network.forward_head(trunk.float(), pre_logits=True).float().cpu())
    return torch.cat(found).numpy()
