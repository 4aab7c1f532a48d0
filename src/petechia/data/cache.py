"""A disk cache of expensive arrays; the key of an entry is a digest of everything that it depends on."""

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
FORMAT = 1  # increase it when the meaning of an entry's content changes


def cache_folder() -> Path:
    """Return the cache folder: $PETECHIA_CACHE if set, otherwise petechia/ in $XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("PETECHIA_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "petechia"


def cached(kind: str, depends_on: dict[str, Any], build: Callable[[Path], None]) -> Path:
    """Return the folder of a cache entry; `build` fills it if it does not exist yet.

    An entry appears in one step, so the leftovers of a killed process are never used. With a lock, which the operating system
    releases when its holder dies, a second process waits for the first instead of repeating the work.
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
