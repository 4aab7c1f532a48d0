"""How many altered copies the search among many images finds, and in what time: `python -m benchmarks.scan_nearest [IMAGES]`.

Copies are planted into the short vectors of phantoms, with a given correlation. It is counted of how many the original is among
the pairs, when each is compared with all others (as many as there are copies, for time's sake), and when it is not.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from petechia.data import open_source
from petechia.detect.scan.copies import _shortened
from petechia.detect.scan.nearest import nearest_pairs
from petechia.detect.scan.reading import read_traces

COPIES = 500
CORRELATIONS = (0.7, 0.8, 0.9)


def main(images: int) -> None:
    """Print a row for each correlation."""
    short = _shortened(read_traces(open_source(f"phantom:images={images},size=64")).textures)
    rng = np.random.default_rng(0)
    originals = rng.choice(images, COPIES, replace=False)
    codes = np.concatenate([np.zeros(images, np.intp), np.ones(COPIES, np.intp)])
    for correlation in CORRELATIONS:
        other = rng.standard_normal((COPIES, short.shape[1]))
        other -= (other * short[originals]).sum(axis=1, keepdims=True) * short[originals]
        other /= np.linalg.norm(other, axis=1, keepdims=True)
        copies = np.asarray(correlation * short[originals] + np.sqrt(1 - correlation**2) * other, np.float32)
        began = time.perf_counter()
        _, pairs = nearest_pairs(np.concatenate([short, copies]), codes)
        seconds = time.perf_counter() - began
        found = {(one, other) for one, other in pairs.tolist()}
        exact = (short @ copies.T).argmax(axis=0) == originals
        recall = np.mean([(int(one), images + row) in found for row, one in enumerate(originals)])
        print(f"correlation {correlation}: exact {exact.mean():.3f}, found {recall:.3f}, {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
