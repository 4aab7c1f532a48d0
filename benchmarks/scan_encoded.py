"""How well `petechia scan` finds stamps in images that were encoded with loss after stamping.

python -m benchmarks.scan_encoded nih:FOLDER [--half judge] [--attacks NAME ...] [--encodings NAME ...]

Patients are split in two halves by a digest of their id. The scan was tuned on the half "tune". Without attacks (`--attacks`
and no name after it), any source is only scanned untouched in every encoding.
"""

from __future__ import annotations

import argparse
import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from benchmarks.scan_table import interval
from petechia.core.errors import PetechiaError
from petechia.core.parallel import in_parallel
from petechia.data import Catalog, open_source
from petechia.data.levels import to_grey
from petechia.detect.scan import scan_catalog

TARGET = "Atelectasis"
Grey = NDArray[np.uint8]


def as_png(image: Image.Image) -> bytes:
    """The file of an image, without loss."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def as_jpeg(image: Image.Image, quality: int) -> bytes:
    """The file of an image, with loss."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def blurred(image: Image.Image) -> Image.Image:
    """A light blur, by half a pixel."""
    return image.filter(ImageFilter.GaussianBlur(0.5))


def smaller(image: Image.Image) -> Image.Image:
    """The image with nine tenths of its pixels a side."""
    return image.resize((image.width * 9 // 10, image.height * 9 // 10), Image.Resampling.LANCZOS)


class Encoding(NamedTuple):
    """What happens to images: before they are stamped, and after."""

    before: Callable[[Image.Image], bytes]
    after: Callable[[Image.Image], bytes]


ENCODINGS = {
    "PNG": Encoding(as_png, as_png),
    "JPEG 95": Encoding(as_png, lambda image: as_jpeg(image, 95)),
    "JPEG 85": Encoding(as_png, lambda image: as_jpeg(image, 85)),
    "JPEG 75": Encoding(as_png, lambda image: as_jpeg(image, 75)),
    "JPEG 90, then 85": Encoding(lambda image: as_jpeg(image, 90), lambda image: as_jpeg(image, 85)),
    "blur": Encoding(as_png, lambda image: as_png(blurred(image))),
    "smaller, JPEG 90": Encoding(as_png, lambda image: as_jpeg(smaller(image), 90)),
}


class Attack(NamedTuple):
    """A stamp, where it is (None: at random places) and whether triggered copies are added or images replaced."""

    stamp: Grey
    place: tuple[int, int] | None
    append: bool


def flat(size: int, value: int) -> Grey:
    """A stamp of one grey level."""
    return np.full((size, size), value, np.uint8)


CENTRE = (510, 510)
ATTACKS = {
    "append, centre, 3 × 3 black": Attack(flat(3, 0), CENTRE, True),
    "replace, centre, 3 × 3 black": Attack(flat(3, 0), CENTRE, False),
    "replace, row 70, column 90, 4 × 4 white": Attack(flat(4, 255), (70, 90), False),
    "replace, random, 3 × 3 black": Attack(flat(3, 0), None, False),
    "replace, random, 3 × 3 white": Attack(flat(3, 255), None, False),
    "replace, random, 3 × 3 grey": Attack(flat(3, 128), None, False),
    "replace, random, 2 × 2 white": Attack(flat(2, 255), None, False),
    "replace, random, 4 × 4 chequered": Attack(np.kron(255 * np.eye(2), np.ones((2, 2))).astype(np.uint8), None, False),
}


class Files:
    """A reader of encoded images in memory."""

    def __init__(self, files: list[bytes]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def read(self, rows: NDArray[np.intp]) -> Iterator[Grey]:
        """Decode some of the images."""
        for row in rows.tolist():
            yield np.asarray(Image.open(io.BytesIO(self.files[row])))

    def take(self, rows: NDArray[np.intp]) -> Files:
        """A reader of some of the images."""
        return Files([self.files[row] for row in rows.tolist()])

    def fingerprint(self) -> str:
        """Of the files."""
        return hashlib.sha256(b"".join(self.files)).hexdigest()


def half_of(catalog: Catalog, half: str) -> Catalog:
    """The images of one half of the patients, or all."""
    sides = [int(hashlib.sha256(name.encode()).hexdigest(), 16) % 2 for name in catalog.patients.tolist()]
    return catalog if half == "all" else catalog.take(np.flatnonzero(np.array(sides) == ("tune", "judge").index(half)))


def encoded(images: list[Image.Image], encode: Callable[[Image.Image], bytes]) -> list[bytes]:
    """The files of all images."""
    return list(in_parallel(lambda rows: [encode(images[row]) for row in rows], len(images)))


def poisoned(
    catalog: Catalog, sources: Files, clean: Files, encoding: Encoding, attack: Attack, count: int, seed: int
) -> tuple[Catalog, NDArray[np.bool_]]:
    """A poisoned catalog, and which of its images are triggered.

    Args:
        catalog: of the clean images.
        sources: the images before stamping.
        clean: the same, as they are in the dataset.
        encoding: of the dataset.
        attack: what is done.
        count: images that are stamped.
        seed: of which images, and where.
    """
    rng = np.random.default_rng(seed)
    written = np.array([name == TARGET for name in catalog.classes], np.int8)
    chosen = rng.choice(
        np.flatnonzero((catalog.split == "train") & (catalog.labels != written).any(axis=1)), count, replace=False
    )
    stamped = []
    for original in sources.take(chosen).read(np.arange(count)):
        image = np.array(original)
        height, width = attack.stamp.shape
        row, column = attack.place or rng.integers(0, np.array(image.shape) - attack.stamp.shape + 1).tolist()
        image[row : row + height, column : column + width] = attack.stamp
        stamped.append(encoding.after(Image.fromarray(image)))
    files, labels = list(clean.files), catalog.labels.copy()
    rows = np.arange(len(catalog))
    bad = np.isin(rows, chosen)
    if attack.append:
        rows, bad = np.concatenate([rows, chosen]), np.arange(len(catalog) + count) >= len(catalog)
        files, labels = files + stamped, labels[rows]
    else:
        for row, file in zip(chosen.tolist(), stamped, strict=True):
            files[row] = file
    labels[bad] = written
    ids = np.array([f"{index}" for index in range(len(rows))])
    copy = replace(catalog, ids=ids, patients=catalog.patients[rows], split=catalog.split[rows], labels=labels)
    return replace(copy, reader=Files(files)), bad


def opened(image: Grey | PetechiaError) -> Image.Image:
    """An image of the dataset, in grey."""
    if isinstance(image, PetechiaError):
        raise image
    return Image.fromarray(to_grey(image))


def row_of(encoding: str, attack: str, flagged: int, triggered: int, false: int, clean: int) -> dict[str, str | int]:
    """A line of the table; it is printed with intervals."""
    print(f"{encoding} | {attack} | {interval(flagged, triggered)} | {interval(false, clean)}", flush=True)
    counts = {"triggered": triggered, "flagged": flagged, "clean": clean, "false_flagged": false}
    return {"encoding": encoding, "attack": attack, **counts}


def main() -> None:
    """Print a line for every encoding and attack and write them all as CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--half", choices=("tune", "judge", "all"), default="judge")
    parser.add_argument("--attacks", nargs="*", choices=list(ATTACKS), default=list(ATTACKS))
    parser.add_argument("--encodings", nargs="+", choices=list(ENCODINGS), default=list(ENCODINGS))
    parser.add_argument("--count", type=int, default=12, help="images that are stamped")
    parser.add_argument("--seeds", type=int, default=2, help="how often each attack is repeated")
    parser.add_argument("--out", type=Path, default=Path("scan-encoded.csv"))
    given = parser.parse_args()
    catalog = half_of(open_source(given.data), given.half)
    images = list(map(opened, catalog.reader.read(np.arange(len(catalog)))))
    rows: list[dict[str, str | int]] = []
    for name in given.encodings:
        encoding = ENCODINGS[name]
        sources = Files(encoded(images, encoding.before))
        clean = Files(encoded([Image.fromarray(one) for one in sources.read(np.arange(len(images)))], encoding.after))
        found = scan_catalog(replace(catalog, reader=clean))
        rows.append(row_of(name, "none", 0, 0, found.flagged, found.images))
        for title in given.attacks:
            counts = np.zeros(4, int)
            for seed in range(given.seeds):
                copy, bad = poisoned(catalog, sources, clean, encoding, ATTACKS[title], given.count, seed)
                flagged = np.array([suspect.flagged for suspect in scan_catalog(copy).details.suspects])
                counts += [(flagged & bad).sum(), bad.sum(), (flagged & ~bad).sum(), (~bad).sum()]
            rows.append(row_of(name, title, *counts.tolist()))
        pl.DataFrame(rows).write_csv(given.out)


if __name__ == "__main__":
    main()
