"""Shares of images, with how sure one can be of them."""

from __future__ import annotations

from typing import NamedTuple

from scipy.stats import binomtest


class Count(NamedTuple):
    """So many of so many."""

    hits: int
    of: int

    @property
    def share(self) -> float:
        """Undefined is NaN."""
        return self.hits / self.of if self.of else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the share (Wilson 1927)."""
        if not self.of:
            return float("nan"), float("nan")
        low, high = binomtest(self.hits, self.of).proportion_ci(method="wilson")
        return float(low), float(high)
