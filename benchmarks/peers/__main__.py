"""Judge detectors on the models of a zoo: `python -m benchmarks.peers ZOO --half judge --out peers.json`."""

from __future__ import annotations

import argparse
import json
import logging
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.peers import bti_dbf, cleanse, feature_re, mm_bd, neuron_noise, scaling, sentinet, ted, training_sets
from benchmarks.peers.measures import of_images, of_model, of_training_set
from benchmarks.peers.table import markdown, read_ours
from benchmarks.peers.training_sets import TrainingSet
from benchmarks.peers.views import features
from petechia.core.files import write_text
from petechia.core.runtime import Compute, Runtime
from petechia.detect import audit, screen  # noqa: F401 (they register their detectors)
from petechia.detect.protocol import DETECTORS, Detector, Finding, ImagesUnderTest, ModelUnderTest
from petechia.models.classifier import Classifier
from petechia.zoo.specimens import Specimen, specimens

ART = "adversarial-robustness-toolbox"
Rules = Mapping[tuple[str, ...], Detector[Any]]  # where in the results of a peer → a detector of it


@dataclass(frozen=True)
class Given:
    """The model and the images that a detector is judged on; images are uint8 [N, H, W] or [N, H, W, 3], prepared."""

    specimen: Specimen
    classifier: Classifier
    fitted: NDArray[np.uint8]
    clean: NDArray[np.uint8]
    triggered: NDArray[np.uint8]

    @staticmethod
    def of(specimen: Specimen, runtime: Runtime, most: int) -> Given:
        """Open a model; `most` is the largest number of judged images of each kind."""
        classifier = specimen.classifier(runtime)
        classifier.require_network().requires_grad_(False)
        groups = (specimen.clean, *specimen.judged(most))
        return Given(specimen, classifier, *(np.asarray(images[np.arange(len(images))]) for images in groups))

    @cached_property
    def training_set(self) -> tuple[TrainingSet, NDArray[np.bool_]]:
        """What the model was trained on, and which of its images are triggered, bool [N]."""
        seed, run_data = self.specimen.config.seeds[0], self.specimen.run_data
        attacked = self.specimen.arm == "attacked"
        data = run_data.training_set("attacked" if attacked else "control", seed)
        triggered = run_data.attacks[seed].plan.triggered if attacked else np.zeros(len(data.images), bool)
        return TrainingSet(features(self.classifier, data.images), data.labels, run_data.target), triggered


def judge(detector: Detector[Any], given: Given) -> dict[str, Any]:
    """Calibrate a detector on the clean images of a model, let it examine the others, and measure its findings."""
    if detector.examines == "dataset":
        data, truth = given.training_set
        return of_training_set(detector.examine(data, detector.calibrate([])).findings, truth)
    if detector.examines == "model":
        subject = ModelUnderTest(given.classifier, given.fitted)
        return of_model(detector.examine(subject, detector.calibrate([])).findings)
    calibration = detector.calibrate([ImagesUnderTest(given.classifier, given.fitted)])

    def findings(images: NDArray[np.uint8]) -> Sequence[Finding]:
        return detector.examine(ImagesUnderTest(given.classifier, images), calibration).findings

    return of_images(findings(given.clean), findings(given.triggered))


def _training_filters() -> Rules:
    from benchmarks.peers import filters  # noqa: PLC0415 (needs ART)

    return filters.detectors()


def _strip() -> Rules:
    from benchmarks.peers import strip  # noqa: PLC0415 (needs ART)

    return {(rule.name,): rule for rule in strip.detectors()}


PEERS: dict[str, Callable[[], Rules]] = {
    "training set": _training_filters,
    "scan --model": lambda: {(): training_sets.FeatureRanks()},
    "STRIP": _strip,
    "SentiNet": lambda: {(rule.name,): rule for rule in sentinet.detectors()},
    "SCALE-UP": lambda: {(): scaling.ScaleUp("SCALE-UP", scaling.ScaledPixels())},
    "IBD-PSC": lambda: {(): scaling.Consistency("IBD-PSC", scaling.AmplifiedParameters())},
    "TED++": lambda: {(): ted.Unusual("TED++", ted.Trajectories())},
    "Neural Cleanse": lambda: {(): cleanse.NeuralCleanse()},
    "MM-BD": lambda: {(): mm_bd.MaximumMargin()},
    "neuron noise": lambda: {(): neuron_noise.NeuronNoise()},
    "BTI-DBF": lambda: {(): bti_dbf.DecoupledFeatures()},
    "FeatureRE": lambda: {(): feature_re.FeatureHyperplane()},
}


def rules_of(peer: str) -> Rules:
    """The detectors of a peer, or a registered one, ours or that of an installed package.

    Raises:
        SystemExit: a package is not installed.
    """
    try:
        return PEERS[peer]() if peer in PEERS else {(): DETECTORS[peer]()}
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"{peer} needs the package {error.name}, which is not installed; pip install 'petechia[bench]'."
        ) from None


def registered() -> list[str]:
    """Names of the registered detectors of images and of models; those of datasets read files, which a zoo does not have."""
    return [name for name, make in DETECTORS.items() if make().examines != "dataset"]


def results_of(rules: Rules, given: Given) -> dict[str, Any]:
    """The measures of a peer's detectors, each at its place."""
    results: dict[str, Any] = {}
    for path, detector in rules.items():
        place = results
        for name in path:
            place = place.setdefault(name, {})
        place.update(judge(detector, given))
    return results


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Judge what is not yet in the file, which is written after every model and peer."""
    runtime = Compute(threads=options.threads).start()
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {"models": {}}
    results["machine"] = f"{runtime}, {platform.machine()}, torch {torch.__version__}, ART {_art()}"
    results["images"] = options.images
    chosen = [one for one in specimens(options.zoo, options.half) if any(part in one.name for part in options.only)]
    for peer in options.peers:
        for specimen in chosen:
            row = results["models"].setdefault(f"{specimen.name} {specimen.arm}", _described(specimen))
            if peer in row:
                continue
            began = time.process_time()  # wall time would depend on other work of the machine
            given = Given.of(specimen, runtime, options.images)
            row[peer] = results_of(rules_of(peer), given)
            row[peer]["seconds"] = time.process_time() - began
            write_text(options.out, json.dumps(results, indent=1))
            print(f"{peer}: {specimen.name} {specimen.arm}, {row[peer]['seconds']:.0f} s", flush=True)
    return results


def _art() -> str:
    try:
        return version(ART)
    except PackageNotFoundError:
        return "not installed"


def _described(specimen: Specimen) -> dict[str, Any]:
    attack = specimen.config.attack
    targets = [attack.target, *attack.also] if specimen.arm == "attacked" else []
    return {"backdoored": specimen.backdoored, "arm": specimen.arm, "asr": specimen.asr, "targets": targets}


def main() -> None:
    """Judge, write the file and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--out", type=Path, default=Path("peers.json"), help="results; those in it are not measured again")
    parser.add_argument("--half", choices=("tune", "judge"))
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=[*PEERS, *registered()],
        default=list(PEERS),
        help="defences, and registered detectors; without it all defences",
    )
    parser.add_argument("--only", nargs="+", default=[""], help="models with any of these in their names")
    parser.add_argument("--ours", type=Path, nargs="+", default=[], help="files of benchmarks.screening and .auditing")
    parser.add_argument("--images", type=int, default=100, help="judged images of each kind")
    parser.add_argument("--threads", type=int, default=0)
    logging.disable(logging.WARNING)
    options = parser.parse_args()
    print(markdown(run(options)["models"], read_ours(options.ours)))


if __name__ == "__main__":
    main()
