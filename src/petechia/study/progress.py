"""What a run tells while it works."""

from __future__ import annotations

from typing import NamedTuple

from petechia.models.training import EpochLog


class Epoch(NamedTuple):
    """A finished epoch of one arm and seed: what training says of it, metric → value, and in a study the run's name."""

    arm: str
    seed: int
    log: EpochLog
    values: dict[str, float]
    run: str = ""


class Progress:
    """Hears what a run does; this one keeps silent."""

    def expect(self, work: float) -> None:
        """So much more work is to come, in the unit of `phase`; less than nothing where it is found to be done."""

    def phase(self, name: str, images: int, work: float = 0) -> None:
        """A phase begins, on so many images, each of so much work: 1 is a prediction."""

    def advance(self, images: int) -> None:
        """Some more images of the phase are done."""

    def epoch(self, epoch: Epoch) -> None:
        """An epoch is finished, measured and saved."""

    def finished(self, run: str) -> None:
        """A run of a study is finished."""

    def note(self, sentence: str) -> None:
        """Something that the user should know."""
