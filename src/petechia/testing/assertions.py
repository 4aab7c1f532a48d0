"""Assertions that hold under `python -O` too, with a sentence for the author of the thing that is checked."""


def require(holds: object, problem: str) -> None:
    """Raise AssertionError with what is wrong, unless it holds."""
    if not holds:
        raise AssertionError(problem)
