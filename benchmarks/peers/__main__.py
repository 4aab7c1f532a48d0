"""Judge the peers on the models of a zoo: `python -m benchmarks.peers ZOO --half judge --out peers.json`."""

from __future__ import annotations

import argparse
import json
import logging
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import art
import numpy as np
import torch

from benchmarks.peers import cleanse, filters, sentinet, strip
from benchmarks.peers.table import markdown, read_ours
from benchmarks.peers.views import Floats, features
from petechia.core.files import write_text
from petechia.core.runtime import Compute, Runtime
from petechia.data.dataset import Images
from petechia.models.classifier import Classifier
from petechia.zoo.specimens import Specimen, specimens


class Given(NamedTuple):
    """What a peer is judged on; images are float32 [N, C, H, W] in 0…1."""

    specimen: Specimen
    classifier: Classifier
    fitted: Floats
    clean: Floats
    triggered: Floats

    @staticmethod
    def of(specimen: Specimen, runtime: Runtime, most: int) -> Given:
        """Open a model, with at most so many judged images of each kind."""
        classifier = specimen.classifier(runtime)
        classifier.require_network().requires_grad_(False)
        images: tuple[Images, ...] = (specimen.clean, *specimen.judged(most))
        arrays = (classifier.tensor(some[np.arange(len(some))]).contiguous().numpy() for some in images)
        return Given(specimen, classifier, *arrays)

    def training_set(self) -> filters.TrainingSet:
        """What the model was trained on."""
        specimen = self.specimen
        seed, run_data = specimen.config.seeds[0], specimen.run_data
        attacked = specimen.arm == "attacked"
        data = run_data.training_set("attacked" if attacked else "control", seed)
        triggered = run_data.attacks[seed].plan.triggered if attacked else np.zeros(len(data.images), bool)
        return filters.TrainingSet(features(self.classifier, data.images), data.labels, triggered, run_data.target)

    @property
    def images(self) -> tuple[Classifier, Floats, Floats, Floats]:
        """For filters of images."""
        return self.classifier, self.fitted, self.clean, self.triggered


PEERS: dict[str, Callable[[Given], dict[str, Any]]] = {
    "training set": lambda given: filters.judge(given.training_set()),
    "scan --model": lambda given: filters.ours(given.training_set()),
    "STRIP": lambda given: strip.judge(*given.images),
    "SentiNet": lambda given: sentinet.judge(*given.images),
    "Neural Cleanse": lambda given: cleanse.judge(given.classifier, given.fitted),
}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Judge what the file does not hold yet, the quick peers first; it is written after every model."""
    runtime = Compute(threads=options.threads).start()
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {"models": {}}
    results["machine"] = f"{runtime}, {platform.machine()}, torch {torch.__version__}, ART {art.__version__}"
    results["images"] = options.images
    chosen = [one for one in specimens(options.zoo, options.half) if any(part in one.name for part in options.only)]
    for peer in options.peers:
        for specimen in chosen:
            row = results["models"].setdefault(f"{specimen.name} {specimen.arm}", _described(specimen))
            if peer in row:
                continue
            began = time.process_time()  # others may keep the machine busy
            row[peer] = PEERS[peer](Given.of(specimen, runtime, options.images))
            row[peer]["seconds"] = time.process_time() - began
            write_text(options.out, json.dumps(results, indent=1))
            print(f"{peer}: {specimen.name} {specimen.arm}, {row[peer]['seconds']:.0f} s", flush=True)
    return results


def _described(specimen: Specimen) -> dict[str, Any]:
    attack = specimen.config.attack
    targets = [attack.target, *attack.also] if specimen.arm == "attacked" else []
    return {"backdoored": specimen.backdoored, "arm": specimen.arm, "asr": specimen.asr, "targets": targets}


def main() -> None:
    """Judge, write the file and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--out", type=Path, default=Path("peers.json"), help="what it holds is not measured again")
    parser.add_argument("--half", choices=("tune", "judge"))
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--only", nargs="+", default=[""], help="models with any of these in their names")
    parser.add_argument("--ours", type=Path, nargs="+", default=[], help="files of benchmarks.screening and .auditing")
    parser.add_argument("--images", type=int, default=100, help="judged images of each kind")
    parser.add_argument("--threads", type=int, default=0)
    logging.disable(logging.WARNING)
    options = parser.parse_args()
    print(markdown(run(options)["models"], read_ours(options.ours)))


if __name__ == "__main__":
    main()
