"""The base class of all configuration objects."""

from pydantic import BaseModel, ConfigDict, ValidationError

from petechia.core.errors import printable


class Settings(BaseModel):
    """Frozen, validated and comparable; unknown keys raise an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


def first_problem(error: ValidationError) -> str:
    """Return the first problem of a validation error, as "KEY: problem"."""
    first = error.errors(include_url=False)[0]
    key = printable(".".join(map(str, first["loc"])))
    return f"{key}: {printable(first['msg'], 300)}" if key else printable(first["msg"], 300)
