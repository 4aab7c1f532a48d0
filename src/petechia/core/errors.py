"""The one error that users see, and how to show in it what a stranger's file says."""

import reprlib
from collections.abc import Iterable, Sequence
from textwrap import shorten


class PetechiaError(Exception):
    """A problem that the user can solve. The message is one sentence: what, where (file, row, key), what to do."""


def printable(text: str, most: int = 60) -> str:
    """A text out of a file, cut, and without characters that a terminal would obey."""
    cut = text if len(text) <= most else f"{text[: most - 1]}…"
    return "".join(letter if letter.isprintable() else "�" for letter in cut)


def shown(value: object) -> str:
    """A value out of a file, as Python writes it, cut: lists in lists can mean more than a memory holds."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 3, 100, 100
    try:
        return printable(short.repr(value), 120)
    except ValueError:  # an integer of more digits than Python writes
        return "a very long number"


def first_line(error: BaseException) -> str:
    """What an error of another library says, in short, to stand in a sentence."""
    return shorten(
        printable((str(error).strip() or type(error).__name__).splitlines()[0], 10_000), 200, placeholder=" …"
    ).rstrip(".")


def unreadable(path: object, error: OSError, advice: str) -> PetechiaError:
    """The error for a file that cannot be read.

    Args:
        path: of the file.
        error: from the operating system.
        advice: what to do: "check the path of the image".
    """
    return PetechiaError(f"{path} cannot be read ({error.strerror}); {advice}.")


def listing(names: Sequence[str], most: int = 5) -> str:
    """The first few names of a list, for a message: a file can name anything, so they are cut and made printable."""
    shown = ", ".join(printable(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def alternatives(names: Iterable[str]) -> str:
    """Names to choose from, in words: "a, b or c"."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
