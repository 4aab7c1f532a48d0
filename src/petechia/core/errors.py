"""The one error class that users see, and helpers to show text from untrusted files in its messages."""

import re
import reprlib
from collections.abc import Iterable, Sequence
from textwrap import shorten

CREDENTIALS = re.compile(r"//[^\s/?#]*@")  # in URLs


class PetechiaError(Exception):
    """A problem that the user can solve. The message is one sentence: what is wrong, where (file, row, key), what to do."""


class ResumableError(PetechiaError):
    """Work ended before it was done, and what was finished is right: the same command goes on with it."""


def printable(text: str, most: int = 60) -> str:
    """Return text from a file, truncated, with the characters that a terminal would interpret replaced."""
    return harmless(text if len(text) <= most else f"{text[: most - 1]}…")


def harmless(text: str, allowed: str = "") -> str:
    """Return text with the characters replaced that a terminal would obey or that change the direction of others."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in allowed else "�" for letter in text)


def shown(value: object) -> str:
    """Return the repr of a value from a file, truncated: nested lists can expand to more than memory holds."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 3, 100, 100
    try:
        return printable(short.repr(value), 120)
    except ValueError:  # an integer with more digits than Python converts to text
        return "a very long number"


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error, shortened to fit into a sentence, without user and password of URLs."""
    line = without_credentials((str(error).strip() or type(error).__name__).splitlines()[0])
    return shorten(printable(line, 10_000), 200, placeholder=" …").rstrip(".")


def without_credentials(text: str) -> str:
    """Return text in which the user and the password of URLs are left out, as in https://user:password@host."""
    return CREDENTIALS.sub("//", text)


def unreadable(path: object, error: OSError, advice: str) -> PetechiaError:
    """Return the error for a file that cannot be read.

    Args:
        path: path of the file.
        error: error from the operating system.
        advice: what the user can do, such as "check the path of the image".
    """
    return PetechiaError(f"{path} cannot be read ({error.strerror}); {advice}.")


def listing(names: Sequence[str], most: int = 5) -> str:
    """Return the first few names for a message. Names can come from a file, so they are truncated and made printable."""
    shown = ", ".join(printable(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def alternatives(names: Iterable[str]) -> str:
    """Names to choose from, in words: "a, b or c"."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
