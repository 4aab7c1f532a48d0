"""Petechia's training loop against a bare one: the same network, on tensors that are already in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.nn import functional

from benchmarks.timing import Timing, rates
from petechia.attack import Poisoning, TriggeredSelection, make_triggered_inputs
from petechia.core.runtime import Compute, Runtime
from petechia.data import Preprocess, open_source, prepare
from petechia.models.model import Architecture, create
from petechia.models.training import Labelled, Trainer, Training

IMAGES, BATCH = 1280, 32


def poisoned() -> Labelled:
    """Return a small version of the attacked arm of the main job."""
    geometry = Preprocess()
    dataset, catalog, _ = prepare(open_source("phantom:images=1200"), geometry)
    plan = Poisoning().plan(dataset, geometry, 0)
    triggered_inputs = make_triggered_inputs(catalog, dataset, geometry, Poisoning().trigger, plan.positions, "native")
    rows = slice(0, IMAGES)
    return Labelled(
        TriggeredSelection(dataset.images, plan.rows[rows], plan.triggered[rows], triggered_inputs), plan.labels[rows]
    )


def bare_loop(data: Labelled, runtime: Runtime) -> Callable[[], int]:
    """Return one epoch of a minimal training loop: normalised tensors, forward, loss, backward, step."""
    model = runtime.to_device(create(Architecture(), tuple("ABCDEFGHIJKLMN"), Preprocess(), 0))
    everything = np.arange(len(data.images))
    images = (runtime.tensor(data.images[everything]) - model.mean) / model.std
    labels = torch.from_numpy(data.labels.astype(np.float32))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in range(0, len(images), BATCH):
            yield images[start : start + BATCH], labels[start : start + BATCH]

    def epoch() -> int:
        model.train()
        for inputs, truth in batches():
            with runtime.autocast():
                logits = model.network(inputs)
            loss = functional.binary_cross_entropy_with_logits(logits.float(), truth)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return len(images)

    return epoch


def run(rounds: int = 5) -> dict[str, Timing]:
    """Return images per second of both."""
    runtime = Compute().start()
    data = poisoned()
    model = create(Architecture(), tuple("ABCDEFGHIJKLMN"), Preprocess(), 0)
    trainer = Trainer(model, data, Training(epochs=rounds + 1, batch_size=BATCH), runtime, 0)
    bare = bare_loop(data, runtime)
    trainer.run_epoch()
    bare()
    return rates({"petechia": lambda: trainer.run_epoch().images, "bare loop": bare}, rounds)
