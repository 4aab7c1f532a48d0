"""TED++ (Le et al. 2025): how an image's nearest neighbours change from layer to layer, within tubes around the classes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from torch import Tensor

from benchmarks.peers.measures import Scores
from benchmarks.peers.rules import Defence, ImageRule
from benchmarks.peers.views import floats
from petechia.detect.protocol import ImagesUnderTest

LAYERS = 10  # spread over the network
TUBE = 0.95  # quantile of the distances within a class that gives the radius of its tube


class _Seen(NamedTuple):
    labels: NDArray[np.intp]
    layers: list[NDArray[np.float32]]


class Trajectories(Defence[Scores]):
    """How unusual the ranks of an image's nearest neighbour of its own label are, over the layers, [N]."""

    def fit(self, clean: ImagesUnderTest) -> Scores:
        """The clean images are the neighbours; ranks of each count the others only."""
        self._neighbours = _seen(clean)
        ranks = self._ranks(self._neighbours, own=True)
        self._usual = PCA(n_components=0.95, svd_solver="full").fit(ranks)
        return self._unusual(ranks)

    def ask(self, subject: ImagesUnderTest) -> Scores:
        """[N]."""
        return self._unusual(self._ranks(_seen(subject), own=False))

    def _ranks(self, found: _Seen, own: bool) -> Scores:
        """Share of the neighbours that are nearer than the first of the same label, float64 [N, L]; 1 outside the tube."""
        ranks = np.ones((len(found.labels), len(found.layers)))
        for k, (layer, known) in enumerate(zip(found.layers, self._neighbours.layers, strict=True)):
            distances, within = cdist(layer, known), cdist(known, known)
            np.fill_diagonal(within, np.inf)
            if own:
                distances = within
            for row, label in enumerate(found.labels):
                same = self._neighbours.labels == label
                nearest = distances[row, same].min(initial=np.inf)
                of_class = within[np.ix_(same, same)].min(axis=1, initial=np.inf)
                finite = of_class[np.isfinite(of_class)]
                if len(finite) and nearest <= np.quantile(finite, TUBE):
                    ranks[row, k] = (distances[row] < nearest).mean()
        return ranks

    def _unusual(self, ranks: Scores) -> Scores:
        """Squared distance from the clean ones, in standard deviations of the main components, and what these leave."""
        spread = np.maximum(self._usual.explained_variance_, 1e-6)
        placed = self._usual.transform(ranks)
        left = ranks - self._usual.inverse_transform(placed)
        return np.asarray((placed**2 / spread).sum(axis=1) + (left**2).sum(axis=1) / max(self._usual.noise_variance_, 1e-6))


class Unusual(ImageRule[Scores]):
    """TED++: that distance."""

    def scores(self, found: Scores, values: Any) -> Scores:
        """[N]."""
        return found


def _seen(subject: ImagesUnderTest) -> _Seen:
    """The label of every image, and the mean of each channel after layers spread over the network."""
    outputs: list[Tensor] = []

    def keep(_module: object, _given: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim in {3, 4}:
            channels = output.flatten(2) if output.ndim == 4 else output.transpose(1, 2)
            outputs.append(channels.float().mean(dim=2).cpu())

    hooks = [module.register_forward_hook(keep) for module in subject.classifier.require_network().modules()]
    parts = []
    try:
        for some in torch.split(torch.from_numpy(floats(subject)), 64):
            outputs.clear()
            label = subject.classifier.logits(some).argmax(dim=1)
            chosen = np.unique(np.linspace(0, len(outputs) - 1, LAYERS).round().astype(int))
            parts.append((label.numpy(), [outputs[k].numpy() for k in chosen]))
    finally:
        for hook in hooks:
            hook.remove()
    layers = [np.concatenate(some) for some in zip(*(layers for _, layers in parts), strict=True)]
    return _Seen(np.concatenate([label for label, _ in parts]), layers)
