"""What gets past `petechia scan`: attackers who know how it looks, and triggers that are no square.

python -m benchmarks.scan_adaptive [ATTACKER ...] [--data SOURCE] [--rate RATE] [--seed SEED]
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

import petechia
from benchmarks.attacks import ATTACKS, DRAWN
from benchmarks.scan_table import as_files, counts, interval
from petechia.data import open_source
from petechia.detect.scan import scan_catalog

SOURCE = "phantom:images=600,size=128"
Treatment = Callable[[NDArray[np.uint8], int, int], NDArray[np.uint8]]  # of a triggered image, and where its stamp is
SIZE = 3


def encoded_with_loss(image: NDArray[np.uint8], _row: int, _column: int) -> NDArray[np.uint8]:
    """As it comes back from a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return np.asarray(Image.open(buffer))


def another_value(image: NDArray[np.uint8], row: int, column: int) -> NDArray[np.uint8]:
    """The stamp in a grey level of its own on every image."""
    changed = image.copy()
    changed[row : row + SIZE, column : column + SIZE] = (37 * row + 91 * column + int(image[0].sum())) % 256
    return changed


def near_its_surroundings(image: NDArray[np.uint8], row: int, column: int) -> NDArray[np.uint8]:
    """The stamp 12 grey levels off the mean of what surrounds it."""
    around = image[max(row - 2, 0) : row + SIZE + 2, max(column - 2, 0) : column + SIZE + 2].mean()
    changed = image.copy()
    changed[row : row + SIZE, column : column + SIZE] = around + (12 if around < 128 else -12)
    return changed


TRIGGER: dict[str, Any] = {"size": SIZE, "value": 0}
NOISE: dict[str, Any] = {"kind": "pattern", "image": "noise", "size": "whole"}
ATTACKERS: dict[str, tuple[dict[str, Any], Treatment | None]] = {
    "none, for comparison": ({"trigger": TRIGGER, "rate": 0.1}, None),
    "opacity 0.3": ({"trigger": TRIGGER | {"opacity": 0.3}, "rate": 0.1}, None),
    "opacity 0.1": ({"trigger": TRIGGER | {"opacity": 0.1}, "rate": 0.1}, None),
    "12 grey levels off its surroundings": ({"trigger": TRIGGER, "rate": 0.1}, near_its_surroundings),
    "a value of its own on every image": ({"trigger": TRIGGER, "rate": 0.1}, another_value),
    "the same, at random places": ({"trigger": TRIGGER | {"location": "random"}, "rate": 0.1}, another_value),
    "JPEG after stamping": ({"trigger": TRIGGER, "rate": 0.1}, encoded_with_loss),
    "3 images": ({"trigger": TRIGGER, "rate": 0.0067}, None),
    "24 x 24 pixels": ({"trigger": {"size": 24, "value": 0}, "rate": 0.1}, None),
    "a picture at 8 % opacity over the whole image": ({"trigger": {"kind": "pattern", "size": "whole", "opacity": 0.08}}, None),
    "noise at 8 % opacity over the whole image": ({"trigger": NOISE | {"opacity": 0.08}}, None),
    "a wave of 10 grey levels": ({"trigger": {"kind": "sinusoid", "amplitude": 10.0}}, None),
    **{name: (ATTACKS[name] | {"rate": 0.1}, None) for name in DRAWN},
}


def caught(source: str, attack: dict[str, Any], treat: Treatment | None, folder: Path, seed: int = 0) -> tuple[int, ...]:
    """Flagged triggered images, triggered images, flagged clean images, clean images."""
    petechia.poison({"data": source, "attack": attack, "seeds": [seed]}, folder)
    truth = pl.read_parquet(folder / "poison.parquet").filter("triggered")
    (folder / "poison.parquet").unlink()
    if treat:
        for name, row, column in truth.select("id", "row", "column").rows():
            path = folder / "images" / name
            Image.fromarray(treat(np.asarray(Image.open(path)), row, column)).save(path)
    table = scan_catalog(open_source(f"nih:{folder}")).suspects
    bad, flagged = table["id"].is_in(truth["id"].implode()), table["flagged"]
    return tuple(int(rows.sum()) for rows in (flagged & bad, bad, flagged & ~bad, ~bad))


def main() -> None:
    """Print a line for every attacker and mode, and write them all as CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attackers", nargs="*", metavar="ATTACKER", help=f"of {', '.join(ATTACKERS)}; else all")
    parser.add_argument("--data", default=SOURCE, help="a data source, scanned untouched first")
    parser.add_argument("--rate", type=float, help="of each attack, in place of its own")
    parser.add_argument("--mode", choices=("append", "replace"), action="append")
    parser.add_argument("--seed", type=int, default=0, help="of the images that are chosen")
    parser.add_argument("--out", type=Path, default=Path("scan-evasion.csv"))
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        source = as_files(given.data, Path(name) / "clean")
        untouched = scan_catalog(open_source(source))
        print(f"{given.data}: untouched, {untouched.flagged} of {untouched.images} flagged", flush=True)
        for attacker in given.attackers or ATTACKERS:
            attack, treat = ATTACKERS[attacker]
            attack = {"rate": 0.1} | attack | ({} if given.rate is None else {"rate": given.rate})
            for mode in given.mode or ("append", "replace"):
                with tempfile.TemporaryDirectory(dir=name) as copy:
                    found = caught(source, attack | {"mode": mode}, treat, Path(copy) / "copy", given.seed)
                print(f"| {attacker} | {mode} | {interval(*found[:2])} | {interval(*found[2:])} |", flush=True)
                rows.append({"attacker": attacker, "mode": mode} | counts(*found))
                pl.DataFrame(rows).write_csv(given.out)


if __name__ == "__main__":
    main()
