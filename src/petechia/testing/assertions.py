"""Assertions that hold under `python -O` too, with a sentence for the author of the thing that is checked."""

from collections.abc import Iterator
from contextlib import contextmanager


def require(holds: object, problem: str) -> None:
    """Raise AssertionError with what is wrong, unless it holds."""
    if not holds:
        raise AssertionError(problem)


@contextmanager
def sentence(about: str) -> Iterator[None]:
    """Turn whatever the code of a checked thing raises into an AssertionError that says what was tried.

    Args:
        about: what is checked, as the beginning of a sentence.
    """
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"{about} raises {type(error).__name__}: {str(error) or 'no message'}.") from error
