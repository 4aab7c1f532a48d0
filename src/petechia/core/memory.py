"""Memory of the processor that torch gives back and takes again in every batch."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # numbers of parameters of glibc's mallopt
NEVER, LARGEST = 2**31 - 1, 2**30  # bytes: no free memory is given back; blocks up to a GiB come from the heap
LARGEST_BEFORE = 2**25  # the most that older versions of glibc take


@cache
def keep_freed_memory() -> bool:
    """Let this process keep memory that it frees, so that the system need not clear every page of it again.

    Layers' outputs are so large that glibc takes each from the system and gives it back. With images of 224 × 224, that costs
    more than a third of the time of a forward pass. The largest amount of memory in use stays about the same, but the process
    does not shrink afterwards.

    Returns:
        Whether that was possible: with glibc, the C library of most Linux systems.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    from_heap = mallopt(MMAP_THRESHOLD, LARGEST) or mallopt(MMAP_THRESHOLD, LARGEST_BEFORE)
    return bool(from_heap and mallopt(TRIM_THRESHOLD, NEVER))
