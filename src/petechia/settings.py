"""The base of everything that a configuration can hold."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen, validated, comparable; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)
