"""Programs of `torch.export` (.pt2), run operation by operation, so that no code from an untrusted file is executed.

`torch.export.load` is not safe for this: it unpickles sample inputs and, if the archive asks for it, weights and constants;
it passes strings of the file to sympy, which evaluates them; it looks operations up as attributes anywhere in torch; and it
writes and runs Python code with names from the file. So it is not called. A program is a list of ATen operations whose
arguments are numbers and tensors. Each operation is looked up in an allow list of those that classifiers use, and called.
"""

from __future__ import annotations

import io
import json
import math
import operator
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from petechia.core.errors import PetechiaError, first_line
from petechia.core.runtime import Runtime
from petechia.models.classifier import Classifier
from petechia.models.openers.adapter import InputSpec, classifier_of
from petechia.models.openers.card import Card

SLACK = 64 << 20  # bytes that weights may take beyond four times the file size, because tensors can share memory
DEEPEST = 64  # modules inside each other that are told apart
MAJOR = 8  # supported major version of the program schema
MODEL, WEIGHTS, CONSTANTS = "models/model.json", "data/weights/", "data/constants/"
DAMAGED = (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, OSError, zipfile.BadZipFile)
NUMBERS = {  # type numbers of the schema
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format}
PLAIN: dict[str, Callable[[Any], Any]] = {"as_int": int, "as_float": float, "as_bool": bool, "as_string": str}
PLAIN |= {"as_none": lambda _: None, "as_scalar_type": NUMBERS.__getitem__, "as_memory_format": FORMATS.__getitem__}
PLAIN |= {"as_ints": list, "as_floats": lambda given: [float(one) for one in given], "as_bools": list}
NAMED = ("as_tensor", "as_sym_int", "as_sym_float", "as_sym_bool", "as_optional_tensor")
LISTED = ("as_tensors", "as_sym_ints", "as_sym_floats", "as_sym_bools", "as_optional_tensors")
OF_NUMBERS: dict[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge", "getitem")
}
# The ATen operations that image networks use. None of them reads a file or memory outside a tensor.
OPERATIONS = frozenset(
    """
    _assert_tensor_metadata _upsample_bicubic2d_aa _upsample_bilinear2d_aa _softmax _log_softmax
    _native_batch_norm_legit_no_training abs adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_max_pool2d add addcmul addmm alias all amax amin any arange argmax argmin argsort avg_pool2d
    baddbmm batch_norm bilinear bitwise_and bitwise_not bitwise_or bmm broadcast_tensors cat celu chunk clamp clamp_max
    clamp_min clone concat concatenate constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose2d convolution copy cos
    cumsum detach diff div dropout einsum elu eq erf exp expand expand_as expm1 eye feature_dropout fill
    flatten flip floor floor_divide frobenius_norm full full_like gather ge gelu glu grid_sampler grid_sampler_2d group_norm gt
    hardsigmoid hardswish hardtanh im2col index index_select instance_norm layer_norm le leaky_relu lift_fresh_copy linear
    linalg_norm linalg_vector_norm linspace log log1p log2 log_sigmoid log_softmax logical_and logical_not logical_or
    logsumexp lt masked_fill matmul max max_pool2d max_pool2d_with_indices maximum mean meshgrid min minimum mish mm movedim
    moveaxis mul mv narrow native_batch_norm native_dropout native_group_norm native_layer_norm ne neg new_full
    new_ones new_zeros norm ones ones_like pad permute pixel_shuffle pixel_unshuffle pow prelu prod reciprocal
    reflection_pad2d relu relu6 remainder repeat repeat_interleave replication_pad2d reshape reshape_as rms_norm roll round
    rsqrt rsub scalar_tensor scaled_dot_product_attention scatter select selu sigmoid sign silu sin slice softmax softplus sort
    split split_with_sizes sqrt square squeeze stack std std_mean sub sum sym_numel sym_size t tan tanh tensor_split threshold
    tile to topk transpose tril triu type_as unbind unflatten unfold unsqueeze upsample_bicubic2d upsample_bilinear2d
    upsample_nearest2d var var_mean view view_as where zeros zeros_like _to_copy _unsafe_view
    """.split()  # noqa: SIM905 (a list of one a line would take pages)
)


class Name(NamedTuple):
    """Placeholder for a value of the program."""

    name: str


class Here(NamedTuple):
    """Placeholder for the device, whichever one the program names."""


class Step(nn.Module):
    """One operation. It is a module, so that its result can be hooked like that of a layer.

    Attributes:
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
        self.operation, of_aten = _operation(str(node["target"]))
        self.given: list[Any] = []
        self.named: dict[str, Any] = {}
        self.trains = False
        for one in node["inputs"]:
            self.trains = self.trains or (one["name"] in ("train", "training") and one["arg"].get("as_bool") is True)
            if one.get("kind") == 1 or not of_aten:
                self.given.append(_argument(one["arg"]))
            else:
                self.named[str(one["name"])] = _argument(one["arg"])
        outputs = [_argument(one) for one in node["outputs"]]
        alone = outputs[0] if len(outputs) == 1 else outputs
        self.results = alone.name if isinstance(alone, Name) else [one.name for one in alone or [] if one]
        self.last: set[str] = set()
        self.within = _within(node.get("metadata"))

    @property
    def names(self) -> set[str]:
        """Names of the values that the operation takes and returns."""
        taken = (one.name for one in _leaves([self.given, *self.named.values()]) if isinstance(one, Name))
        return {*taken, *([self.results] if isinstance(self.results, str) else self.results)}

    def forward(self, *given: Any, **named: Any) -> Any:
        """Call the operation."""
        return self.operation(*given, **named)


class Program(nn.Module):
    """Runs a program in the precision in which it was exported: images, float32 [B, C, H, W] → scores.

    Attributes:
        path: path of the program file.
        shape: shape of the images, [B, C, H, W]; None for any size.
        steps: the operations.
    """

    def __init__(self, archive: Archive) -> None:
        super().__init__()
        self.path = archive.path
        module = archive.program["graph_module"]
        self._kept: dict[str, str] = {}  # name of a value → name of the buffer that holds it
        taken = []
        for spec in module["signature"]["input_specs"]:
            ((kind, said),) = spec.items()
            if kind in ("parameter", "buffer", "tensor_constant"):
                self._kept[said["arg"]["name"]] = name = f"tensor_{len(self._kept)}"
                self.register_buffer(name, archive.tensor(str(said[f"{kind}_name"])), persistent=False)
            else:
                taken.append(said.get("arg", {}).get("as_tensor"))
        if len(taken) != 1 or taken[0] is None:
            raise PetechiaError(f"{self.path} takes {len(taken)} inputs; an image classifier takes one batch of images.")
        graph = module["graph"]
        self._images, self._scores = str(taken[0]["name"]), str(graph["outputs"][0]["as_tensor"]["name"])
        self.shape = [side.get("as_int") for side in graph["tensor_values"][self._images]["sizes"]]
        if len(self.shape) != 4:
            raise PetechiaError(f"{self.path} takes {len(self.shape)} dimensions; an image classifier takes [B, C, H, W].")
        self.steps = nn.ModuleList(self._step(node) for node in graph["nodes"])
        changes = any("user_output" not in spec for spec in module["signature"]["output_specs"])
        if changes or any(step.trains for step in self._each()):
            raise PetechiaError(f"{self.path} was exported in training mode; call eval() on the network, and export it again.")
        needed = {self._scores}
        for step in reversed(list(self._each())):
            step.last = step.names - needed
            needed |= step.names

    def _step(self, node: Mapping[str, Any]) -> Step:
        try:
            return Step(node)
        except NotImplementedError as error:
            raise PetechiaError(f"{self.path} {error}; export the model to ONNX.") from None

    def _each(self) -> Iterator[Step]:
        yield from self.steps  # type: ignore[misc]

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores.

        Raises:
            PetechiaError: an operation fails.
        """
        values: dict[str, Any] = {name: self.get_buffer(kept) for name, kept in self._kept.items()}
        values[self._images] = images.contiguous()
        try:
            with torch.autocast(images.device.type, enabled=False):
                for step in self._each():
                    self._run(step, values, images.device)
            scores: Tensor = values[self._scores]
        except DAMAGED as error:
            raise PetechiaError(f"{self.path} cannot be run on images ({first_line(error)}); export it again.") from None
        return scores

    def _run(self, step: Step, values: dict[str, Any], device: torch.device) -> None:
        given = [_filled(one, values, device) for one in step.given]
        found = step(*given, **{name: _filled(one, values, device) for name, one in step.named.items()})
        if isinstance(step.results, str):
            values[step.results] = found
        elif step.results:
            values |= zip(step.results, found, strict=True)
        for name in step.last:
            values.pop(name, None)


def _within(metadata: Any) -> dict[str, str]:
    """Parse PyTorch's "key,name,class;…" of the modules around an operation; empty if the file says nothing of the kind."""
    said = metadata.get("nn_module_stack") if isinstance(metadata, Mapping) else None
    entries = [one.split(",") for one in said.split(";", DEEPEST)[:DEEPEST]] if isinstance(said, str) else []
    return {entry[1]: entry[2] for entry in entries if len(entry) == 3 and entry[1] != entry[2]}


def _operation(target: str) -> tuple[Callable[..., Any], bool]:
    """Return the function that a program calls, and whether it is an ATen operation.

    Raises:
        NotImplementedError: the operation is not on the allow list.
    """
    if target in OF_NUMBERS:
        return OF_NUMBERS[target], False
    name, _, overload = target.removeprefix("torch.ops.aten.").partition(".")
    if not target.startswith("torch.ops.aten.") or name.removesuffix("_") not in OPERATIONS:
        raise NotImplementedError(f"uses {target[:80]}, which is not an operation that is allowed in untrusted files")
    packet = getattr(torch.ops.aten, name)
    if overload not in packet.overloads():
        raise NotImplementedError(f"uses {target[:80]}, which this version of PyTorch does not know")
    return getattr(packet, overload), True


def _argument(said: Mapping[str, Any]) -> Any:
    """Return an argument as a value, with a `Name` for every computed value.

    Raises:
        NotImplementedError: the argument contains neither numbers nor tensors.
    """
    ((kind, value),) = said.items()
    if kind in PLAIN:
        return PLAIN[kind](value)
    if kind in NAMED:
        return _named(value)
    if kind in LISTED:
        return [_named(one) for one in value]
    if kind == "as_device":
        return Here()
    if kind == "as_layout" and value == 7:
        return torch.strided
    raise NotImplementedError(f"passes {str(kind)[:40]} to an operation, which is neither a number nor a tensor")


def _named(said: Mapping[str, Any]) -> Any:
    if "name" in said:
        return Name(str(said["name"]))
    ((kind, value),) = said.items()
    return Name(str(value)) if kind == "as_name" else _argument(said)


def _leaves(given: Any) -> Iterator[Any]:
    if type(given) is list:
        for one in given:
            yield from _leaves(one)
    else:
        yield given


def _filled(given: Any, values: Mapping[str, Any], device: torch.device) -> Any:
    """Return an argument with names replaced by values."""
    if type(given) is list:
        return [_filled(one, values, device) for one in given]
    if isinstance(given, Name):
        return values[given.name]
    return device if isinstance(given, Here) else given


class Archive:
    """The file of a program: its JSON, and its tensors as raw bytes.

    Attributes:
        path: path of the file.
        program: content of its JSON.

    Raises:
        PetechiaError: the file is compressed, contains compiled code or pickled tensors, or has another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = zipfile.ZipFile(path)
        entries = self._zip.infolist()
        self._root = entries[0].filename.partition("/")[0] + "/"
        self._entries = {one.filename.removeprefix(self._root): one for one in entries}
        if any(one.compress_type != zipfile.ZIP_STORED for one in entries):
            raise PetechiaError(f"{path} is compressed, but torch.export.save does not compress; export the model again.")
        if "archive_format" not in self._entries or MODEL not in self._entries:
            raise PetechiaError(
                f"{path} is not a program that torch.export.save of PyTorch 2.8 or newer wrote; export the model again."
            )
        self.program = self._json(MODEL)
        if self.program["schema_version"]["major"] != MAJOR:
            raise PetechiaError(
                f"{path} was written by another version of torch.export; export the model with PyTorch {torch.__version__}."
            )
        self._left = SLACK + 4 * path.stat().st_size
        self._about: dict[str, Any] = {}
        for folder in (CONSTANTS, WEIGHTS):
            self._about |= {name: (folder, about) for name, about in self._config(folder).items()}

    def tensor(self, name: str) -> Tensor:
        """Return a weight or a constant.

        Raises:
            PetechiaError: the tensor is pickled.
        """
        folder, about = self._about[name]
        if isinstance(about, Tensor):
            return about
        file, meta = f"{folder}{about['path_name']}", about["tensor_meta"]
        if about["use_pickle"] or meta is None or not str(about["path_name"]).startswith(("weight_", "tensor_")):
            raise PetechiaError(
                f"{self.path} holds {name[:80]!r} as a pickle, which can run arbitrary code when loaded; "
                f"export the model to ONNX."
            )
        content = bytearray(self._zip.read(self._entries[file]))
        flat = (
            torch.frombuffer(content, dtype=NUMBERS[meta["dtype"]]) if content else torch.empty(0, dtype=NUMBERS[meta["dtype"]])
        )
        size, stride = ([side["as_int"] for side in meta[sides]] for sides in ("sizes", "strides"))
        self._left -= math.prod(size) * flat.itemsize
        if self._left < 0:
            raise PetechiaError(f"{self.path} describes far more weights than it holds; export the model again.")
        return flat.as_strided(size, stride, meta["storage_offset"]["as_int"]).clone()

    def _config(self, folder: str) -> dict[str, Any]:
        """Name of a tensor → its description, or the tensor itself in files of PyTorch 2.8."""
        whole = f"{folder}model.pt"
        if whole in self._entries:
            found = torch.load(io.BytesIO(self._zip.read(self._entries[whole])), "cpu", weights_only=True)
            return {str(name): tensor.detach() for name, tensor in found.items()}
        part = "weights" if folder == WEIGHTS else "constants"
        return dict(self._json(f"{folder}model_{part}_config.json")["config"])

    def _json(self, name: str) -> dict[str, Any]:
        return dict(json.loads(self._zip.read(self._entries[name])))


def of_program(path: Path, runtime: Runtime) -> Classifier:
    """Open a program written by `torch.export.save`, with the JSON file beside it if there is one; see `Card`.

    The classifier is not a black box: each operation counts as a layer.

    Raises:
        PetechiaError: the file is not an image classifier, would have to be unpickled, or uses an operation that is not on
            the allow list, or the JSON does not match it.
    """
    card = Card.beside(path)
    try:
        program = Program(Archive(path))
    except (*DAMAGED, pickle.UnpicklingError) as error:
        raise PetechiaError(f"{path} is not a valid torch.export program ({first_line(error)}); export it again.") from None
    return classifier_of(path, program, InputSpec.of(path, card, *program.shape), card, runtime)
