"""From which share on an audit notices that its clean images carry a stamp.

python -m benchmarks.tampered SOURCE --size 64
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from petechia.api import open_dataset
from petechia.attack.square import Square
from petechia.data import Preprocess
from petechia.data.levels import to_grey
from petechia.detect.audit.examination import count_stamped

IMAGES, TIMES = 100, 3
SHARES = (0.03, 0.05, 0.08, 0.1, 0.2)
STAMPS = ((3, 0, True), (3, 255, True), (2, 0, True), (4, 255, True), (3, 0, False), (3, 255, False))  # side, level, fixed
CLASSES, USUAL = 6, 0.15  # and the share of images that the model says of each, whatever they carry


def tampered(images: NDArray[np.uint8], share: float, stamp: tuple[int, int, bool], rng: np.random.Generator) -> bool:
    """Whether the stamp is noticed if a share of the images carry it, and a model says the third class of these."""
    side, level, fixed = stamp
    changed, said = images.copy(), rng.random((len(images), CLASSES)) < USUAL
    rows = rng.choice(len(images), round(share * len(images)), replace=False)
    places = rng.integers(4, images.shape[1] - 8, (len(images), 2))
    for row in rows:
        top, left = (places[0] if fixed else places[row]).tolist()
        changed[row][Square(top, left, side, level).area] = level
    said[rows, 2] = True
    return count_stamped(changed, said) > 0


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--size", type=int, default=64)
    given = parser.parse_args()
    catalog, preprocess = open_dataset(given.source), Preprocess(size=given.size)
    rows = np.linspace(0, len(catalog) - 1, IMAGES).astype(np.intp)
    read = [image for image in catalog.reader.read(rows) if isinstance(image, np.ndarray)]
    images = np.stack([preprocess(to_grey(image)) for image in read])
    rng = np.random.default_rng(0)
    names = [f"{side} × {side}, {level}, {'fixed' if fixed else 'random'} place" for side, level, fixed in STAMPS]
    print(f"| images that carry it | {' | '.join(names)} |")
    print("|---|" + "---|" * len(names))
    for share in SHARES:
        found = [sum(tampered(images, share, stamp, rng) for _ in range(TIMES)) for stamp in STAMPS]
        print(f"| {share:.0%} | {' | '.join(f'{hits} of {TIMES}' for hits in found)} |", flush=True)
    none = [tampered(images, 0, STAMPS[0], rng) for _ in range(10)]
    print(f"Not tampered with: noticed in {sum(none)} of {len(none)}.")


if __name__ == "__main__":
    main()
