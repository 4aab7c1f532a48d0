"""Which layers of timm's networks are explained, a network of every family, against Grad-CAM by hand.

    python -m benchmarks.layers [FAMILY…] --out FILE

Weights are random. The computation by hand hooks the layer's module in the whole graph, one class at a time, and arranges what
the module gives as rows and columns by what is written down here of its family.
"""

from __future__ import annotations

import argparse
import gc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.data import Preprocess
from petechia.models.model import Architecture, Description, Model
from petechia.saliency import cam
from petechia.saliency.layers import NAMED, names_of

CLASSES = ("A", "B", "C")
# The smallest network of each family, or a small one that has what the family is known for.
NETWORKS = {
    "beit": "beit_base_patch16_224",
}
HEAD = "| family | network | image | last | cells | middle | cells | largest difference |\n|---|---|--:|---|--:|---|--:|--:|"


class Hand(NamedTuple):
    """How a family arranges what a layer gives.

    Attributes:
        kind: dimensions: "BCHW", "BHWC" or "BTC".
        prefix: tokens before those of the image.
        place: of the tensor in a tuple that the layer gives.
    """

    kind: str = "BCHW"
    prefix: int = 0
    place: int | None = None


# By family, or by family and layer. All others give [B, C, h, w].
BY_HAND = {
    "beit": Hand("BTC", 1),
}


def network_of(family: str, seed: int = 0) -> tuple[str, Model]:
    """Build a network with random weights; its norms differ from channel to channel, or some would give no heat."""
    name = NETWORKS.get(family) or timm.list_models(module=family)[0]
    torch.manual_seed(seed)
    network = timm.create_model(name, num_classes=len(CLASSES)).eval()
    with torch.no_grad():
        for one in network.modules():
            weight = getattr(one, "weight", None)
            if isinstance(weight, nn.Parameter) and weight.ndim == 1:
                weight.copy_(torch.rand_like(weight) + 0.5)
    size = network.pretrained_cfg["input_size"][-1]
    architecture = Architecture(arch=name, channels=3)
    description = Description(
        architecture=architecture, classes=CLASSES, preprocess=Preprocess(size=size), mean=(0.5,) * 3, std=(0.5,) * 3
    )
    return name, Model(network, description).eval()


def by_hand(model: Model, image: Tensor, target: int, module: str, hand: Hand) -> Tensor:
    """Grad-CAM of one image, float32 [h, w]: weights are mean slopes; what is below 0 is 0."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _given: object, output: Any) -> None:
        output = output if hand.place is None else output[hand.place]
        output.retain_grad()
        kept.append(output)

    handle = model.network.get_submodule(module).register_forward_hook(keep)
    model(image)[0, target].backward()
    handle.remove()
    activation, slope = kept[-1].detach()[0], kept[-1].grad[0]  # type: ignore[index]
    model.zero_grad(set_to_none=True)
    if hand.kind == "BTC":
        side = round((len(activation) - hand.prefix) ** 0.5)
        activation, slope = (one[hand.prefix :].reshape(side, side, -1) for one in (activation, slope))
    if hand.kind != "BCHW":
        activation, slope = activation.permute(2, 0, 1), slope.permute(2, 0, 1)
    return torch.einsum("chw,c->hw", activation, slope.mean(dim=(1, 2))).relu()


def row(family: str) -> str:
    """Explain a family's network, and return its row of the table."""
    name, model = network_of(family)
    size = model.description.preprocess.size
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    start = f"| {family} | {name} | {size} |"
    try:
        names = names_of(model, image)
        targets = range(len(CLASSES))
        found = [cam(model, image, target, tuple(names)) for target in targets]
    except PetechiaError as error:
        return f"{start} {error} ||||"
    differences, cells = [], {}
    for layer, module in names.items():
        hand = BY_HAND.get(f"{family}, {layer}", BY_HAND.get(family, Hand()))
        truth = torch.stack([by_hand(model, image, target, module, hand) for target in targets])
        maps = torch.cat([one[layer] for one in found])
        cells[layer] = f"{maps.shape[1]} × {maps.shape[2]}"
        differences.append(float((maps - truth).abs().max() / truth.max()))
    shown = " | ".join(f"`{names[layer]}` | {cells[layer]}" if layer in names else "none |" for layer in NAMED)
    return f"{start} {shown} | {max(differences):.1g} |"


def table(families: list[str]) -> Iterator[str]:
    """Yield the table; a network that does not classify has its reason."""
    yield HEAD
    for family in families:
        try:
            yield row(family)
        except Exception as error:
            yield f"| {family} | not made: {type(error).__name__}: {str(error)[:100]} |||||||"
        gc.collect()


def main() -> None:
    """Print the table as it grows, and write it to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", default=timm.list_modules())
    parser.add_argument("--out", type=Path, default=Path("layers.md"))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = []
    for line in table(given.families):
        print(line, flush=True)
        lines.append(line)
    given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
