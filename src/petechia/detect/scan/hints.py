"""What labels and a model's features say of images: it orders those with equal evidence and those without; it flags none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from petechia.data.catalog import Catalog
from petechia.detect.scan.features import STATISTICS, FeatureOutliers
from petechia.detect.scan.labels import contradiction
from petechia.detect.scan.ledger import Suspect
from petechia.detect.scan.mislabelled import Doubts
from petechia.detect.scan.rules import DOUBTFUL_LABEL, FEATURE_OUTLIER, LABEL_HINT
from petechia.detect.scan.thresholds import HintWeights, ScanThresholds


class Hint(NamedTuple):
    """A hint about one image.

    Attributes:
        strength: 0 nothing … 1.
        reasons: sentences.
    """

    strength: float
    reasons: tuple[str, ...]


def hints_of(catalog: Catalog, doubts: Doubts, outliers: FeatureOutliers | None, thresholds: ScanThresholds) -> Iterator[Hint]:
    """One hint an image, from its labels and, where there is a model, its features."""
    contradictions = contradiction(catalog.labels, catalog.split, catalog.patients, thresholds.labels)
    weight = thresholds.labels.doubt_weight
    labels = (1 - weight) * contradictions + weight * doubts.strength
    ranks = np.zeros(len(catalog)) if outliers is None else outliers.rank
    weights = thresholds.hints
    for index, (label, rank) in enumerate(zip(labels.tolist(), ranks.tolist(), strict=True)):
        reasons = [LABEL_HINT] if contradictions[index] > 0 else []
        if doubts.odds[index] >= thresholds.labels.reported_doubt:
            reasons.append(DOUBTFUL_LABEL.format(label=catalog.classes[doubts.label[index]]))
        if outliers is None:
            yield Hint(label, tuple(reasons))
            continue
        if rank >= thresholds.features.reported_rank:
            reasons.append(_outlier_reason(catalog, outliers, index))
        both = weights.label_weight * label + weights.feature_weight * rank
        yield Hint(both / (weights.label_weight + weights.feature_weight), tuple(reasons))


def with_hint(suspect: Suspect, hint: Hint, weights: HintWeights) -> Suspect:
    """A suspect ranked by a hint too. The reasons of a hint are given for images that are not flagged."""
    if suspect.flagged:
        return suspect._replace(score=suspect.score * weights.flagged_factor + weights.flagged_hint * hint.strength)
    reasons = ([suspect.reason] if suspect.reason else []) + list(hint.reasons)
    score = min(suspect.score, weights.unflagged_most) + weights.unflagged_hint * hint.strength
    return suspect._replace(score=score, reason="; ".join(reasons))


def _outlier_reason(catalog: Catalog, outliers: FeatureOutliers, index: int) -> str:
    classes = len(catalog.classes)
    k = int(outliers.group[index])
    among = (
        f"those with {catalog.classes[k]} from those without"
        if k < classes
        else f"those without {catalog.classes[k - classes]}"
    )
    scores = ", ".join(f"{name} {value:.1f}" for name, value in zip(STATISTICS, outliers.scores[index], strict=True))
    return FEATURE_OUTLIER.format(among=among, scores=scores)
