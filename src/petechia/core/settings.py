"""The base class of all configuration objects."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from petechia.core.errors import printable

LARGEST = 2**53  # of an integer: beyond it, no array can be so large, and JSON and floating point are not exact


class Settings(BaseModel):
    """Frozen, validated and comparable; unknown keys raise an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _no_giant(cls, value: Any) -> Any:
        """Refuse integers that numpy and torch cannot hold."""
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, int) and abs(one) > LARGEST:
                raise ValueError("give a smaller number")
        return value


def distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return names of classes, which say which is which.

    Raises:
        ValueError: two are the same.
    """
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two classes are named {printable(double)!r}; give each a name of its own")
    return names


def first_problem(error: ValidationError) -> str:
    """Return the first problem of a validation error, as "KEY: problem"."""
    first = error.errors(include_url=False)[0]
    key = printable(".".join(map(str, first["loc"])))
    said = printable(first["msg"].removeprefix("Value error, "), 300)
    return f"{key}: {said}" if key else said
