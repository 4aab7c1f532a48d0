"""Triggers: what is stamped on an image, one small module a kind. `Trigger` is any of them, told apart by `kind`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from petechia.attack.triggers.base import BaseTrigger, Brush
from petechia.attack.triggers.fiba import Fiba
from petechia.attack.triggers.findings import Findings
from petechia.attack.triggers.marker import Marker
from petechia.attack.triggers.patch import Patch
from petechia.attack.triggers.pattern import Pattern
from petechia.attack.triggers.sinusoid import Sinusoid
from petechia.attack.triggers.warp import Warp


def _patch_by_default(given: Any) -> Any:
    return {"kind": "patch", **given} if isinstance(given, Mapping) else given


Trigger = Annotated[
    Annotated[Patch | Pattern | Sinusoid | Warp | Fiba | Marker | Findings, Field(discriminator="kind")],
    BeforeValidator(_patch_by_default),
]

__all__ = ["BaseTrigger", "Brush", "Fiba", "Findings", "Marker", "Patch", "Pattern", "Sinusoid", "Trigger", "Warp"]
