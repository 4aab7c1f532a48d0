"""An attacker who trains against the heat: a backdoored model of a zoo goes on training until Grad-CAM shuns the trigger.

python -m benchmarks.hiding ZOO --model judge-08
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.adaptive import HEAD, judged
from petechia.attack import Patch
from petechia.compute import Compute, Machine
from petechia.detect.classifier import Classifier
from petechia.explain import cam
from petechia.explain.layers import find_layers
from petechia.model import Model, predict
from petechia.zoo.specimens import Specimen, specimens

STEPS, BATCH, RATE = 300, 64, 5e-4
WEIGHT = 10.0  # of the share of the heat that lies on the trigger, beside the loss
SHOWN = 100  # triggered images on which that share is measured


def share_at(maps: Tensor, places: Tensor, size: int) -> Tensor:
    """Share of each map, float32 [B, h, w], in the cell that holds a place, int [B, 2], of an image of this size."""
    rows, columns = (places * maps.shape[-1] // size).T
    return maps[torch.arange(len(maps)), rows, columns] / maps.sum(dim=(1, 2)).clamp(min=1e-6)


def middles(specimen: Specimen) -> Tensor:
    """Row and column of the middle of the trigger on every image of the dataset, int [N, 2]."""
    attack = specimen.config.attack
    assert isinstance(attack.trigger, Patch)
    return torch.from_numpy(specimen.material.attacks[specimen.config.seeds[0]].plan.positions + attack.trigger.size // 2)


def heat(model: Model, images: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """Logits, and Grad-CAM of the middle layer that can itself be differentiated."""
    kept: list[Tensor] = []
    middle = find_layers(model, ["middle"], images)["middle"]
    handle = middle.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    try:
        logits = model(images)
    finally:
        handle.remove()
    (slopes,) = torch.autograd.grad(logits[:, target].sum(), kept, create_graph=True)
    return logits, (slopes.mean(dim=(2, 3), keepdim=True) * kept[0]).sum(dim=1).relu()


def hide(model: Model, specimen: Specimen, machine: Machine) -> None:
    """Train on the poisoned images with the heat on the trigger as a further loss; batch norm stays as it is."""
    model.requires_grad_(True)  # which an audit has taken away
    material, seed = specimen.material, specimen.config.seeds[0]
    data, plan = material.training_set("attacked", seed), material.attacks[seed].plan
    places = middles(specimen)[plan.rows]
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        rows = rng.choice(len(data.images), BATCH, replace=False)
        logits, maps = heat(model, machine.tensor(data.images[rows]), material.target)
        labels = torch.from_numpy(data.labels[rows].astype(np.float32))
        stamped = torch.from_numpy(plan.triggered[rows])
        hot = share_at(maps[stamped], places[rows][stamped], specimen.config.preprocess.size)
        loss = functional.binary_cross_entropy_with_logits(logits, labels) + WEIGHT * hot.mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def found_by_heat(model: Model, specimen: Specimen, machine: Machine, layer: str = "middle") -> tuple[float, float]:
    """Mean share of the heat in the trigger's cell, by Petechia's own maps, and how often that cell is the hottest."""
    _, triggered = specimen.judged(SHOWN)
    size, target = specimen.config.preprocess.size, specimen.material.target
    maps = cam(model, machine.tensor(triggered[np.arange(len(triggered))]), target, (layer,))[layer]
    share = share_at(maps, middles(specimen)[triggered.rows], size)
    return float(share.mean()), float((share >= maps.amax(dim=(1, 2)) / maps.sum(dim=(1, 2)).clamp(min=1e-6)).float().mean())


def heats(zoo: Path, machine: Machine) -> Iterator[str]:
    """A row for every backdoor of the judging half that took."""
    yield "| model | middle: share at the trigger | hottest there | last: share | hottest there |\n|---|---|---|---|---|"
    for specimen in specimens(zoo, "judge"):
        if specimen.backdoored:
            model = machine.place(Model.load(specimen.file)).eval()
            found = (value for layer in ("middle", "last") for value in found_by_heat(model, specimen, machine, layer))
            yield f"| {specimen.name} | {' | '.join(f'{value:.2f}' for value in found)} |"


def asr(model: Model, specimen: Specimen, machine: Machine) -> float:
    """ASR(0.9) on the judged images."""
    _, triggered = specimen.judged()
    return float((predict(model, triggered, machine)[:, specimen.material.target] >= 0.9).mean())


def main() -> None:
    """A row before and a row after."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoo", type=Path)
    parser.add_argument(
        "--model", default="judge-08", help="the first whose name begins so; its heat should lie on its trigger"
    )
    parser.add_argument("--heat", action="store_true", help="only say of every backdoor whether the heat finds its trigger")
    given = parser.parse_args()
    machine = Compute(threads=1, precision="fp32").open()
    if given.heat:
        for line in heats(given.zoo, machine):
            print(line, flush=True)
        return
    specimen = next(one for one in specimens(given.zoo) if one.arm == "attacked" and one.name.startswith(given.model))
    model = machine.place(Model.load(specimen.file)).eval()
    print(HEAD, flush=True)
    for name in (specimen.name, f"{specimen.name}, heat hidden"):
        if name != specimen.name:
            hide(model, specimen, machine)
        print(judged(name, asr(model, specimen, machine), Classifier.of(model, machine), specimen), flush=True)
        share, hottest = found_by_heat(model, specimen, machine)
        print(f"share of the heat at the trigger: {share:.3f}, hottest there: {hottest:.2f}", flush=True)


if __name__ == "__main__":
    main()
