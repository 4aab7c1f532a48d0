"""The parts of a network by name, and which of them are its trunk. Of an exported program, those of the network before."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from petechia.models.openers.program import Program, Step

DENSENET = "timm.models.densenet.DenseNet"
MOST = 0.8  # of a network's modules: so many are in the network that a wrapper is around
SEVERAL = 20  # modules that such a network has at least
MOST_PARTS = 20_000  # that a file may tell of


@dataclass(frozen=True)
class Outline:
    """The parts of a network.

    Attributes:
        parts: name of a part → name of the module that gives what the part gives: itself, or a step of a program.
        core: the network itself, if others are only wrapped around it: "" or a name with a dot behind it, "backbone.".
        trunk: the core's own parts and those in its sequences. The inside of a block does not count, because the block's
            shortcut passes it by.
        sequences: those of the trunk that are in a sequence.
        kind: full name of the core's class; "" if it is not known.
    """

    parts: Mapping[str, str]
    core: str
    trunk: tuple[str, ...]
    sequences: frozenset[str]
    kind: str

    @staticmethod
    def of(network: nn.Module) -> Outline:
        """Read it off the modules, or off what a program's steps say of themselves; that may be nothing."""
        return _of_program(network) if isinstance(network, Program) else _of_modules(network)


def _of_modules(network: nn.Module) -> Outline:
    first = {module: name for name, module in network.named_modules()}
    every = dict(network.named_modules(remove_duplicate=False))
    parts = {name: first[module] for name, module in every.items() if name and first[module]}
    rows = {name for name, module in every.items() if isinstance(module, nn.Sequential | nn.ModuleList)}
    return _outline(parts, rows, {name: _full_name(type(module)) for name, module in every.items()})


def _of_program(program: Program) -> Outline:
    steps = {name: step for name, step in program.steps.named_children() if isinstance(step, Step)}
    takers: dict[str, list[Step]] = {}
    for step in steps.values():
        for value in step.taken:
            takers.setdefault(value, []).append(step)
    parts: dict[str, str] = {}
    kinds: dict[str, str] = {}
    for name, step in steps.items():
        outside = [taker.within for value in step.made for taker in takers.get(value, [])]
        for part, kind in step.within.items():
            kinds[part] = kind
            if part and any(part not in within for within in outside):  # what leaves a part last is what it gives
                parts[part] = f"steps.{name}"
    if len(kinds) > MOST_PARTS:
        parts, kinds = {}, {}
    known = {_full_name(one) for one in _subclasses(nn.Sequential)}
    above = {part[:end] for part in parts for end, letter in enumerate(part) if letter == "."}
    rows = {name for name in above if name not in kinds or kinds[name] in known}  # a list is never called
    return _outline(parts, rows, kinds)


def _outline(parts: Mapping[str, str], rows: Collection[str], kinds: Mapping[str, str]) -> Outline:
    core = _core(tuple(parts), rows)
    trunk = [part for part in parts if part.startswith(core) and all(one in rows for one in _between(core, part))]
    in_rows = frozenset(part for part in trunk if "." in part.removeprefix(core))
    return Outline(parts, core, tuple(trunk), in_rows, kinds.get(core.removesuffix("."), ""))


def _between(core: str, part: str) -> list[str]:
    """Names of what a part of the core is in, short of the core itself."""
    return [part[:end] for end, letter in enumerate(part) if letter == "." and end >= len(core)]


def _core(parts: Sequence[str], rows: Collection[str]) -> str:
    """Go into what holds nearly all modules, unless it is a sequence."""
    core = ""
    while True:
        inside = [part for part in parts if part.startswith(core)]
        counts: dict[str, int] = {}
        for part in inside:
            child = core + part.removeprefix(core).partition(".")[0]
            counts[child] = counts.get(child, 0) + 1
        largest = max(counts, key=lambda child: counts[child], default="")
        if not largest or largest in rows or counts[largest] < max(SEVERAL, MOST * len(inside)):
            return core
        core = f"{largest}."


def _subclasses(kind: type[nn.Module]) -> Iterator[type[nn.Module]]:
    yield kind
    for one in kind.__subclasses__():
        yield from _subclasses(one)


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
