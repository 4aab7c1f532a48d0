"""The worker processes in which codecs of images run that are C code without a bound that can be checked first."""

from __future__ import annotations

from functools import cache

from petechia.core.budget import limit
from petechia.core.worker import Limits, Pool

MODULES = "petechia.data.formats.dicom_codecs", "petechia.data.formats.images"


@cache
def decoding_pool() -> Pool:
    """Return the workers of this process."""
    return Pool(Limits(limit("decode_memory"), limit("decode_seconds")), MODULES)
