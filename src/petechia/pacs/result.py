"""What a watch has done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Round:
    """What one list of the PACS brought.

    Attributes:
        screened: number of new images that were screened and, if flagged, reported.
        flagged: number that are flagged, reported or not.
        failed: number of new images that cannot be screened or reported, or not now.
    """

    screened: int = 0
    flagged: int = 0
    failed: int = 0

    def __sub__(self, other: Round) -> Round:
        """What this has more."""
        return Round(self.screened - other.screened, self.flagged - other.flagged, self.failed - other.failed)

    def __add__(self, other: Round) -> Round:
        """Both together."""
        return Round(self.screened + other.screened, self.flagged + other.flagged, self.failed + other.failed)
