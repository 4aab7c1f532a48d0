"""STRIP of images (Gao et al. 2019): ART's own, and the entropy as published."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from art.estimators.poison_mitigation.strip import STRIPMixin
from scipy.stats import entropy
from torch import Tensor

from benchmarks.peers.measures import FPR, Scores, of_images, share
from benchmarks.peers.views import Floats, SingleLabel, one_of
from petechia.models.classifier import Classifier

OVERLAYS = 20  # images that each is blended with; ART's own number


def judge(classifier: Classifier, fitted: Floats, clean: Floats, triggered: Floats) -> dict[str, Any]:
    """ART's verdicts at its own threshold, and the measures of two entropies over the answers that ART asked for.

    Returns:
        "ART": by its entropy, which is over the blends of one image, class by class; "as published": by Gao et al.'s, which
        is over the classes, blend by blend; both also "with none" as a further class.
    """
    np.random.seed(0)  # what ART draws from
    victim = SingleLabel(classifier)
    defended = STRIPMixin(victim.predict, num_samples=OVERLAYS, false_acceptance_rate=FPR)
    defended.nb_classes = victim.nb_classes
    defended.mitigate(fitted)
    answers = [_blends(victim)]
    abstained = []
    for images in (clean, triggered):
        verdicts = defended.predict(images)
        abstained.append(share(int((verdicts == 0).all(axis=1).sum()), len(images)))
        answers.append(_blends(victim)[1:])  # the first are those of the images themselves
    result = {}
    for name, axis in (("ART", 0), ("as published", 1)):
        result[name] = of_images(*(_suspicion(given, axis) for given in answers))
        result[f"{name}, with none"] = of_images(*(_suspicion(map(one_of, given), axis) for given in answers))
    result["ART"] |= {"own_fpr": abstained[0], "own_tpr": abstained[1]}
    return result


def _blends(victim: SingleLabel) -> list[Tensor]:
    found, victim.answers = victim.answers, []
    return found


def _suspicion(answers: Iterable[Tensor], axis: int) -> Scores:
    """Negative entropies of the answers to each image's blends, logits [OVERLAYS, K]."""
    found = (entropy(answer.softmax(dim=1).numpy(), base=2, axis=axis).sum() for answer in answers)
    return -np.array(list(found)) / OVERLAYS
