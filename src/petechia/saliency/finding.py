"""Finds the layers "last" and "middle" of any network.

A layer must be a map of the image: rows and columns in the image's proportions, or as many tokens. The scores must depend on
it at these places, not only on a class token beside them. And it must not be passed by: every path from the image to the
scores goes through it or, in a network of several branches, it is a part of the trunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from petechia.saliency.outline import DENSENET, Outline
from petechia.saliency.placing import TOKENS, Seen, decide, look
from petechia.saliency.readings import Reader, Reading, Tokens
from petechia.saliency.recording import Layer, recording
from petechia.saliency.tracing import Passed, Place, Trace, Vertex, trace

# The paper's middle layer is Keras' pool4_relu: norm and ReLU before the last transition's convolution.
OF_DENSENET = {"middle": "features.transition3.norm", "last": "features.norm5"}
SOME = 6  # maps whose gradients are looked at together, from the end
LATE = 0.5  # a map that all paths go through is the last if no more than this share of the network follows
FEW = 4  # maps of one size: too few for one halfway


@dataclass(frozen=True)
class Map:
    """A tensor of the network that is a map of the image.

    Attributes:
        passed: the tensor.
        reading: how it is a map.
        cut: whether every path from the image to the scores goes through it.
        trunk: whether a part of the trunk gives it.
    """

    passed: Passed
    reading: Reading
    cut: bool
    trunk: bool

    @property
    def height(self) -> int:
        """Rows of cells."""
        return self.reading.grid[0]


@dataclass(frozen=True)
class Found:
    """The layers of a network, for images of a size.

    Attributes:
        named: "last" and, where there is one, "middle" → name of a module. Empty if there is no map.
        maps: name of a module → which of the tensors that it gives is a map, and how.
        parts: name of a part of an exported network → name of the module that gives what it gives.
        slopes: whether the scores have a gradient at the images.
        placed: whether the last map lies on the image.
    """

    named: dict[str, str]
    maps: dict[str, tuple[Place, Reading]]
    parts: dict[str, str]
    slopes: bool = True
    placed: bool = True


def find(model: nn.Module, network: nn.Module, images: Tensor) -> Found:
    """Find the layers, with a pass for the graph, and one or a few more for gradients.

    Args:
        model: gives scores.
        network: the part of it that has the layers.
        images: float32 [B, C, H, W]; only their size counts.
    """
    probe, outline = _probe(model, images), Outline.of(network)
    traced = trace(model, network, probe)
    if traced is None:
        return Found({}, {}, dict(outline.parts), slopes=False)
    return Finder(model, network, probe, outline, traced).found()


def _probe(model: nn.Module, images: Tensor) -> Tensor:
    """Noise: at zeros a network may be flat. As many images as a program takes, or two, as one is no sign of a batch."""
    count = getattr(getattr(model, "input_spec", None), "batch", None) or 2
    noise = torch.rand(count, *images.shape[1:], generator=torch.Generator().manual_seed(0))
    return noise.to(images.device, images.dtype)


class Finder:
    """Finds the layers in what a network gave."""

    def __init__(self, model: nn.Module, network: nn.Module, probe: Tensor, outline: Outline, traced: Trace) -> None:
        self._model, self._probe, self._outline, self._trace = model, probe, outline, traced
        self._modules = dict(network.named_modules())
        core = self._modules.get(outline.core.removesuffix("."), network)
        self._readings = _ordered(core, self._read(Reader.of(core, (probe.shape[2], probe.shape[3]))))
        self._order = {one: number for number, one in enumerate(traced.passed)}
        self._trunk = {outline.parts[part] for part in outline.trunk}
        self._sequences = {outline.parts[part] for part in outline.sequences}
        self._maps = list(self._all_maps())

    def _read(self, reader: Reader) -> dict[Passed, Reading]:
        """How each tensor is a map; where it could be in several ways, as changes of the image show."""
        passed = self._trace.passed
        possible = dict(zip(passed, reader.read([one.shape for one in passed], len(self._probe)), strict=True))
        if reader.prefix is None:
            seen = self._look({one: () for one in passed if len(one.shape) == TOKENS and one.shape[0] == len(self._probe)})
            tokens = [Tokens(one.shape, possible[one], seen[one].still) for one in passed if one in seen]
            possible |= zip([one for one in passed if one in seen], reader.with_still(tokens), strict=True)
        possible = {one: ways for one, ways in possible.items() if ways}
        known = reader.prefix is not None
        doubtful = {one: ways for one, ways in possible.items() if len(ways) > 1 or (len(one.shape) == TOKENS and not known)}
        return decide(possible, self._look(doubtful))

    def _look(self, possible: Mapping[Passed, Sequence[Reading]]) -> dict[Passed, Seen]:
        wanted = {one: (Layer(self._modules[one.name], one.place), ways) for one, ways in possible.items()}
        return look(self._model, self._probe[:1], wanted) if wanted else {}

    def found(self) -> Found:
        """Return the layers."""
        chosen = self._of_densenet() or self._of_blocks() or self._of_maps()
        placed = self._in_place(chosen)
        lies = "last" in placed or not chosen
        chosen = placed if lies else {}
        maps: dict[str, tuple[Place, Reading]] = {}
        for one, reading in self._readings.items():  # of several that a module gives the finest
            if one.name not in maps or reading.grid > maps[one.name][1].grid:
                maps[one.name] = (one.place, reading)
        maps |= {one.passed.name: (one.passed.place, one.reading) for one in chosen.values()}
        named = {layer: one.passed.name for layer, one in chosen.items()}
        return Found(named, maps, dict(self._outline.parts), placed=lies)

    def _all_maps(self) -> Iterator[Map]:
        """Every map that may be a layer, once, in the order in which they are made."""
        same: dict[Vertex, list[Passed]] = {}
        for one in self._readings:
            same.setdefault(one.vertex, []).append(one)
        for vertex, ones in same.items():
            # The module that made it, and the parts around that give it on. Others may hand it on past what uses it, too.
            around = [one for one in ones if ones[0].name == one.name or ones[0].name.startswith(f"{one.name}.")]
            part, cut = any(one.name in self._trunk for one in around), vertex in self._trace.cuts
            if part or cut:
                yield self._map(min(around, key=lambda one: (len(one.place), len(one.name))), cut, part)

    def _map(self, passed: Passed, cut: bool = False, part: bool = False) -> Map:
        return Map(passed, self._readings[passed], cut, part)

    def _given_by(self, part: str) -> Map | None:
        name = self._outline.parts.get(part)
        return next((self._map(one) for one in self._readings if one.name == name), None)

    def _of_densenet(self) -> dict[str, Map]:
        """The layers of the paper."""
        if self._outline.kind != DENSENET:
            return {}
        found = {layer: self._given_by(self._outline.core + part) for layer, part in OF_DENSENET.items()}
        return {layer: one for layer, one in found.items() if one} if found["last"] else {}

    def _of_blocks(self) -> dict[str, Map]:
        """What a transformer's last block and the one halfway get, after the norm with which a block begins.

        Only where all blocks have the same tokens, each begins with the norm, and no other sequence of blocks follows.
        """
        blocks: list[Map] = []
        name = f"{self._outline.core}blocks."
        while one := self._given_by(f"{name}{len(blocks)}"):
            blocks.append(one)
        norms = [self._given_by(f"{name}{number}.norm1") for number in range(len(blocks))]
        found = [norm for norm in norms if norm and norm.reading.kind == "BTC"]
        if len(blocks) < 2 or len(found) < len(blocks) or len({one.reading for one in (*blocks, *found)}) > 1:
            return {}
        begins = all(before.passed.vertex in norm.passed.taken for before, norm in zip(blocks, found[1:], strict=False))
        if not begins or self._other_blocks_after(blocks[-1], name) or not all(self._reached([found[-1]])):
            return {}
        return {"middle": found[(len(found) - 1) // 2], "last": found[-1]}

    def _other_blocks_after(self, block: Map, name: str) -> bool:
        parts = {self._outline.parts[part] for part in self._outline.sequences if not part.startswith(name)}
        later = self._trace.passed[self._order[block.passed] + 1 :]
        return any(one.name in parts and len(one.shape) == 3 for one in later)

    def _of_maps(self) -> dict[str, Map]:
        last = self._last()
        if last is None:
            return {}
        middle = self._higher(last) or self._halfway(last)
        return {"last": self._after_norm(last)} | ({"middle": middle} if middle else {})

    def _in_place(self, chosen: Mapping[str, Map]) -> dict[str, Map]:
        """Those of the layers that lie on the image: tokens in its order, and no map before is off."""
        if not chosen:
            return {}
        maps = [one for one in self._maps if one.cut] or self._maps
        before = [one for one in maps if one.reading.kind in ("BCHW", "BHWC")]
        seen = self._look({one.passed: [one.reading] for one in (*before, *chosen.values())})
        if any(lie.off for one in before for lie in seen[one.passed].lies):
            return {}
        tokens = {one.passed for one in chosen.values() if one.reading.kind in ("BTC", "BCT")}
        return {name: one for name, one in chosen.items() if one.passed not in tokens or seen[one.passed].lies[0].ordered}

    def _last(self) -> Map | None:
        """The last map that the scores depend on."""
        cuts = [one for one in self._maps if one.cut]
        last = self._latest(cuts)
        if last and self._late(last):
            return last
        later = self._maps[self._maps.index(last) + 1 :] if last else self._maps
        # Of several branches: what a block of a sequence gives. A part of the network itself may be called inside a block.
        branches = [one for one in later if one.passed.name in self._sequences] or [one for one in later if one.trunk]
        return self._latest(branches) or last or next(reversed(cuts or self._maps), None)

    def _late(self, one: Map) -> bool:
        return self._trace.depth[one.passed.vertex] <= LATE * len(self._trace.depth)

    def _latest(self, maps: Sequence[Map]) -> Map | None:
        """The last of some maps that the scores depend on; of several that one module gives the finest."""
        end = len(maps)
        while end > 0:
            some = maps[max(0, end - SOME) : end]
            reached = [one for one, does in zip(some, self._reached(some), strict=True) if does]
            if reached:
                beside = [one for one in reached if one.passed.name == reached[-1].passed.name]
                return max(beside, key=lambda one: one.reading.grid)
            end -= SOME
        return None

    def _reached(self, maps: Sequence[Map]) -> list[bool]:
        """Whether the features that the scores are made of depend on maps, where these are maps."""
        layers = {str(number): self._layer(one) for number, one in enumerate(maps)}
        features: list[Tensor] = []
        with ExitStack() as hooks:
            if module := self._features():
                handle = module.register_forward_hook(lambda _module, _given, output: features.append(output))
                hooks.enter_context(handle)
            hooks.enter_context(torch.no_grad())
            outputs = hooks.enter_context(recording(layers))
            scores = self._model(self._probe)
            end = features[-1] if features and features[-1].requires_grad else scores
            chance = torch.rand(end.shape, generator=torch.Generator().manual_seed(1)).to(end) + 0.5
            slopes = torch.autograd.grad(end, list(outputs.values()), chance, allow_unused=True)
        found = dict(zip(outputs, slopes, strict=True))
        return [self._differs(one.reading, found.get(str(number))) for number, one in enumerate(maps)]

    @staticmethod
    def _differs(reading: Reading, slope: Tensor | None) -> bool:
        mapped = None if slope is None else reading.as_map(slope)
        return mapped is not None and bool(mapped.any())

    def _features(self) -> nn.Module | None:
        """What gives the features [B, D] before the classifier, whose weights may still be 0."""
        count = len(self._probe)
        vectors = [
            one for one in self._trace.passed if one.vertex in self._trace.cuts and len(one.shape) == 2 and not one.place
        ]
        maps = max((self._order[one] for one in self._readings), default=0)
        after = [one for one in vectors if self._order[one] > maps and one.shape[0] == count]
        return self._modules[after[0].name] if after else None

    def _layer(self, one: Map) -> Layer:
        return Layer(self._modules[one.passed.name], one.passed.place, one.reading)

    def _after_norm(self, last: Map) -> Map:
        """Where only a class token goes on from the last block: what the block's norm gives, instead of what the block gets.

        The shortcut past the norm does not count, because nothing of the image's parts that takes it goes on.
        """
        if not any(one.reading.grid == last.reading.grid for one in self._maps[self._maps.index(last) + 1 :]):
            return last
        taking = [one for one in self._readings if last.passed.vertex in one.taken and one.shape == last.passed.shape]
        norms = [self._map(one) for one in taking if _is_norm(self._modules[one.name])]
        return norms[0] if norms and all(self._reached(norms[:1])) else last

    def _higher(self, last: Map) -> Map | None:
        """The last part of the trunk before it whose map is at least twice as high; odd sides are rounded up."""
        before = self._before(last)
        higher = [one for one in before if one.height > last.height and (one.height + 1) // 2 >= last.height]
        lowest = [one for one in higher if one.height == min(other.height for other in higher)]
        return self._latest([one for one in lowest if one.cut]) or self._latest(lowest)

    def _halfway(self, last: Map) -> Map | None:
        """Of a network whose maps all have one size, the one halfway."""
        parts = [one for one in self._before(last) if one.reading.grid == last.reading.grid]
        halfway = parts[len(parts) // 2] if len(parts) >= FEW and self._late(last) else None
        return halfway if halfway and all(self._reached([halfway])) else None

    def _before(self, last: Map) -> list[Map]:
        maps = self._maps[: self._maps.index(last)]
        parts = [one for one in maps if one.trunk and (one.cut or one.passed.name in self._sequences)]
        return parts if self._trunk else maps


def _ordered(network: nn.Module, readings: dict[Passed, Reading]) -> dict[Passed, Reading]:
    """Put the tokens of timm's Hiera in order, as it says itself for its blocks. In the inside of these they have others."""
    reroll = getattr(network, "reroll", None)
    if reroll is None:
        return readings
    found = {}
    for one, reading in readings.items():
        _, _, number = one.name.rpartition("blocks.")
        if reading.kind == "BTC" and number.isdecimal():
            order = reroll(torch.arange(one.shape[1]).view(1, -1, 1), int(number)).flatten().tolist()
            found[one] = replace(reading, order=tuple(order))
        elif reading.kind != "BTC" or "blocks." not in one.name:
            found[one] = reading
    return found


def _is_norm(module: nn.Module) -> bool:
    """Of a network's modules by their class, of a program's steps by their operation."""
    return "norm" in str(getattr(module, "operation", type(module).__name__)).lower()
