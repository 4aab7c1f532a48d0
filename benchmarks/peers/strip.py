"""STRIP of images (Gao et al. 2019): ART's own, and the entropy as published."""

from __future__ import annotations

from typing import Any

import numpy as np
from art.estimators.poison_mitigation.strip import STRIPMixin
from scipy.stats import entropy

from benchmarks.peers.measures import FPR, Scores, of_images, share
from benchmarks.peers.views import Floats, SingleLabel
from petechia.detect.classifier import Classifier

OVERLAYS = 20  # images that each is blended with; ART's own number


def judge(classifier: Classifier, fitted: Floats, clean: Floats, triggered: Floats) -> dict[str, Any]:
    """ART's verdicts at its own threshold, and the measures of two entropies over the answers that ART asked for.

    Returns:
        "ART": by its entropy, which is over the blends of one image, class by class; "as published": by Gao et al.'s, which
        is over the classes, blend by blend.
    """
    np.random.seed(0)  # what ART draws from
    victim = SingleLabel(classifier)
    defended = STRIPMixin(victim.predict, num_samples=OVERLAYS, false_acceptance_rate=FPR)
    defended.nb_classes = victim.nb_classes
    defended.mitigate(fitted)
    answers = {"fitted": _blends(victim)}
    abstained = {}
    for name, images in (("clean", clean), ("triggered", triggered)):
        verdicts = defended.predict(images)
        abstained[name] = share(int((verdicts == 0).all(axis=1).sum()), len(images))
        answers[name] = _blends(victim)[1:]  # the first are those of the images themselves
    result = {"ART": _measures(answers, over="blends"), "as published": _measures(answers, over="classes")}
    result["ART"] |= {"own_tpr": abstained["triggered"], "own_fpr": abstained["clean"]}
    return result


def _blends(victim: SingleLabel) -> list[Floats]:
    found, victim.answers = victim.answers, []
    return found


def _measures(answers: dict[str, list[Floats]], over: str) -> dict[str, Any]:
    suspicion = {name: np.array([-_entropy(one, over) for one in found]) for name, found in answers.items()}
    scores: tuple[Scores, Scores, Scores] = (suspicion["fitted"], suspicion["clean"], suspicion["triggered"])
    return of_images(*scores)


def _entropy(answer: Floats, over: str) -> float:
    """Of the answers to one image's blends, float32 [OVERLAYS, K]."""
    return float(np.sum(entropy(answer, base=2, axis=0 if over == "blends" else 1)) / len(answer))
