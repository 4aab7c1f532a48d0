"""The search for stamps at every place: group testing against trying every stamp alone, on one model.

python -m benchmarks.stamping MODEL.safetensors --clean phantom:images=100,size=64,seed=5
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from petechia.core.runtime import Compute
from petechia.detect.audit.hosts import Hosts
from petechia.detect.audit.response import LEVELS, SIZES, naive_response, stamp_response
from petechia.detect.collection import read_collection
from petechia.models.openers import open_classifier


def main() -> None:
    """Run both searches; print the three classes whose best stamp raises the logit most."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--clean", default="phantom:images=100,size=64,seed=5")
    parser.add_argument("--hosts", type=int, default=12)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument(
        "--values", type=int, nargs="+", help="grey levels of filled squares; by default all stamps of an audit"
    )
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    classifier = open_classifier(given.model, Compute(threads=given.threads).start())
    hosts = Hosts.of(classifier, read_collection([given.clean], classifier, given.hosts).images)
    levels = LEVELS if given.values is None else [(value, None) for value in given.values]
    seconds, found = [], []
    for search in (stamp_response, naive_response):
        began = time.perf_counter()
        found.append(search(classifier, hosts, given.sizes, levels))
        seconds.append(time.perf_counter() - began)
        print(f"{search.__name__}: {found[-1].passes:,} passes, {seconds[-1]:.1f} s", flush=True)
    print(f"ratio: {seconds[1] / seconds[0]:.1f} in time, {found[1].passes / found[0].passes:.1f} in passes")
    for label in np.argsort(-found[1].gains.max(axis=0))[:3].tolist():
        places = [f"{square} +{gain:.2f}" for square, gain in (one.best(label) for one in found)]
        print(f"{classifier.classes[label]}: {places[0]}; naive: {places[1]}")


if __name__ == "__main__":
    main()
