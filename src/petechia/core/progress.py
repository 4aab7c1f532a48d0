"""Progress reports of long operations: named phases and the number of completed steps."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives progress reports of a long operation. Any object with these two methods will do.

    Example:
        >>> class Printed:
        ...     def phase(self, name: str, total: int = 0) -> None:
        ...         print(f"{name}: {total}")
        ...
        ...     def advance(self, count: int = 1) -> None:
        ...         print(f"+{count}")
        >>> progress: Progress = Printed()
        >>> progress.phase("reading images", 2)
        reading images: 2
        >>> progress.advance()
        +1
    """

    def phase(self, name: str, total: int = 0) -> None:
        """Start a phase.

        Args:
            name: a short lower-case phrase, such as "reading images".
            total: number of steps in the phase; 0 if unknown.
        """

    def advance(self, count: int = 1) -> None:
        """Report that `count` more steps of the phase are complete."""


class NoProgress:
    """A `Progress` that ignores all reports."""

    def phase(self, name: str, total: int = 0) -> None:
        """Do nothing."""

    def advance(self, count: int = 1) -> None:
        """Do nothing."""


SILENT: Progress = NoProgress()
