"""What a run says while it works."""

from __future__ import annotations

from typing import NamedTuple

from petechia.core.progress import NoProgress, Progress
from petechia.models.training import EpochLog


class Epoch(NamedTuple):
    """A finished epoch of one arm and seed.

    Attributes:
        arm: which model.
        seed: of the run.
        log: what training says of it.
        values: metric → value on the test images.
        run: name of the run in a study; empty for a run alone.
    """

    arm: str
    seed: int
    log: EpochLog
    values: dict[str, float]
    run: str = ""


class StudyProgress(NoProgress):
    """A `Progress` that also hears how much work there is, of finished epochs and runs, and notes. This one keeps silent."""

    @staticmethod
    def of(progress: Progress | None) -> StudyProgress:
        """The same if it hears all this already; else one that passes on phases alone."""
        if progress is None:
            return StudyProgress()
        return progress if isinstance(progress, StudyProgress) else _PhasesAlone(progress)

    def expect(self, work: float) -> None:
        """So much more work is to come, in the unit of `phase`; negative where it is found to be done already."""

    def phase(self, name: str, total: int = 0, work: float = 0) -> None:
        """A phase begins, of so many images, each of so much work: 1 is a prediction."""

    def epoch(self, epoch: Epoch) -> None:
        """An epoch is finished, measured and saved."""

    def finished(self, run: str) -> None:
        """A run of a study is finished."""

    def note(self, sentence: str) -> None:
        """Something that the user should know."""


class _PhasesAlone(StudyProgress):
    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def phase(self, name: str, total: int = 0, work: float = 0) -> None:
        self.progress.phase(name, total)

    def advance(self, count: int = 1) -> None:
        self.progress.advance(count)
