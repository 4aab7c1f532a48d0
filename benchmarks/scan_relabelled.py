"""Labels that were changed without touching an image: which share the scan ranks above 99 % of the others.

`python -m benchmarks.scan_relabelled [SOURCE]` reads the images once, changes labels in several ways and judges the ranking by
doubts alone. A source other than phantoms is taken with the labels that it has.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from petechia.data import Catalog, open_source
from petechia.detect.scan.mislabelled import doubtful_labels
from petechia.detect.scan.reading import Traces, read_traces

PHANTOMS = "phantom:images=20000,size=64"
NOISE = (0.0, 0.1, 0.26)  # of the phantoms' labels
RATES = (0.01, 0.05)
Labels = NDArray[np.int8]


class Row(NamedTuple):
    """One attack on the labels.

    Attributes:
        written: what was written.
        rate: share of the images that were chosen.
        images: whose labels changed.
        recall: share of them that rank above 99 % of the others.
    """

    written: str
    rate: float
    images: int
    recall: float


def attacks(labels: Labels, classes: tuple[str, ...]) -> Iterator[tuple[str, float, Labels]]:
    """What was written, at which rate, and the labels after it."""
    for rate in RATES:
        chosen = np.random.default_rng(1).choice(len(labels), int(rate * len(labels)), replace=False)
        for k, name in enumerate(classes):
            mine = chosen[labels[chosen, k] == 0]
            only = labels.copy()
            only[mine] = 0
            only[mine, k] = 1
            yield f"{name} alone", rate, only
        changed = labels.copy()
        any_class = np.random.default_rng(2).integers(0, len(classes), len(chosen))
        changed[chosen, any_class] = 1 - np.maximum(changed[chosen, any_class], 0)
        yield "one class, any, reversed", rate, changed
        hidden = labels.copy()
        hidden[chosen[(labels[chosen] == 1).any(axis=1)]] = 0
        yield "no finding where there is one", rate, hidden


def judged(catalog: Catalog, traces: Traces, labels: Labels) -> Iterator[Row]:
    """All attacks on some labels."""
    usable = ~np.isin(np.arange(len(catalog)), list(traces.unread))
    for name, rate, changed in attacks(labels, catalog.classes):
        bad = (changed != labels).any(axis=1)
        odds = doubtful_labels(traces.blocks, traces.textures, changed, catalog.patients, usable).odds
        recall = float((odds[bad] > np.quantile(odds[~bad], 0.99)).mean()) if bad.any() else float("nan")
        yield Row(name, rate, int(bad.sum()), recall)


def run(source: str | None) -> None:
    """Print a table."""
    sources = [source] if source else [f"{PHANTOMS},label_noise={noise}" for noise in NOISE]
    traces: Traces | None = None
    for name in sources:
        catalog = open_source(name)
        traces = traces or read_traces(catalog, "skip")  # the labels of phantoms do not change their images
        print(f"\n{name}\n\n| written | share of the images | images | recall at 1 % false positives |\n|---|--:|--:|--:|")
        for row in judged(catalog, traces, catalog.labels):
            print(f"| {row.written} | {100 * row.rate:.0f} % | {row.images} | {row.recall:.2f} |", flush=True)


if __name__ == "__main__":
    run(sys.argv[1] if len(sys.argv) > 1 else None)
