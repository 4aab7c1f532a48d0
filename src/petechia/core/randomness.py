"""Independent random streams: one seed per run, one stream per purpose."""

import zlib

import numpy as np


def stream(seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """Return a generator for one purpose ("plan", "order", …) and, if given, one epoch or batch.

    Streams of different purposes are independent. A stream can be rebuilt at any point, so a resumed run needs no saved state.
    """
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *indices])
