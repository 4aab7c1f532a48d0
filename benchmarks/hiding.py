"""An attacker who trains against the heat: a backdoored model of a zoo is trained further until Grad-CAM avoids the trigger.

python -m benchmarks.hiding ZOO --model judge-01
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
from petechia.core.runtime import Compute, Runtime
from petechia.models.classifier import Classifier
from petechia.models.model import Model
from petechia.models.scoring import predict
from petechia.saliency import cam
from petechia.saliency.layers import find_layers
from petechia.zoo.specimens import Specimen, specimens

STEPS, BATCH, RATE = 300, 64, 5e-4
WEIGHT = 10.0  # of the share of the heat that lies on the trigger, in the loss
SHOWN = 100  # triggered images on which that share is measured


def touched(specimen: Specimen, side: int) -> Tensor:
    """Return the cells of a side × side map that the trigger touches on every image, bool [N, side, side]."""
    attack, size = specimen.config.attack, specimen.config.preprocess.size
    assert isinstance(attack.trigger, Patch)
    first = torch.from_numpy(specimen.run_data.attacks[specimen.config.seeds[0]].plan.positions)
    cells, last = torch.arange(side), first + attack.trigger.size - 1
    inside = (cells >= first[..., None] * side // size) & (cells <= last[..., None] * side // size)  # [N, 2, side]
    return inside[:, 0, :, None] & inside[:, 1, None, :]


def share_at(maps: Tensor, where: Tensor) -> Tensor:
    """Return the share of each map, float32 [B, h, w], that lies in the given cells, bool [B, h, w]."""
    return (maps * where).sum(dim=(1, 2)) / maps.sum(dim=(1, 2)).clamp(min=1e-6)


def heat(model: Model, images: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """Logits, and a Grad-CAM of the middle layer that can be differentiated."""
    kept: list[Tensor] = []
    middle = find_layers(model, ["middle"], images)["middle"].module
    handle = middle.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    try:
        logits = model(images)
    finally:
        handle.remove()
    (slopes,) = torch.autograd.grad(logits[:, target].sum(), kept, create_graph=True)
    return logits, (slopes.mean(dim=(2, 3), keepdim=True) * kept[0]).sum(dim=1).relu()


def hide(model: Model, specimen: Specimen, runtime: Runtime) -> None:
    """Train on the poisoned images with the heat on the trigger as a second loss; batch norms keep their statistics."""
    model.requires_grad_(True)  # an audit has switched it off
    run_data, seed = specimen.run_data, specimen.config.seeds[0]
    data, plan = run_data.training_set("attacked", seed), run_data.attacks[seed].plan
    _, maps = heat(model, runtime.tensor(data.images[np.arange(1)]), run_data.target)
    where = touched(specimen, maps.shape[-1])[plan.rows]
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        rows = rng.choice(len(data.images), BATCH, replace=False)
        logits, maps = heat(model, runtime.tensor(data.images[rows]), run_data.target)
        labels = torch.from_numpy(data.labels[rows].astype(np.float32))
        stamped = torch.from_numpy(plan.triggered[rows])
        hot = share_at(maps[stamped], where[rows][stamped])
        loss = functional.binary_cross_entropy_with_logits(logits, labels) + WEIGHT * hot.mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def found_by_heat(model: Model, specimen: Specimen, runtime: Runtime, layer: str = "middle") -> tuple[float, float]:
    """Mean share of the heat in the cells that the trigger touches, and how often the hottest cell is one of them."""
    _, triggered = specimen.judged(SHOWN)
    images = runtime.tensor(triggered[np.arange(len(triggered))])
    maps = cam(model, images, specimen.run_data.target, (layer,))[layer]
    where = touched(specimen, maps.shape[-1])[triggered.rows]
    hottest = where.flatten(1).gather(1, maps.flatten(1).argmax(dim=1, keepdim=True))
    return float(share_at(maps, where).mean()), float(hottest.float().mean())


def heats(zoo: Path, runtime: Runtime) -> Iterator[str]:
    """One row for each backdoor of the judging half that took."""
    yield "| model | middle: share at the trigger | hottest there | last: share | hottest there |\n|---|---|---|---|---|"
    for specimen in specimens(zoo, "judge"):
        if specimen.backdoored:
            model = runtime.to_device(Model.load(specimen.file)).eval()
            found = (value for layer in ("middle", "last") for value in found_by_heat(model, specimen, runtime, layer))
            yield f"| {specimen.name} | {' | '.join(f'{value:.2f}' for value in found)} |"


def asr(model: Model, specimen: Specimen, runtime: Runtime) -> float:
    """Return ASR(0.9) on the judged images."""
    _, triggered = specimen.judged()
    return float((predict(model, triggered, runtime)[:, specimen.run_data.target] >= 0.9).mean())


def main() -> None:
    """Print one row before and one row after."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoo", type=Path)
    parser.add_argument(
        "--model", default="judge-01", help="the first model whose name begins like this; its heat should lie on its trigger"
    )
    parser.add_argument("--heat", action="store_true", help="only print for each backdoor whether the heat finds its trigger")
    given = parser.parse_args()
    runtime = Compute(threads=1, precision="fp32").start()
    if given.heat:
        for line in heats(given.zoo, runtime):
            print(line, flush=True)
        return
    specimen = next(one for one in specimens(given.zoo) if one.arm == "attacked" and one.name.startswith(given.model))
    model = runtime.to_device(Model.load(specimen.file)).eval()
    print(HEAD, flush=True)
    for name in (specimen.name, f"{specimen.name}, heat hidden"):
        if name != specimen.name:
            hide(model, specimen, runtime)
        print(judged(name, asr(model, specimen, runtime), Classifier.of(model, runtime), specimen), flush=True)
        share, hottest = found_by_heat(model, specimen, runtime)
        print(f"share of the heat at the trigger: {share:.3f}, hottest there: {hottest:.2f}", flush=True)


if __name__ == "__main__":
    main()
