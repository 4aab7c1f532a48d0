"""How detectors are judged, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from petechia.detect.protocol import Finding

Scores = NDArray[np.float64]
FPR = 0.01  # at which thresholds are set


def share(hits: int, count: int) -> dict[str, Any]:
    """A share with Wilson's interval; null where there is nothing to count."""
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


def scores_of(findings: Sequence[Finding]) -> Scores:
    """The scores of findings, [N]."""
    return np.array([finding.score for finding in findings], np.float64)


def of_images(clean: Sequence[Finding], triggered: Sequence[Finding]) -> dict[str, Any]:
    """A detector of triggered images.

    Args:
        clean: findings about clean images that it was not calibrated on.
        triggered: about the same images with the trigger.

    Returns:
        The AUROC of the scores, and the shares that are flagged; of a peer with a verdict of its own, that one's as well.
    """
    found: dict[str, Any] = {"auroc": area(scores_of(triggered), scores_of(clean))}
    for name, group in (("tpr", triggered), ("fpr", clean)):
        found[name] = share(sum(finding.flagged for finding in group), len(group))
        own = [finding.evidence["own_verdict"] for finding in group if "own_verdict" in finding.evidence]
        if own:
            found[f"own_{name}"] = share(sum(own), len(own))
    return found


def of_model(findings: Sequence[Finding]) -> dict[str, Any]:
    """A detector of backdoored models: which classes it flags, and score and evidence of each."""
    return {
        "flagged": [finding.about for finding in findings if finding.flagged],
        "index": {finding.about: finding.score for finding in findings},
        "triggers": {finding.about: finding.evidence for finding in findings},
    }


def of_training_set(findings: Sequence[Finding], truth: NDArray[np.bool_]) -> dict[str, Any]:
    """A filter of training images, by its ranking and by the images that it flags.

    Args:
        findings: about M of the images; each is about a row of the training set.
        truth: bool [N], which images of the training set are triggered.
    """
    scores, triggered = scores_of(findings), truth[[int(finding.about) for finding in findings]]
    flagged = np.array([finding.flagged for finding in findings])
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
