"""What the modules of a network give in one pass, and which of these tensors everything else goes through.

The graph of gradients says this of any network: of one whose forward method nobody has read, and of an exported program.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, saved_tensors_hooks

Place = tuple[int | str, ...]  # of a tensor in nested tuples, lists and dicts
Vertex = tuple[Node, int]  # a tensor: the operation that made it, and which of its results it is


@dataclass(frozen=True)
class Passed:
    """A tensor that a module gave.

    Attributes:
        name: of the module.
        place: where it is in what the module gave; () for that itself.
        shape: of the tensor.
        vertex: of the graph.
        taken: vertices of the tensors that the module got.
    """

    name: str
    place: Place
    shape: tuple[int, ...]
    vertex: Vertex
    taken: frozenset[Vertex]


@dataclass(frozen=True)
class Trace:
    """One pass.

    Attributes:
        passed: tensors that depend on the images and that the scores depend on, in the order in which they were made. Of a
            module that runs several times only the last run.
        depth: vertex → its number in an order from the scores to the images.
        cuts: vertices on every path from the images to the scores.
    """

    passed: tuple[Passed, ...]
    depth: Mapping[Any, int]
    cuts: frozenset[Any]


def trace(model: nn.Module, network: nn.Module, images: Tensor) -> Trace | None:
    """Run a model once; None if its scores have no gradient at the images.

    Args:
        model: gives scores.
        network: the part of it whose modules are recorded.
        images: float32 [B, C, H, W].
    """
    runs: dict[str, list[Passed]] = {}

    def keep(name: str, _module: nn.Module, given: object, output: object) -> None:
        taken = frozenset(_vertex(one) for _, one in tensors(given) if one.grad_fn is not None)
        found = [(place, one) for place, one in tensors(output) if one.grad_fn is not None]
        runs.pop(name, None)  # the last run counts, in its order
        runs[name] = [Passed(name, place, tuple(one.shape), _vertex(one), taken) for place, one in found]

    images = images.detach().clone().requires_grad_()
    with ExitStack() as hooks:
        for name, module in network.named_modules():
            if name and not isinstance(module, torch.jit.ScriptModule):  # which takes no hooks
                hooks.enter_context(module.register_forward_hook(partial(keep, name)))
        # Only the shape of the graph is wanted, so nothing is kept for a backward pass, and memory stays that of inference.
        hooks.enter_context(saved_tensors_hooks(_nothing, _nothing))
        hooks.enter_context(torch.enable_grad())
        scores = model(images)
    order = _between(_vertex(scores), images) if isinstance(scores, Tensor) and scores.grad_fn is not None else []
    if not order:
        return None
    depth = {vertex: number for number, vertex in enumerate(order)}
    passed = tuple(one for run in runs.values() for one in run if one.vertex in depth)
    return Trace(passed, depth, _cuts(order, depth))


def tensors(given: object, place: Place = ()) -> Iterator[tuple[Place, Tensor]]:
    """Yield the tensors in nested tuples, lists and dicts, each with its place."""
    if isinstance(given, Tensor):
        yield place, given
    elif isinstance(given, tuple | list):
        for index, one in enumerate(given):
            yield from tensors(one, (*place, index))
    elif isinstance(given, dict):
        for key, one in given.items():
            yield from tensors(one, (*place, key))


def _nothing(_kept: Any) -> Any:
    return None


def _vertex(tensor: Tensor) -> Vertex:
    assert tensor.grad_fn is not None, "only of tensors in a graph"  # noqa: S101
    return tensor.grad_fn, tensor.output_nr


def _next(vertex: Any) -> list[Any]:
    """What a vertex was made of: a tensor of its operation, an operation of the tensors that it took."""
    return [vertex[0]] if isinstance(vertex, tuple) else [given for given in vertex.next_functions if given[0] is not None]


def _between(scores: Vertex, images: Tensor) -> list[Any]:
    """All vertices on paths from the scores to the images, each before what it was made of."""
    order: list[Any] = []
    seen, stack = {scores}, [(scores, iter(_next(scores)))]
    while stack:  # depth first, without recursion: networks are deep
        vertex, rest = stack[-1]
        new = next((one for one in rest if one not in seen), None)
        if new is None:
            order.append(stack.pop()[0])
        else:
            seen.add(new)
            stack.append((new, iter(_next(new))))
    reaching: set[Any] = set()
    for vertex in order:  # what a vertex was made of comes first here
        if getattr(vertex, "variable", None) is images or any(one in reaching for one in _next(vertex)):
            reaching.add(vertex)
    return [vertex for vertex in reversed(order) if vertex in reaching]


def _cuts(order: list[Any], depth: Mapping[Any, int]) -> frozenset[Any]:
    """Vertices that no path passes by: no step from before them leads behind them."""
    cuts, farthest = set(), 0
    for number, vertex in enumerate(order):
        if farthest <= number:
            cuts.add(vertex)
        farthest = max([farthest, *(depth[one] for one in _next(vertex) if one in depth)])
    return frozenset(cuts)
