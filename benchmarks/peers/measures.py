"""How detectors are judged, with 95 % intervals."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

Scores = NDArray[np.float64]
FPR = 0.01  # at which thresholds are set


def share(hits: int, count: int) -> dict[str, Any]:
    """A share with Wilson's interval; null of none."""
    if not count:
        return {"value": None, "low": None, "high": None, "hits": 0, "of": 0}
    z, p = float(norm.ppf(0.975)), hits / count
    middle, half = p + z * z / (2 * count), z * sqrt(p * (1 - p) / count + (z / (2 * count)) ** 2)
    low, high = (middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)
    return {"value": p, "low": max(0.0, low), "high": min(1.0, high), "hits": hits, "of": count}


def area(positive: Scores, negative: Scores, draws: int = 200) -> dict[str, Any]:
    """AUROC with a bootstrap interval over images; null where one kind is missing."""
    if not len(positive) or not len(negative):
        return {"value": None, "low": None, "high": None}
    rng = np.random.default_rng(0)
    again = [_area(rng.choice(positive, len(positive)), rng.choice(negative, len(negative))) for _ in range(draws)]
    low, high = np.quantile(again, (0.025, 0.975))
    return {"value": _area(positive, negative), "low": float(low), "high": float(high)}


def of_images(fitted: Scores, clean: Scores, triggered: Scores) -> dict[str, Any]:
    """A detector of triggered images: its threshold is set on the clean images that it was fitted to.

    Args:
        fitted: scores of these; higher is more suspicious.
        clean: of other clean images.
        triggered: of the same with the trigger.
    """
    threshold = float(np.quantile(fitted, 1 - FPR, method="higher"))
    return {
        "auroc": area(triggered, clean),
        "tpr": share(int((triggered > threshold).sum()), len(triggered)),
        "fpr": share(int((clean > threshold).sum()), len(clean)),
    }


def of_training_set(scores: Scores, flagged: NDArray[np.bool_], triggered: NDArray[np.bool_]) -> dict[str, Any]:
    """A filter of training images, by its ranking and by what it flags.

    Args:
        scores: [N]; higher is more suspicious.
        flagged: bool [N], by the filter's own rule.
        triggered: bool [N], the truth.
    """
    threshold = float(np.quantile(scores[~triggered], 1 - FPR, method="higher"))
    hits = int((flagged & triggered).sum())
    return {
        "auroc": area(scores[triggered], scores[~triggered]),
        "recall_at_fpr": share(int((scores[triggered] > threshold).sum()), int(triggered.sum())),
        "recall": share(hits, int(triggered.sum())),
        "precision": share(hits, int(flagged.sum())),
        "clean_flagged": share(int((flagged & ~triggered).sum()), int((~triggered).sum())),
    }


def _area(positive: Scores, negative: Scores) -> float:
    ranks = rankdata(np.concatenate([positive, negative]))[: len(positive)]
    return float((ranks.sum() - len(positive) * (len(positive) + 1) / 2) / (len(positive) * len(negative)))
