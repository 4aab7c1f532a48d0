"""Independent random streams: one seed a run, one stream a purpose."""

import zlib

import numpy as np


def stream(seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """A generator for one purpose ("plan", "order", …) and, where given, one epoch or batch.

    Streams of different purposes do not share numbers, and one can be rebuilt at any point: a resumed run needs no saved state.
    """
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *indices])
