"""What a run reports while it works."""

from __future__ import annotations

from typing import NamedTuple

from petechia.core.progress import NoProgress, Progress
from petechia.models.training import EpochLog


class Epoch(NamedTuple):
    """A finished epoch of one arm and seed.

    Attributes:
        arm: name of the arm.
        seed: seed of the arm.
        log: record of the training.
        values: metric → value on the test images.
        run: name of the run in a study; empty for a single run.
    """

    arm: str
    seed: int
    log: EpochLog
    values: dict[str, float]
    run: str = ""


class StudyProgress(NoProgress):
    """A `Progress` that also receives the amount of work, finished epochs and runs, and notes. This one does nothing."""

    @staticmethod
    def of(progress: Progress | None) -> StudyProgress:
        """Return `progress` itself if it receives all of this; otherwise an adapter that passes on phases only."""
        if progress is None:
            return StudyProgress()
        return progress if isinstance(progress, StudyProgress) else _PhasesAlone(progress)

    def expect(self, work: float) -> None:
        """Announce more work, in the unit of `phase`; negative if some of it turns out to be done already."""

    def phase(self, name: str, total: int = 0, work: float = 0) -> None:
        """Start a phase of `total` images, each of which costs `work`; a prediction costs 1."""

    def epoch(self, epoch: Epoch) -> None:
        """Report an epoch that is finished, measured and saved."""

    def finished(self, run: str) -> None:
        """Report a finished run of a study."""

    def note(self, sentence: str) -> None:
        """Report something that the user should know."""


class _PhasesAlone(StudyProgress):
    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def phase(self, name: str, total: int = 0, work: float = 0) -> None:
        self.progress.phase(name, total)

    def advance(self, count: int = 1) -> None:
        self.progress.advance(count)
