"""The base of everything that a configuration can hold."""

from pydantic import BaseModel, ConfigDict, ValidationError

from petechia.core.errors import printable


class Settings(BaseModel):
    """Frozen, validated, comparable; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong, as "KEY: what"."""
    first = error.errors(include_url=False)[0]
    key = printable(".".join(map(str, first["loc"])))
    return f"{key}: {printable(first['msg'], 300)}" if key else printable(first["msg"], 300)
