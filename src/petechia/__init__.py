"""Petechia mounts, measures, explains and catches backdoor attacks on medical-imaging classifiers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from petechia.core.errors import PetechiaError
from petechia.core.version import __version__

if TYPE_CHECKING:
    from petechia.api import poison, reproduce, run, run_study

__all__ = ["PetechiaError", "__version__", "poison", "reproduce", "run", "run_study"]


def __getattr__(name: str) -> Any:
    if name in ("poison", "reproduce", "run", "run_study"):  # imported when it is used: torch takes seconds
        from petechia import api

        return getattr(api, name)
    raise AttributeError(f"module 'petechia' has no attribute {name!r}")
