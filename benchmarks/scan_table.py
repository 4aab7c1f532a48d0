"""How well `petechia scan` finds what `petechia poison` did, attack by attack: `python -m benchmarks.scan_table --help`."""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

import petechia
from petechia.data import open_source
from petechia.detect.scan import ScanResult, scan_catalog
from petechia.measure import Count

SOURCES = ("phantom:images=2000,size=256",)
RATES = (0.01, 0.05, 0.4)
FALSE = 0.01  # share of the clean images that may rank above the images that are counted as found
Attack = dict[str, Any]


class Judgement(NamedTuple):
    """Of one scan of one poisoned dataset.

    Attributes:
        triggered: images that carry the trigger.
        hidden: how many of them have the same pixels as before, because those under the stamp had its grey level.
        flagged: triggered images that were flagged.
        clean: the other images.
        false: of these, flagged.
        ranked: triggered images that rank above all but `FALSE` of the clean ones; ties count against them.
        named: whether the first stamp in the report has the trigger's size, place and class.
    """

    triggered: int
    hidden: int
    flagged: int
    clean: int
    false: int
    ranked: int
    named: bool


def attacks(sizes: tuple[int, ...], rates: tuple[float, ...]) -> Iterator[Attack]:
    """Every size at the centre, at a given and at a random place, black and white in turn, in both modes, at every rate."""
    places = ("center", "random", [70, 90])
    for mode, rate in itertools.product(("append", "replace"), rates):
        for n, (size, place) in enumerate(itertools.product(sizes, places)):
            value = 255 * (n % 2)
            yield {"trigger": {"size": size, "location": place, "value": value}, "rate": rate, "mode": mode}


def judged(source: str, attack: Attack, folder: Path) -> Judgement:
    """Poison a dataset, scan the copy, and compare with the plan, which the scan does not see."""
    petechia.poison({"data": source, "attack": attack}, folder)
    truth = pl.read_parquet(folder / "poison.parquet").filter("triggered")
    (folder / "poison.parquet").unlink()
    found = scan_catalog(open_source(f"nih:{folder}"))
    table = found.suspects
    bad = table["id"].is_in(truth["id"].implode())
    flagged = table["flagged"]
    return Judgement(
        triggered=len(truth),
        hidden=hidden(source, truth, attack["trigger"]),
        flagged=int((flagged & bad).sum()),
        clean=int((~bad).sum()),
        false=int((flagged & ~bad).sum()),
        ranked=ranked(table["score"].to_numpy(), bad.to_numpy()),
        named=named(found, attack),
    )


def hidden(source: str, truth: pl.DataFrame, trigger: dict[str, Any]) -> int:
    """Triggered images that are what they were."""
    catalog = open_source(source)
    rows = np.flatnonzero(np.isin(catalog.ids, truth["source"].to_numpy()))
    places = dict(zip(truth["source"], zip(truth["row"], truth["column"], strict=True), strict=True))
    count = 0
    for row, image in zip(rows.tolist(), catalog.reader.read(rows), strict=True):
        assert isinstance(image, np.ndarray)
        top, left = places[str(catalog.ids[row])]
        box = image[top : top + trigger["size"], left : left + trigger["size"]]
        count += bool((box == trigger["value"]).all())
    return count


def ranked(scores: NDArray[np.float64], bad: NDArray[np.bool_]) -> int:
    """Triggered images whose score is above that of all but `FALSE` of the clean images, and above 0."""
    clean = np.sort(scores[~bad])[::-1]
    threshold = clean[min(int(FALSE * len(clean)), len(clean) - 1)]
    return int((scores[bad] > max(threshold, 0)).sum())


def named(found: ScanResult, attack: Attack) -> bool:
    """Whether the first stamp in the result is the trigger."""
    trigger = attack["trigger"]
    if not found.stamps:
        return False
    stamp = found.stamps[0]
    fixed = trigger["location"] != "random"
    size = (stamp.height, stamp.width) == (trigger["size"], trigger["size"])
    place = trigger["location"] in ("center", "random") or [stamp.row, stamp.column] == trigger["location"]
    return bool(size and place and (stamp.row is not None) == fixed and stamp.label.startswith("Atelectasis"))


def bounds(hits: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson), rounded outwards to three digits."""
    low, high = Count(hits, of).interval
    return math.floor(1000 * low) / 1000, math.ceil(1000 * high) / 1000


def interval(hits: int, of: int) -> str:
    """A share and its 95 % interval."""
    if not of:
        return "–"
    low, high = bounds(hits, of)
    return f"{hits}/{of} = {hits / of:.3f} [{low:.3f}, {high:.3f}]"


def columns(share: str, hits: int, of: int) -> dict[str, str]:
    """A share and its 95 % interval, as columns of a CSV file."""
    name = share.removesuffix("_share").removesuffix("_at_1pct_fpr")
    low, high = bounds(hits, of)
    return {share: f"{hits / of:.3f}", f"{name}_low": f"{low:.3f}", f"{name}_high": f"{high:.3f}"}


def counts(flagged: int, triggered: int, false: int, clean: int) -> dict[str, Any]:
    """What is flagged, as columns of a CSV file."""
    return (
        {"flagged": flagged, "triggered": triggered}
        | columns("flagged_share", flagged, triggered)
        | {"false_flagged": false, "clean": clean}
        | columns("false_share", false, clean)
    )


def as_files(source: str, folder: Path) -> str:
    """A source whose images are files: drawn phantoms are written once, not once an attack."""
    if source.startswith("nih:"):
        return source
    petechia.poison({"data": source, "attack": {"rate": 0}}, folder)
    (folder / "poison.parquet").unlink()
    return f"nih:{folder}"


def row_of(source: str, attack: Attack, one: Judgement) -> dict[str, Any]:
    """A line of the table."""
    trigger = attack["trigger"]
    return (
        {
            "dataset": "phantom" if source.startswith("phantom") else source,
            "mode": attack["mode"],
            "rate": f"{attack['rate']:.0%}",
            "size": f"{trigger['size']} × {trigger['size']}",
            "place": str(trigger["location"]).replace("center", "centre"),
            "grey_level": trigger["value"],
        }
        | counts(one.flagged, one.triggered, one.false, one.clean)
        | {"ranked": one.ranked, "ranked_of": one.triggered}
        | columns("recall_at_1pct_fpr", one.ranked, one.triggered)
        | {"named": "yes" if one.named else "no"}
    )


def main() -> None:
    """Print a line for every attack and write them all as CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", action="append", help=f"a data source; repeatable. Else {', '.join(SOURCES)}.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    parser.add_argument("--mode", choices=("append", "replace"), action="append")
    parser.add_argument("--out", type=Path, default=Path("scan-table.csv"))
    given = parser.parse_args()
    rows = []
    for source in given.data or SOURCES:
        with tempfile.TemporaryDirectory() as name:
            files = as_files(source, Path(name) / "clean")
            untouched = scan_catalog(open_source(files))
            print(f"{source}: untouched, {untouched.flagged} of {untouched.images} flagged")
            for n, attack in enumerate(attacks(tuple(given.sizes), tuple(given.rates))):
                if given.mode and attack["mode"] not in given.mode:
                    continue
                with tempfile.TemporaryDirectory(dir=name) as copy:
                    rows.append(row_of(source, attack, judged(files, attack, Path(copy) / "copy")))
                print(n, *list(rows[-1].values())[1:], flush=True)
                pl.DataFrame(rows).write_csv(given.out)


if __name__ == "__main__":
    main()
