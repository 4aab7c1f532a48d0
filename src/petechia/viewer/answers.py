"""Scores and heat maps of networks: computed once for each question, and kept."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.models.classifier import Classifier
from petechia.saliency import explain
from petechia.viewer.networks import Network

MOST_ANSWERS = 256  # kept in memory


class Answer(NamedTuple):
    """What a network makes of one input.

    Attributes:
        scores: float32 [K], probabilities.
        maps: layer → heat map, float32 [h, w], in the scale of the layer.
    """

    scores: NDArray[np.float32]
    maps: dict[str, NDArray[np.float32]]


class Answers:
    """Computes answers and keeps the newest. One thread at a time may call it."""

    def __init__(self, load: Callable[[Network], Classifier]) -> None:
        self._load = load
        self._kept: OrderedDict[tuple[object, ...], Answer] = OrderedDict()

    def explain(self, inputs: NDArray[np.uint8], network: Network, target: int | None, method: str) -> tuple[int, list[Answer]]:
        """Explain every input. The same question has the same answer, so what is kept is not computed again.

        Args:
            inputs: uint8 [N, S, S] or [N, S, S, 3].
            network: to ask.
            target: class to explain; None takes the class with the highest score for the last input.
            method: of `petechia.saliency`.

        Returns:
            The explained class, and one answer for every input.

        Raises:
            PetechiaError: there is no such network, class or method, or the answer is not a finite number.
        """
        if target is None:
            target = int(self._load(network).logits(inputs[-1:]).argmax(dim=1)[0])
        keys = [(*network, target, method, hashlib.sha256(one.tobytes()).digest()) for one in inputs]
        new = {key: row for row, key in enumerate(keys) if key not in self._kept}
        if new:
            computed = self._explain(inputs[list(new.values())], network, target, method)
            self._kept |= zip(new, computed, strict=True)
        answers = [self._kept[key] for key in keys]
        for key in keys:
            self._kept.move_to_end(key)
        while len(self._kept) > MOST_ANSWERS:
            self._kept.popitem(last=False)
        return target, answers

    def _explain(self, inputs: NDArray[np.uint8], network: Network, target: int, method: str) -> list[Answer]:
        classifier = self._load(network)
        with classifier.runtime.autocast():
            found = explain(classifier.require_network(), classifier.tensor(inputs), target, None, method)
        scores = found.logits.sigmoid().cpu().numpy()
        maps = {layer: one.cpu().numpy() for layer, one in found.maps.items()}
        if not all(np.isfinite(one).all() for one in (scores, *maps.values())):
            raise PetechiaError("The scores or heat maps of this network are not finite numbers; choose another epoch.")
        return [Answer(one, {layer: maps[layer][row] for layer in maps}) for row, one in enumerate(scores)]
