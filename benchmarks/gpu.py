"""Petechia on a GPU against bare loops and their CUDA graphs: `python -m benchmarks --device cuda`, in about five minutes."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import petechia
from benchmarks.timing import Timing, rates
from petechia.core.graphs import REHEARSALS, CudaRecorder
from petechia.core.runtime import Compute, Runtime
from petechia.data import Preprocess
from petechia.models.feeding import Feed
from petechia.models.model import Architecture, Model, create
from petechia.models.scoring import Predictor
from petechia.models.training import Labelled, Trainer, Training
from petechia.saliency import Explainer, cam

CLASSES = tuple("ABCDEFGHIJKLMN")
STEPS, ROUNDS = 30, 5
TRAINED = ((64, 32), (224, 32), (224, 128), (224, 256))  # size, images in a batch
SCORED = ((64, 256), (224, 256))
EXPLAINED = ((224, 16), (224, 128))
Work = dict[str, Callable[[], int]]


def training(size: int, batch: int, runtime: Runtime, arch: str = "densenet121", steps: int = STEPS) -> Work:
    """One epoch of Petechia's training, and of a bare loop on tensors on the device: kernel by kernel and as a graph."""
    images, labels = _images(steps * batch, size), _labels(steps * batch)
    trainer = Trainer(_model(arch, size), Labelled(images, labels), Training(epochs=10**4, batch_size=batch), runtime, 0)
    work = {
        "petechia": lambda: trainer.run_epoch().images,
        "bare loop": bare_training(_model(arch, size), images, labels, batch, runtime, None),
    }
    if runtime.recorder is not None:
        recorder = CudaRecorder(runtime.device)
        work["bare loop as a graph"] = bare_training(_model(arch, size), images, labels, batch, runtime, recorder)
    return work


def bare_training(
    model: Model, images: np.ndarray, labels: np.ndarray, batch: int, runtime: Runtime, recorder: CudaRecorder | None
) -> Callable[[], int]:
    """The shortest loop that trains: copy a batch, forward, loss, backward, step."""
    network = runtime.to_device(model).network.train()
    every = runtime.tensor(images)
    truth = torch.from_numpy(labels.astype(np.float32)).to(runtime.device)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, fused=True, capturable=recorder is not None)
    inputs, wanted = every[:batch].clone(memory_format=torch.preserve_format), truth[:batch].clone()

    def step() -> Tensor:
        with runtime.autocast():
            logits = network(inputs)
        loss = functional.binary_cross_entropy_with_logits(logits.float(), wanted)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss

    do: Callable[[], object] = step
    if recorder is not None:
        for _ in range(REHEARSALS):
            recorder.rehearse(step)
        _, do = recorder.record(step)

    def epoch() -> int:
        for start in range(0, len(every) - batch + 1, batch):
            inputs.copy_(every[start : start + batch])
            wanted.copy_(truth[start : start + batch])
            do()
        _wait(runtime)
        return len(every)

    return epoch


def scoring(size: int, batch: int, runtime: Runtime, arch: str = "densenet121", steps: int = STEPS) -> Work:
    """Scores of images that are kept on the device, and the forward pass alone."""
    images = _images(steps * batch, size)
    model = runtime.to_device(_model(arch, size)).eval()
    predictor, feed, one = Predictor(model, runtime), Feed(images, runtime), runtime.tensor(images[:batch])

    def score() -> int:
        return len(predictor(feed))

    def forward() -> int:
        with torch.inference_mode(), runtime.autocast():
            for _ in range(steps):
                model(one)
        _wait(runtime)
        return len(images)

    return {"petechia": score, "forward alone": forward}


def explaining(size: int, batch: int, runtime: Runtime, arch: str = "densenet121", steps: int = STEPS) -> Work:
    """Grad-CAM of two layers, the forward pass alone, and packages that do the same, where they are installed."""
    model = runtime.to_device(_model(arch, size)).eval()
    images, targets = runtime.tensor(_images(batch, size)), [row % len(CLASSES) for row in range(batch)]

    def repeated(explain: Callable[[], object]) -> Callable[[], int]:
        def work() -> int:
            with runtime.autocast():
                for _ in range(steps):
                    explain()
            _wait(runtime)
            return steps * batch

        return work

    def forward() -> Tensor:
        with torch.inference_mode():
            return model(images)  # type: ignore[no-any-return]

    with runtime.autocast():
        explainer = Explainer(model, recorder=runtime.recorder)
    work = {
        "petechia": repeated(lambda: explainer(images, targets)),
        "petechia, each batch anew": repeated(lambda: cam(model, images, targets)),
        "forward alone": repeated(forward),
    }
    for name, peer in (_peers() if arch == "densenet121" else {}).items():  # they name its layers
        work[name] = repeated(lambda peer=peer: peer(model, images, targets))  # type: ignore[misc]
    return work


def _peers() -> dict[str, Callable[[Model, Tensor, list[int]], object]]:
    """Packages that explain as many layers; none if they are not installed."""
    try:
        found = import_module("benchmarks.explaining")
    except ImportError:
        return {}
    return {name: found.PEERS[name] for name in ("torchcam", "captum")}


def default_run(device: str) -> float:
    """Seconds of the run that the README begins with."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        petechia.run({"compute": {"device": device}}, out=Path(folder) / "run")
        return time.perf_counter() - began


def report(device: str) -> Iterator[str]:
    """Yield the table as Markdown."""
    runtime = Compute(device=device).start()
    yield f"{runtime}; torch {torch.__version__}."
    yield ""
    yield "| what | who | lowest | median | highest | images/s: petechia ÷ this |"
    yield "|---|---|---|---|---|---|"
    parts = [("train", training, TRAINED), ("score", scoring, SCORED), ("Grad-CAM of two layers", explaining, EXPLAINED)]
    for name, of, cases in parts:
        for size, batch in cases:
            gc.collect()  # what the case before has left on the card
            yield from _rows(f"{name}, {size} × {size}, batches of {batch}", of(size, batch, runtime))
    seconds = default_run(device)
    yield ""
    yield f"`petechia run` with its defaults: {seconds:.0f} s."


def _rows(title: str, work: Work) -> Iterator[str]:
    rates(work, 2)  # rehearsals and recordings
    timings: dict[str, Timing] = rates(work, ROUNDS)
    ours = timings["petechia"].median
    for name, timing in timings.items():
        ratio = "" if name == "petechia" else f"{ours / timing.median:.2f}"
        yield f"| {title} | {name} | {' | '.join(f'{value:,.0f}' for value in timing)} | {ratio} |"
        title = ""


def _model(arch: str, size: int) -> Model:
    return create(Architecture(arch=arch), CLASSES, Preprocess(size=size), 0)


def _images(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size), dtype=np.uint8)


def _labels(count: int) -> np.ndarray:
    return (np.random.default_rng(1).random((count, len(CLASSES))) < 0.1).astype(np.int8)


def _wait(runtime: Runtime) -> None:
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)
