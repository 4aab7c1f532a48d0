"""Proportions of images with their confidence intervals."""

from __future__ import annotations

from typing import NamedTuple

from scipy.stats import binomtest


class Count(NamedTuple):
    """A number of hits out of a number of trials.

    Attributes:
        hits: number of hits.
        trials: number of trials.
    """

    hits: int
    trials: int

    @property
    def share(self) -> float:
        """The proportion of hits; NaN without trials."""
        return self.hits / self.trials if self.trials else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the proportion (Wilson 1927); NaN without trials."""
        if not self.trials:
            return float("nan"), float("nan")
        low, high = binomtest(self.hits, self.trials).proportion_ci(method="wilson")
        return float(low), float(high)
