"""Petechia mounts, measures, explains and catches backdoor attacks on medical-imaging classifiers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from petechia.core.errors import PetechiaError
from petechia.core.version import __version__

if TYPE_CHECKING:
    from petechia.api import (
        audit,
        calibrate,
        explain,
        make_zoo,
        open_dataset,
        open_model,
        poison,
        repair,
        report,
        reproduce,
        run,
        run_study,
        scan,
        screen,
        serve,
        watch,
    )

__all__ = [
    "PetechiaError",
    "__version__",
    "audit",
    "calibrate",
    "explain",
    "make_zoo",
    "open_dataset",
    "open_model",
    "poison",
    "repair",
    "report",
    "reproduce",
    "run",
    "run_study",
    "scan",
    "screen",
    "serve",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name in __all__:  # imported when it is used: torch takes seconds
        from petechia import api

        return getattr(api, name)
    raise AttributeError(f"module 'petechia' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
