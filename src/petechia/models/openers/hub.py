"""Files of the Hugging Face hub, from its cache on this machine or downloaded."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from petechia.core.budget import check
from petechia.core.errors import PetechiaError, first_line, listing
from petechia.models.openers.card import PICKLES


def snapshot(name: str, revision: str, patterns: Sequence[str], needed: str, offline: str) -> Path:
    """Return the folder of a model of the hub: from the cache where it is there, else downloaded.

    Args:
        name: ORG/NAME.
        revision: commit, branch or tag; empty for the usual one, as it was when it was cached.
        patterns: which files are wanted, as in "*.json"; no others are downloaded.
        needed: pattern of those without which the folder is useless.
        offline: what to do without a network connection, for the message.

    Raises:
        PetechiaError: it is not cached and cannot be downloaded, has nothing that is needed, or is larger than `model_bytes`.
    """
    from huggingface_hub import snapshot_download

    wanted: dict[str, Any] = {"repo_id": name, "revision": revision or None, "allow_patterns": list(patterns)}
    try:
        cached = Path(snapshot_download(**wanted, local_files_only=True))
        if any(cached.glob(needed)):
            return cached
    except Exception:  # noqa: S110 (it is not cached, which has many types)
        pass
    try:
        _refuse_unwanted(name, revision, patterns, needed)
        return Path(snapshot_download(**wanted))
    except PetechiaError:
        raise
    except Exception as error:
        called = f"{name}@{revision}" if revision else name
        raise PetechiaError(
            f"{called} is not available from the hub ({first_line(error)}); without a network connection, {offline}."
        ) from None


def _refuse_unwanted(name: str, revision: str, patterns: Sequence[str], needed: str) -> None:
    """Refuse a model before it is downloaded if its weights are pickles, or too large."""
    from huggingface_hub import HfApi

    files = HfApi().model_info(name, revision=revision or None, files_metadata=True).siblings or []
    wanted = [one for one in files if any(fnmatch.fnmatch(one.rfilename, pattern) for pattern in patterns)]
    pickles = [one.rfilename for one in files if one.rfilename.lower().endswith(PICKLES)]
    if not any(fnmatch.fnmatch(one.rfilename, needed) for one in wanted):
        told = f", only {listing(pickles, 2)}, a pickle, which can run arbitrary code when loaded" if pickles else ""
        raise PetechiaError(f"{name} has no {needed} on the hub{told}; choose a model or a revision that has.")
    size = sum(one.size or 0 for one in wanted)
    check("model_bytes", size, f"{name} has {size:,} bytes on the hub", "choose another model")
