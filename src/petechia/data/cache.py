"""A disk cache of expensive arrays; the key of an entry is a digest of everything that it depends on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from petechia.core.errors import PetechiaError
from petechia.core.files import claimed, in_many_steps, in_one_step, make_folder, remove_begun
from petechia.core.locks import FOREVER

LOGGER = logging.getLogger(__name__)
FORMAT = 2  # increase it when the meaning of an entry's content changes
PRIVATE = 0o700  # images of patients are nobody else's business
KEPT = 14 * 24 * 3600  # seconds after which what was begun and not gone on with is removed
OTHERS_WRITE, OTHERS_READ = 0o022, 0o055


def cache_folder() -> Path:
    """Return the cache folder: $PETECHIA_CACHE if set, otherwise petechia/ in $XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("PETECHIA_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "petechia"


def cached(kind: str, depends_on: dict[str, Any], build: Callable[[Path], None], resumes: bool = False) -> Path:
    """Return the folder of a cache entry; `build` fills it if it does not exist yet.

    If `build` resumes, it gets a folder that holds what a process had made that was killed or interrupted, within two weeks.

    An entry appears in one step, so the leftovers of a killed process are never used. With a lock, which the operating system
    releases when its holder dies, a second process waits for the first instead of repeating the work. Only this user can enter
    an entry; one of another user is refused.

    Raises:
        PetechiaError: the cache folder or the entry belongs to another user, or others can write it.
    """
    folder = _folder(kind, depends_on)
    if _is_built(folder):
        LOGGER.info("cached %s: %s", kind, folder)
        return folder
    LOGGER.info("building %s: %s", kind, folder)
    if resumes:
        remove_begun(folder.parent, KEPT)
    with claimed(folder, patience=FOREVER):
        if not _is_built(folder):
            shutil.rmtree(folder, ignore_errors=True)  # what others could have written
            with (in_many_steps if resumes else in_one_step)(folder, PRIVATE) as temporary:
                build(temporary)
    return folder


def find_cached(kind: str, depends_on: dict[str, Any]) -> Path | None:
    """Return the folder of a cache entry, or None if it is not built.

    Raises:
        PetechiaError: as `cached`.
    """
    folder = _folder(kind, depends_on)
    return folder if _is_built(folder) else None


def _folder(kind: str, depends_on: dict[str, Any]) -> Path:
    key = hashlib.sha256(json.dumps([FORMAT, kind, depends_on], sort_keys=True).encode()).hexdigest()[:24]
    return _own_folder() / f"{kind}-{key}"


def private_folder(name: str) -> Path:
    """Return a folder in the cache that only this user can enter, made if need be, for files that are kept for a while.

    Raises:
        PetechiaError: as for `cached`.
    """
    folder = _own_folder() / name
    if not _is_built(folder):
        shutil.rmtree(folder, ignore_errors=True)  # what others could have written
        folder.mkdir(PRIVATE, exist_ok=True)
    return folder


def _own_folder() -> Path:
    """Return the cache folder, made if need be, in which nobody but this user and root can replace an entry."""
    folder = cache_folder()
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(PRIVATE, exist_ok=True)
    found = folder.stat()
    if found.st_uid == os.geteuid() and not os.environ.get("PETECHIA_CACHE"):
        folder.chmod(PRIVATE)  # version 0.1 left it as the umask says
        return folder
    if found.st_uid not in (os.geteuid(), 0):
        raise PetechiaError(f"The cache folder {folder} belongs to another user; set PETECHIA_CACHE to a folder of your own.")
    if found.st_mode & OTHERS_WRITE and not found.st_mode & stat.S_ISVTX:
        raise PetechiaError(
            f"The cache folder {folder} can be written by others, who could replace images in it; "
            f"take that right away (chmod go-w), or set PETECHIA_CACHE to a folder of your own."
        )
    return folder


def _is_built(folder: Path) -> bool:
    """Return whether an entry exists that nobody else could have written."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PetechiaError(f"{folder} in the cache is not yours; remove it, or set PETECHIA_CACHE to a folder of your own.")
    if found.st_mode & OTHERS_WRITE:
        return False
    if found.st_mode & OTHERS_READ:  # made by version 0.1
        folder.chmod(PRIVATE)
    return True
