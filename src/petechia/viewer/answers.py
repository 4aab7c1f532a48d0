"""Scores and heat maps of networks: computed once for each question, together with those of other readers, and kept."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.models.classifier import Classifier
from petechia.saliency import explain
from petechia.viewer.networks import Network
from petechia.viewer.pacing import EXPLAINING
from petechia.viewer.work import Abandoned, Turns

MOST_ANSWERS = 256  # kept in memory
MOST_TOGETHER = 8  # images in one pass; more take little less time each, and memory


class Answer(NamedTuple):
    """What a network makes of one input.

    Attributes:
        scores: float32 [K], probabilities.
        maps: layer → heat map, float32 [h, w], in the scale of the layer.
    """

    scores: NDArray[np.float32]
    maps: dict[str, NDArray[np.float32]]


class _Question:
    """What a reader wants to know.

    Attributes:
        inputs: uint8 [N, S, S] or [N, S, S, 3].
        target: class to explain; None until it is known, if the reader leaves the choice to the network.
        left: says whether the reader has left.
        kind: questions of one kind can be answered in one pass.
        answers: one for every input; None until there are some.
    """

    def __init__(
        self, inputs: NDArray[np.uint8], network: Network, target: int | None, method: str, left: Callable[[], bool]
    ) -> None:
        self.inputs, self.network, self.target, self.method, self.left = inputs, network, target, method, left
        self.kind = (network, method, inputs.shape[1:])
        self.answers: list[Answer] | None = None

    @cached_property
    def keys(self) -> list[tuple[object, ...]]:
        """What each answer is kept under; the target must be known."""
        return [(*self.network, self.target, self.method, hashlib.sha256(one.tobytes()).digest()) for one in self.inputs]


class Answers:
    """Computes answers and keeps the newest. Questions that wait for their turn at the same time are answered in one pass."""

    def __init__(self, load: Callable[[Network], Classifier], turns: Turns) -> None:
        self._load, self._turns = load, turns
        self._kept: OrderedDict[tuple[object, ...], Answer] = OrderedDict()  # touched in turn
        self._waiting: list[_Question] = []
        self._lock = threading.Lock()

    def explain(
        self,
        inputs: NDArray[np.uint8],
        network: Network,
        target: int | None,
        method: str,
        left: Callable[[], bool] = lambda: False,
    ) -> tuple[int, list[Answer]]:
        """Explain every input. The same question has the same answer, so what is kept is not computed again.

        Args:
            inputs: uint8 [N, S, S] or [N, S, S, 3].
            network: to ask.
            target: class to explain; None takes the class with the highest score for the last input.
            method: of `petechia.saliency`.
            left: says whether the reader has left, so that nobody waits for the answer.

        Returns:
            The explained class, and one answer for every input.

        Raises:
            PetechiaError: there is no such network, class or method, or the answer is not a finite number.
            Abandoned: the reader has left.
        """
        question = _Question(inputs, network, target, method, left)
        with self._lock:
            self._waiting.append(question)
        try:
            if self._turns.take(EXPLAINING, lambda: question.answers is None and not left()):
                try:
                    self._answer_with_others(question)
                finally:
                    self._turns.give()
        finally:
            with self._lock:
                self._waiting.remove(question)
        if question.answers is None or question.target is None:
            raise Abandoned
        return question.target, question.answers

    def _answer_with_others(self, question: _Question) -> None:
        alike, images = [question], len(question.inputs)
        with self._lock:
            for one in self._waiting:
                fits = one.kind == question.kind and images + len(one.inputs) <= MOST_TOGETHER
                if fits and one is not question and one.answers is None and not one.left():
                    alike.append(one)
                    images += len(one.inputs)
        try:
            self._answer(alike)
        except PetechiaError:  # perhaps because of another question
            self._answer([question])

    def _answer(self, questions: list[_Question]) -> None:
        classifier = self._load(questions[0].network)
        open_ = [one for one in questions if one.target is None]
        if open_:
            highest = classifier.logits(np.stack([one.inputs[-1] for one in open_])).argmax(dim=1)
            for one, target in zip(open_, highest.tolist(), strict=True):
                one.target = target
        asked = {key: (one.target, image) for one in questions for key, image in zip(one.keys, one.inputs, strict=True)}
        new = {key: what for key, what in asked.items() if key not in self._kept}
        if new:
            targets, images = zip(*new.values(), strict=True)
            self._kept |= zip(new, self._explain(classifier, np.stack(images), targets, questions[0].method), strict=True)
        for one in questions:
            one.answers = [self._kept[key] for key in one.keys]
            for key in one.keys:
                self._kept.move_to_end(key)
        while len(self._kept) > MOST_ANSWERS:
            self._kept.popitem(last=False)

    def _explain(self, classifier: Classifier, inputs: NDArray[np.uint8], targets: Sequence[int], method: str) -> list[Answer]:
        with classifier.runtime.autocast():
            images = classifier.tensor(inputs)
            classes = torch.tensor(targets, device=images.device)
            found = explain(classifier.require_network(), images, classes, None, method)
        scores = found.logits.sigmoid().cpu().numpy()
        maps = {layer: one.cpu().numpy() for layer, one in found.maps.items()}
        if not all(np.isfinite(one).all() for one in (scores, *maps.values())):
            raise PetechiaError("The scores or heat maps of this network are not finite numbers; choose another epoch.")
        return [Answer(one, {layer: maps[layer][row] for layer in maps}) for row, one in enumerate(scores)]
