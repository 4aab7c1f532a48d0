"""The kinds of triggers, ours and those of other packages; `Trigger` is any of them, told apart by `kind`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticKnownError, SchemaValidator, core_schema

from petechia.attack.triggers.base import BaseTrigger
from petechia.attack.triggers.fiba import Fiba
from petechia.attack.triggers.findings import Findings
from petechia.attack.triggers.marker import Marker
from petechia.attack.triggers.patch import Patch
from petechia.attack.triggers.pattern import Pattern
from petechia.attack.triggers.sinusoid import Sinusoid
from petechia.attack.triggers.warp import Warp
from petechia.core.registry import Registry

TriggerClass = type[BaseTrigger]


def _fitting(name: str, found: object) -> TriggerClass:
    """A class that can be registered under a name.

    Raises:
        TypeError: it is not a class of triggers.
        ValueError: it calls itself something else.
    """
    if not isinstance(found, type) or not issubclass(found, BaseTrigger):
        raise TypeError(f"{found!r} is not a subclass of petechia.attack.triggers.BaseTrigger")
    kind = found.model_fields["kind"].default
    if kind != name:
        raise ValueError(f"its kind is {kind!r}; write kind: Literal[{name!r}] = {name!r}")
    return found


TRIGGERS: Registry[TriggerClass] = Registry("trigger", "petechia.triggers", _fitting)
for _class in (Patch, Pattern, Sinusoid, Warp, Fiba, Marker, Findings):
    TRIGGERS.add(_class.model_fields["kind"].default, _class)


class _OfItsKind:
    """Validates a trigger as the class that its `kind` names; without one it is a patch."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(_validated)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(_schema(*TRIGGERS.values()))


Trigger = Annotated[BaseTrigger, _OfItsKind()]


def _validated(given: Any) -> BaseTrigger:
    """A trigger, with the errors that pydantic gives for a union of all kinds: the kind is a step of their location."""
    if isinstance(given, BaseTrigger):
        return given
    if not isinstance(given, Mapping):
        raise PydanticKnownError("model_attributes_type")
    values = {"kind": "patch", **given}
    kind = values["kind"]
    if not isinstance(kind, str) or kind not in TRIGGERS:
        kinds = ", ".join(map(repr, TRIGGERS))
        raise PydanticKnownError("union_tag_invalid", {"discriminator": "'kind'", "tag": str(kind), "expected_tags": kinds})
    validated: BaseTrigger = _validator(TRIGGERS[kind]).validate_python(values)
    return validated


@lru_cache(64)
def _validator(one: TriggerClass) -> SchemaValidator:
    return SchemaValidator(_schema(one))


def _schema(*classes: TriggerClass) -> CoreSchema:
    choices = {one.model_fields["kind"].default: one.__pydantic_core_schema__ for one in classes}
    return core_schema.tagged_union_schema(choices, "kind")
