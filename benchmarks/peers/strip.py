"""STRIP of images (Gao et al. 2019): ART's own, and the entropy as published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from art.estimators.poison_mitigation.strip import STRIPMixin
from numpy.typing import NDArray
from scipy.stats import entropy
from torch import Tensor

from benchmarks.peers.measures import FPR, Scores
from benchmarks.peers.rules import Defence, ImageRule
from benchmarks.peers.views import SingleLabel, floats, one_of
from petechia.detect.protocol import ImagesUnderTest

OVERLAYS = 20  # images that each is blended with; ART's own number


class Blends(NamedTuple):
    """What ART asked the model about N images.

    Attributes:
        answers: N times logits [OVERLAYS, K], of the blends of an image.
        abstained: bool [N], whether ART refuses to classify the image; None of the images that it was fitted to.
    """

    answers: list[Tensor]
    abstained: NDArray[np.bool_] | None


class ArtStrip(Defence[Blends]):
    """ART's STRIP."""

    def fit(self, clean: ImagesUnderTest) -> Blends:
        """ART sets its own threshold."""
        np.random.seed(0)  # what ART draws from
        self.victim = SingleLabel(clean.classifier)
        self.defended = STRIPMixin(self.victim.predict, num_samples=OVERLAYS, false_acceptance_rate=FPR)
        self.defended.nb_classes = self.victim.nb_classes
        self.defended.mitigate(floats(clean))
        return Blends(self.victim.take_answers(), None)

    def ask(self, subject: ImagesUnderTest) -> Blends:
        """ART classifies images or abstains."""
        verdicts = self.defended.predict(floats(subject))
        answers = self.victim.take_answers()[1:]  # the first are those of the images themselves
        return Blends(answers, (verdicts == 0).all(axis=1))


class Strip(ImageRule[Blends]):
    """Negative entropy of the model's answers to an image's blends.

    Args:
        name: of the rule.
        defence: ART's STRIP.
        axis: 0 is ART's entropy, over the blends, class by class; 1 is that of Gao et al., over the classes, blend by blend.
        none: whether "no class" counts as a further class.
        own: whether ART's own verdict goes with it.
    """

    def __init__(self, name: str, defence: ArtStrip, axis: int, none: bool = False, own: bool = False) -> None:
        super().__init__(name, defence)
        self.axis, self.none, self.own = axis, none, own

    def scores(self, found: Blends, values: Mapping[str, Any]) -> Scores:
        """Negative entropies, [N]."""
        answers: Iterable[Tensor] = map(one_of, found.answers) if self.none else found.answers
        sums = (entropy(answer.softmax(dim=1).numpy(), base=2, axis=self.axis).sum() for answer in answers)
        return -np.array(list(sums)) / OVERLAYS

    def own_verdict(self, found: Blends) -> NDArray[np.bool_] | None:
        """Whether ART abstains."""
        return found.abstained if self.own else None


def detectors() -> list[Strip]:
    """Four rules on the same answers."""
    art = ArtStrip()
    return [
        Strip("ART", art, axis=0, own=True),
        Strip("ART, with none", art, axis=0, none=True),
        Strip("as published", art, axis=1),
        Strip("as published, with none", art, axis=1, none=True),
    ]
