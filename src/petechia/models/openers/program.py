"""Runs programs of `torch.export` (.pt2) operation by operation, so that no code from an untrusted file is executed.

`torch.export.load` is not safe for this: it unpickles sample inputs and, if the archive asks for it, weights and constants;
it passes strings of the file to sympy, which evaluates them; it looks operations up as attributes anywhere in torch; and it
writes and runs Python code with names from the file. So it is not called. A program is a list of ATen operations whose
arguments are numbers and tensors. Each operation is looked up in an allow list of those that classifiers use, its arguments are
checked against its schema (`operations`), and it is called. Before a program sees images of a new shape, it runs once without
data, which shows the size of every value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petechia.core.budget import check, limit
from petechia.core.errors import PetechiaError, first_line
from petechia.models.openers.archive import Archive
from petechia.models.openers.operations import Here, Name, argument, call_of, leaves
from petechia.models.openers.outputs import Graph, Kind, Output
from petechia.models.openers.rules import MOST_INT

DEEPEST, LONGEST = 20, 200  # modules inside each other that are told apart; letters of their names
LINEAR = frozenset(
    "linear addmm mm matmul bmm baddbmm einsum bilinear conv1d conv2d conv3d convolution conv_transpose2d mv".split()  # noqa: SIM905
)
ACTIVATIONS = frozenset(
    """
    sigmoid softmax _softmax log_softmax _log_softmax log_sigmoid tanh view reshape squeeze flatten unsqueeze unflatten add sub
    mul div _to_copy to type_as clone contiguous alias detach slice select t transpose permute expand dropout clamp _unsafe_view
    """.split()  # noqa: SIM905
)


class Step(nn.Module):
    """One operation. It is a module, so that its result can be hooked like that of a layer.

    Attributes:
        call: the operation and its arguments.
        operation: function to call.
        given: positional arguments.
        named: keyword arguments.
        trains: whether the operation has training enabled.
        results: names of the results; a single string if the operation returns one value rather than a list.
        last: names of the values that no later operation needs.
        within: parts of the exported network in which the operation ran, outermost first: name → full name of its class. It
            is what the file says, and nothing is looked up by it.
    """

    def __init__(self, node: Mapping[str, Any]) -> None:
        super().__init__()
        self.target = str(node["target"])
        self.call = call_of(self.target, node["inputs"])
        self.operation, self.given, self.named = self.call.operation, self.call.given, self.call.named
        self.trains = self.call.trains
        outputs = [argument(one) for one in node["outputs"]]
        alone = outputs[0] if len(outputs) == 1 else outputs
        self.results = alone.name if isinstance(alone, Name) else [one.name for one in alone or [] if one]
        self.last: set[str] = set()
        self.within = _within(node.get("metadata"))

    @property
    def made(self) -> list[str]:
        """Names of the values that the operation returns."""
        return [self.results] if isinstance(self.results, str) else self.results

    @property
    def taken(self) -> list[str]:
        """Names of the values that the operation takes."""
        return [one.name for one in leaves([self.given, *self.named.values()]) if isinstance(one, Name)]

    @property
    def kind(self) -> Kind:
        """What the operation is to the search for the scores, see `outputs`."""
        name = self.target.removeprefix("torch.ops.aten.").partition(".")[0].removesuffix("_")
        return "linear" if name in LINEAR else "activation" if name in ACTIVATIONS else "other"

    def forward(self, *given: Any, **named: Any) -> Any:
        """Call the operation."""
        return self.operation(*given, **named)


class Program(nn.Module):
    """Runs a program in the precision in which it was exported: images, float32 [B, C, H, W] → scores, float32 [B, K].

    Attributes:
        path: path of the program file.
        shape: shape of the images, [B, C, H, W]; None for any size.
        steps: the operations.
        output_names: names of the outputs: the keys and positions that lead to each.
        chosen: position of the output that contains the scores.
    """

    def __init__(self, archive: Archive) -> None:
        super().__init__()
        self.path, self.chosen = archive.path, 0
        module = archive.program["graph_module"]
        graph = module["graph"]
        self._kept: dict[str, str] = {}  # name of a value → name of the buffer that holds it
        self._images = self._take_inputs(module["signature"]["input_specs"], archive)
        about = graph["tensor_values"][self._images]
        self.shape = [side.get("as_int") for side in about["sizes"]]
        self._number = argument({"as_scalar_type": about["dtype"]})
        if len(self.shape) != 4:
            raise PetechiaError(f"{self.path} takes {len(self.shape)} dimensions; an image classifier takes [B, C, H, W].")
        if not self._number.is_floating_point:
            raise PetechiaError(f"{self.path} takes {self._number} images; export it for floating-point images.")
        check("model_steps", len(graph["nodes"]), f"{self.path} has {len(graph['nodes']):,} operations", "export it again")
        self.steps = nn.ModuleList(self._step(node) for node in graph["nodes"])
        changes = any("user_output" not in spec for spec in module["signature"]["output_specs"])
        if changes or any(step.trains for step in self._each()):
            raise PetechiaError(f"{self.path} was exported in training mode; call eval() on the network, and export it again.")
        self._outputs = [argument(one) for one in graph["outputs"]]
        if not self._outputs:
            raise ValueError("it returns nothing")
        self.output_names = _output_names(module, len(self._outputs))
        self._writes_images = self._refuse_changes()
        self._forget_early()
        self._known: set[tuple[int, ...]] = set()  # shapes that were rehearsed

    def _take_inputs(self, specs: Sequence[Mapping[str, Any]], archive: Archive) -> str:
        taken = []
        for spec in specs:
            ((kind, said),) = spec.items()
            if kind in ("parameter", "buffer", "tensor_constant"):
                self._kept[said["arg"]["name"]] = name = f"tensor_{len(self._kept)}"
                self.register_buffer(name, archive.tensor(str(said[f"{kind}_name"])), persistent=False)
            else:
                taken.append(said.get("arg", {}).get("as_tensor"))
        if len(taken) != 1 or taken[0] is None:
            raise PetechiaError(f"{self.path} takes {len(taken)} inputs; an image classifier takes one batch of images.")
        return str(taken[0]["name"])

    def _step(self, node: Mapping[str, Any]) -> Step:
        try:
            return Step(node)
        except NotImplementedError as error:
            raise PetechiaError(f"{self.path} {error}; export the model to ONNX.") from None

    def _each(self) -> Iterator[Step]:
        yield from self.steps  # type: ignore[misc]

    def _refuse_changes(self) -> bool:
        """Refuse a program that changes its own weights; return whether it changes the images that it is given."""
        roots: dict[str, frozenset[str]] = {name: frozenset({name}) for name in (*self._kept, self._images)}
        writes_images = False
        for step in self._each():
            changed = frozenset[str]().union(*(roots.get(name, frozenset()) for name in step.call.writes))
            if changed & self._kept.keys():
                raise PetechiaError(f"{self.path} changes its own weights as it runs; export the network in eval mode.")
            writes_images |= self._images in changed
            shared = frozenset[str]().union(*(roots.get(name, frozenset()) for name in step.call.views))
            roots |= dict.fromkeys(step.made, shared)
        return writes_images

    def _forget_early(self) -> None:
        needed = {one.name for one in self._outputs if isinstance(one, Name)}
        for step in reversed(list(self._each())):
            names = {*step.taken, *step.made}
            step.last = names - needed
            needed |= names

    @property
    def graph(self) -> Graph:
        """What is computed from what, without the weights."""
        steps = [(step.kind, tuple(name for name in step.taken if name not in self._kept), step.made) for step in self._each()]
        return Graph({name: (kind, taken) for kind, taken, made in steps for name in made})

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores.

        Raises:
            PetechiaError: an operation fails, or a value is too large.
        """
        found: Tensor = self._run(images)[self.chosen]
        return found.reshape(len(found), -1).float()

    def every(self, images: Tensor) -> list[Tensor | None]:
        """Return all outputs; None for what is not a tensor of floating-point numbers.

        Raises:
            PetechiaError: as for `forward`.
        """
        return [one if isinstance(one, Tensor) and one.is_floating_point() else None for one in self._run(images)]

    def backward(self, images: Tensor, total: Tensor) -> Tensor | None:
        """Return the gradient of a sum of outputs with respect to the images; None if it does not depend on them.

        Raises:
            PetechiaError: an operation has no gradient.
        """
        try:
            return torch.autograd.grad(total, images, allow_unused=True)[0]
        except Exception as error:
            raise PetechiaError(f"{self.path} has no gradients ({first_line(error)}); export the model to ONNX.") from None

    def outputs(self, values: Sequence[Tensor | None]) -> list[Output]:
        """Describe what `every` returned."""
        where = [one.name if isinstance(one, Name) else "" for one in self._outputs]
        return [
            Output(name, None if found is None else found.float().numpy(), value)
            for name, found, value in zip(self.output_names, values, where, strict=True)
        ]

    def _run(self, images: Tensor) -> list[Any]:
        try:
            with torch.autocast(images.device.type, enabled=False):
                self._rehearse(tuple(images.shape))
                given = images.contiguous().to(self._number)
                return self._results(given.clone() if self._writes_images else given)
        except PetechiaError:  # of who looks into a step
            raise
        except Exception as error:  # operations on unsuitable arguments raise anything
            raise PetechiaError(f"{self.path} cannot be run on images ({first_line(error)}); export it again.") from None

    def _rehearse(self, shape: tuple[int, ...]) -> None:
        """Run without data for images of a new shape. This checks what depends on shapes, and bounds the size of all values."""
        if shape in self._known:
            return
        with torch.no_grad():
            self._results(torch.empty(shape, dtype=self._number, device="meta"), shape[0])
        self._known.add(shape)

    def _results(self, images: Tensor, rehearsed: int = 0) -> list[Any]:
        """Run the operations; `rehearsed` is the number of images if this run is the one without data."""
        device = images.device
        values: dict[str, Any] = {name: self.get_buffer(kept) for name, kept in self._kept.items()}
        if rehearsed:
            values = {name: one.to("meta") for name, one in values.items()}
        values[self._images] = images
        for step in self._each():
            given = [_filled(one, values, device) for one in step.given]
            named = {name: _filled(one, values, device) for name, one in step.named.items()}
            if rehearsed:
                step.call.check(given, named)
            found = step(*given, **named)
            if rehearsed:
                _refuse_giants(found, rehearsed, step.target)
            if isinstance(step.results, str):
                values[step.results] = found
            elif step.results:
                values |= zip(step.results, found, strict=True)
            for name in step.last:
                values.pop(name, None)
        return [_filled(one, values, device) for one in self._outputs]


def _within(metadata: Any) -> dict[str, str]:
    """Parse PyTorch's "key,name,class;…" of the modules around an operation; empty if the file says nothing of the kind."""
    said = metadata.get("nn_module_stack") if isinstance(metadata, Mapping) else None
    entries = [one.split(",") for one in said.split(";", DEEPEST)[:DEEPEST]] if isinstance(said, str) else []
    return {
        entry[1]: entry[2] for entry in entries if len(entry) == 3 and entry[1] != entry[2] and max(map(len, entry)) < LONGEST
    }


def _refuse_giants(found: Any, images: int, target: str) -> None:
    for one in found if isinstance(found, (list, tuple)) else [found]:
        if isinstance(one, Tensor) and one.numel() * one.element_size() > limit("model_value") * max(1, images):
            raise ValueError(f"{target} makes {one.numel() * one.element_size():,} bytes of {images} images")
        if isinstance(one, int) and abs(one) > MOST_INT:
            raise ValueError(f"{target} makes a number beyond {MOST_INT:,}")


def _filled(given: Any, values: Mapping[str, Any], device: torch.device) -> Any:
    """Return an argument with names replaced by values."""
    if type(given) is list:
        return [_filled(one, values, device) for one in given]
    if isinstance(given, Name):
        return values[given.name]
    return device if isinstance(given, Here) else given


def _output_names(module: Mapping[str, Any], count: int) -> list[str]:
    """Return the keys and positions of the outputs, which the file states as a tree; only positions if it does not fit."""
    try:
        tree = json.loads(module["module_call_graph"][0]["signature"]["out_spec"])[1]
        names = [".".join(path) or "0" for path in _paths(tree, 0)]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        names = []
    return names if len(names) == count and len(set(names)) == count else [str(k) for k in range(count)]


def _paths(tree: Mapping[str, Any], depth: int) -> Iterator[tuple[str, ...]]:
    if depth > 20:
        raise ValueError("a tree of that depth")
    parts = tree["children_spec"]
    if tree["type"] is None:
        yield ()
        return
    keys = _keys(tree.get("context"), len(parts))
    for key, part in zip(keys, parts, strict=True):
        yield from ((key, *rest) for rest in _paths(part, depth + 1))


def _keys(context: Any, count: int) -> list[str]:
    """Return the names of the children of a node: keys of a dict, fields of a class, or positions."""
    try:
        said = json.loads(context) if isinstance(context, str) else context
    except ValueError:
        said = None
    while isinstance(said, list) and len(said) != count and said and isinstance(said[0], list):
        said = said[0]
    if isinstance(said, dict):
        said = next((one for one in said.values() if isinstance(one, list) and len(one) == count), None)
    if isinstance(said, list) and len(said) == count and all(isinstance(one, (str, int)) for one in said):
        return [str(one) for one in said]
    return [str(k) for k in range(count)]


def opened(path: Path) -> Program:
    """Read a program from its file.

    Raises:
        PetechiaError: the file is not an image classifier, would have to be unpickled, or uses an operation that is not on
            the allow list.
    """
    try:
        return Program(Archive(path))
    except PetechiaError:
        raise
    except Exception as error:  # untrusted bytes can raise anything
        raise PetechiaError(f"{path} is not a valid torch.export program ({first_line(error)}); export it again.") from None
