"""Expensive arrays, computed once and kept on disk under a key of everything that they depend on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from petechia.core.files import building

LOGGER = logging.getLogger(__name__)
FORMAT = 1  # raise it when the content of an entry changes its meaning


def cache_folder() -> Path:
    """Where caches live: $PETECHIA_CACHE, else petechia/ in $XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("PETECHIA_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "petechia"


def cached(kind: str, depends_on: dict[str, Any], build: Callable[[Path], None]) -> Path:
    """The folder of a cache entry; `build` fills it where it does not exist yet.

    An entry appears in one step, so what a killed process leaves is never trusted. A lock, which the system releases when
    its holder dies, lets a second process wait for the first instead of doing the work again.
    """
    key = hashlib.sha256(json.dumps([FORMAT, kind, depends_on], sort_keys=True).encode()).hexdigest()[:24]
    folder = cache_folder() / f"{kind}-{key}"
    if folder.exists():
        LOGGER.info("cached %s: %s", kind, folder)
        return folder
    LOGGER.info("building %s: %s", kind, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            with building(folder) as temporary:
                build(temporary)
    return folder
