"""How long work says what it does: phases, and how far each has come."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told what long work does. Anything with these two methods will do.

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
        """A phase begins.

        Args:
            name: a short lower-case phrase, such as "reading images".
            total: steps that it will take; 0 where that is not known.
        """

    def advance(self, count: int = 1) -> None:
        """Some more steps of the phase are done."""


class NoProgress:
    """Keeps silent."""

    def phase(self, name: str, total: int = 0) -> None:
        """Do nothing."""

    def advance(self, count: int = 1) -> None:
        """Do nothing."""


SILENT: Progress = NoProgress()
