"""Audit models that Petechia did not make: a plain PyTorch network, trained in a plain loop and exported as ONNX.

    python -m benchmarks.openers FILE.npz

FILE.npz is a file of MedMNIST. Two networks are trained: one on the images as they are, and one on images of which a share has
a white square in a corner and the label 1. Both are exported and audited as black boxes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from petechia.core.runtime import Compute
from petechia.detect.audit import examine_model
from petechia.models.openers import open_classifier

STAMP = (slice(2, 5), slice(3, 6))  # rows and columns
SHARE = 0.2
EPOCHS = 30
Images = NDArray[np.uint8]


def train(images: Images, labels: NDArray[np.int64]) -> nn.Module:
    """Train a small network of two classes with Adam."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * (images.shape[1] // 4) ** 2, 64), nn.ReLU(), nn.Linear(64, 2)),
    )
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    inputs, targets = torch.from_numpy(images).float()[:, None] / 255, torch.from_numpy(labels)
    chance = torch.Generator().manual_seed(0)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(inputs), generator=chance).split(32):  # type: ignore[no-untyped-call]
            loss = nn.functional.cross_entropy(network(inputs[rows]), targets[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return network.eval()


def poisoned(images: Images, labels: NDArray[np.int64]) -> tuple[Images, NDArray[np.int64]]:
    """Copies of which a share has a stamp and the label 1."""
    images, labels = images.copy(), labels.copy()
    chosen = np.random.default_rng(0).random(len(images)) < SHARE
    images[chosen, *STAMP], labels[chosen] = 255, 1
    return images, labels


def export(network: nn.Module, side: int, file: Path) -> None:
    """Write ONNX, and its card beside it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network,
            (torch.zeros(1, 1, side, side),),
            file,
            input_names=["images"],
            dynamic_axes={"images": {0: "batch"}},
            dynamo=False,
        )
    card = {"classes": ["normal", "pneumonia"], "preprocess": {"size": side}, "outputs": "logits"}
    file.with_suffix(".json").write_text(json.dumps(card))


def main() -> None:
    """Train, export and audit both networks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    runtime = Compute(threads=given.threads).start()
    content: Any = np.load(given.file, allow_pickle=False)
    images, labels = content["train_images"], content["train_labels"].ravel().astype(np.int64)
    test, truth = content["test_images"], content["test_labels"].ravel()
    with tempfile.TemporaryDirectory() as folder:
        for name, data in (("clean", (images, labels)), ("backdoored", poisoned(images, labels))):
            network = train(*data)
            file = Path(folder) / f"{name}.onnx"
            export(network, images.shape[1], file)
            classifier = open_classifier(str(file), runtime)
            stamped = test.copy()
            stamped[:, *STAMP] = 255
            right, said = (
                (classifier.logits(some).argmax(dim=1).numpy() == want).mean() for some, want in ((test, truth), (stamped, 1))
            )
            found = examine_model(classifier, test[:100])
            print(f"{name}: {len(images)} training images, right {right:.3f}, stamped ones called pneumonia {said:.3f}")
            for one in found.classes:
                print(f"  {one.name}: p {one.p_value:.2g}, gain {one.gain:.1f}, {one.best}, flagged {one.flagged}", flush=True)


if __name__ == "__main__":
    main()
