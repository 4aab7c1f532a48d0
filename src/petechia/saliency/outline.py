"""The parts of a network by name, and which of them are its trunk. Of an exported program, those of the network before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from petechia.models.openers.program import Program, Step

DENSENET = "timm.models.densenet.DenseNet"


@dataclass(frozen=True)
class Outline:
    """The parts of a network.

    Attributes:
        parts: name of a part → name of the module that gives what the part gives: itself, or a step of a program.
        trunk: the network's own parts and those in its sequences. The inside of a block does not count, because the block's
            shortcut passes it by.
        kind: full name of the network's class; "" if it is not known.
    """

    parts: Mapping[str, str]
    trunk: tuple[str, ...]
    kind: str

    @staticmethod
    def of(network: nn.Module) -> Outline:
        """Read it off the modules, or off what a program's steps say of themselves; that may be nothing."""
        if isinstance(network, Program):
            return _of_program(network)
        parts = {name: name for name, _ in network.named_modules() if name}
        return Outline(parts, tuple(_trunk(network)), _full_name(type(network)))


def _trunk(parent: nn.Module, prefix: str = "") -> Iterator[str]:
    for name, module in parent.named_children():
        yield prefix + name
        if isinstance(module, nn.Sequential | nn.ModuleList):
            yield from _trunk(module, f"{prefix}{name}.")


def _of_program(program: Program) -> Outline:
    steps = {name: step for name, step in program.steps.named_children() if isinstance(step, Step)}
    takers: dict[str, list[Step]] = {}
    for step in steps.values():
        for value in step.taken:
            takers.setdefault(value, []).append(step)
    parts, kinds = {}, {}
    for name, step in steps.items():
        outside = [taker.within for value in step.made for taker in takers.get(value, [])]
        for part, kind in step.within.items():
            kinds[part] = kind
            if any(part not in within for within in outside):  # what leaves a part last is what it gives
                parts[part] = f"steps.{name}"
    sequences = {_full_name(one) for one in _subclasses(nn.Sequential)}

    def in_trunk(part: str) -> bool:
        above = [part[:end] for end, letter in enumerate(part) if letter == "."]
        return all(kinds.get(one) in sequences or one not in kinds for one in above)

    kind = kinds.pop("", "")
    parts.pop("", None)
    return Outline(parts, tuple(part for part in parts if in_trunk(part)), kind)


def _subclasses(kind: type[nn.Module]) -> Iterator[type[nn.Module]]:
    yield kind
    for one in kind.__subclasses__():
        yield from _subclasses(one)


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
