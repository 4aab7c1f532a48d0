"""The operations that a program of `torch.export` may use, and the check of their arguments.

An operation is called only if its name is on the allow list and every argument is of the type that PyTorch's own schema
states. PyTorch trusts some arguments: an enumeration may be passed as any integer, and a few operations take sizes that they do
not compare with their tensors. So enumerations come from lists, integers have bounds, and those operations have rules.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from petechia.models.openers.rules import MOST_INT, RULES

NUMBERS = {  # type numbers of the file format
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
STRIDED = 7  # number of the only layout
MOST_OF_WINDOW = (
    4096  # largest stride, padding, dilation or side of a window: beyond it, kernels leave their tensors or never end
)
OF_WINDOWS = ("stride", "padding", "dilation", "kernel_size", "output_padding", "pad", "groups", "block_size", "sections")
TO_THE_END = 2**63 - 1  # how `slice` states its end
MOST_LISTED = 4096  # numbers or tensors in a list
OF_NUMBERS: dict[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge")
}
# The ATen operations that image networks use. None of them reads a file or memory outside a tensor.
OPERATIONS = frozenset(
    """
    _assert_tensor_metadata _upsample_bicubic2d_aa _upsample_bilinear2d_aa _softmax _log_softmax
    _native_batch_norm_legit_no_training abs adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d add addcmul addmm
    alias all amax amin any arange argmax argmin argsort avg_pool2d baddbmm batch_norm bilinear bitwise_and bitwise_not
    bitwise_or bmm broadcast_tensors cat celu chunk clamp clamp_max clamp_min clone concat concatenate constant_pad_nd
    contiguous conv1d conv2d conv3d conv_transpose2d convolution copy cos cumsum detach diff div dropout einsum elu eq erf
    exp expand expand_as expm1 eye feature_dropout fill flatten flip floor floor_divide fmod frobenius_norm full full_like
    gather ge gelu glu grid_sampler grid_sampler_2d group_norm gt hardsigmoid hardswish hardtanh im2col index index_select
    instance_norm layer_norm le leaky_relu lift_fresh_copy linear linalg_norm linalg_vector_norm linspace log log1p log2
    log_sigmoid log_softmax logical_and logical_not logical_or logsumexp lt mH mT masked_fill matmul max max_pool2d
    max_pool2d_with_indices maximum mean meshgrid min minimum mish mm movedim moveaxis mul mv narrow native_batch_norm
    native_dropout native_group_norm native_layer_norm ne neg new_full new_ones new_zeros norm ones ones_like pad permute
    pixel_shuffle pixel_unshuffle pow prelu prod reciprocal reflection_pad2d relu relu6 remainder repeat repeat_interleave
    replication_pad2d reshape reshape_as rms_norm roll rot90 round rsqrt rsub scalar_tensor scaled_dot_product_attention
    scatter select selu sigmoid sign silu sin slice softmax softplus sort split split_with_sizes sqrt square squeeze stack
    std swapaxes swapdims std_mean sub sum sym_numel sym_size t tan tanh tensor_split threshold tile to topk transpose tril
    triu type_as unbind unflatten unfold unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_nearest2d var var_mean
    view view_as where zeros zeros_like _to_copy _unsafe_view
    """.split()  # noqa: SIM905 (a list of one a line would take pages)
)
WORDS = {  # what an argument of the given name may say
    "rounding_mode": ("trunc", "floor"),
    "approximate": ("none", "tanh"),
    "mode": ("constant", "reflect", "replicate", "circular"),
    "padding": ("same", "valid"),
    "indexing": ("ij", "xy"),
    "reduce": ("add", "multiply"),
    "ord": ("fro", "nuc"),
}
CHOICES = {"interpolation_mode": (0, 1, 2), "padding_mode": (0, 1, 2)}  # enumerations that the schema calls int
ONLY = {  # arguments of which one value alone is allowed
    "pin_memory": (None, False),
    "generator": (None,),
    "path": (None,),
    "dropout_p": (0, 0.0),  # the answers would be random
    "cudnn_enabled": (True, False),
    "scales_d": (None,),
}
ENUMERATIONS = ("dtype", "layout", "memory_format", "device")  # PyTorch does not compare an integer with their values
EQUATION = re.compile(r"[A-Za-z ,.>-]{1,200}")


class Name(NamedTuple):
    """Placeholder for a value of the program."""

    name: str


class Here(NamedTuple):
    """Placeholder for the device, whichever one the program names."""


class Call(NamedTuple):
    """An operation with its arguments, which the schema allows.

    Attributes:
        operation: function to call.
        given: positional arguments.
        named: keyword arguments.
        trains: whether the operation has training enabled.
        writes: names of the values that the operation changes in place.
        views: names of the values whose memory the result may share.
        kinds: types of the arguments, by name, as the schema writes them; empty for an operation on numbers.
        rule: takes the actual arguments, by name, and raises ValueError where the operation could leave its tensors.
    """

    operation: Callable[..., Any]
    given: list[Any]
    named: dict[str, Any]
    trains: bool = False
    writes: frozenset[str] = frozenset()
    views: frozenset[str] = frozenset()
    kinds: Mapping[str, str] = {}
    rule: Callable[[Mapping[str, Any]], None] | None = None

    def check(self, given: Sequence[Any], named: Mapping[str, Any]) -> None:
        """Check the actual arguments, in which computed values have taken the places of their names.

        Raises:
            ValueError: a value is not of the type that the schema states, or is too large, or breaks the rule of the operation.
        """
        if not self.kinds:
            if not all(type(one) in (int, float, bool) for one in given):
                raise ValueError("an operation on numbers was given something else")
            return
        actual = dict(zip(self.kinds, given, strict=False)) | dict(named)
        for name, value in actual.items():
            if not _is_actual(self.kinds[name], name, value):
                raise ValueError(f"{self.operation} was given a value for {name} that is not allowed")
        if self.rule is not None:
            self.rule(actual)


def call_of(target: str, inputs: Sequence[Mapping[str, Any]]) -> Call:
    """Return the call that a node of a program describes.

    Args:
        target: name of the operation, as in "torch.ops.aten.relu.default".
        inputs: its arguments, as the file describes them.

    Raises:
        NotImplementedError: the operation is not on the allow list, or an argument is not what its schema allows.
    """
    if target in OF_NUMBERS:
        return Call(OF_NUMBERS[target], [_number(one["arg"], target) for one in inputs], {})
    operation = _operation(target)
    schema = operation._schema
    wanted = {one.name: one for one in schema.arguments}
    given: list[Any] = []
    named: dict[str, Any] = {}
    for one in inputs:
        name, value = str(one["name"]), argument(one["arg"])
        if name not in wanted or name in named or name in {known.name for known in schema.arguments[: len(given)]}:
            raise NotImplementedError(f"gives {target[:80]} an argument {name[:40]!r}, which it does not have")
        if not _fits(name, str(wanted[name].real_type), value):
            raise NotImplementedError(f"gives {target[:80]} a value for {name[:40]!r} that is not allowed in untrusted files")
        in_turn = len(given) < len(schema.arguments) and schema.arguments[len(given)].name == name
        if in_turn and not named and not wanted[name].kwarg_only:
            given.append(value)
        else:
            named[name] = value
    of_tensors = any("Tensor" in str(one.real_type) for one in schema.arguments)
    if "device" in wanted and not of_tensors and len(given) <= [*wanted].index("device"):
        named["device"] = Here()  # the device of the images, also where the program leaves it out
    return _described(operation, given, named)


def _described(operation: Any, given: list[Any], named: dict[str, Any]) -> Call:
    arguments = operation._schema.arguments
    by_name = dict(zip((one.name for one in arguments), given, strict=False)) | named
    writes = {one.name for one in arguments if one.alias_info is not None and one.alias_info.is_write}
    shares = {one.name for one in arguments if one.alias_info is not None}
    short = operation._schema.name.removeprefix("aten::").removesuffix("_")
    return Call(
        operation,
        given,
        named,
        trains=any(by_name.get(name) is True for name in ("train", "training")),
        writes=frozenset(_names(by_name[name] for name in writes & by_name.keys())),
        views=frozenset(_names(by_name[name] for name in shares & by_name.keys())),
        kinds={one.name: str(one.real_type) for one in arguments},
        rule=RULES.get(short),
    )


def _operation(target: str) -> Any:
    name, _, overload = target.removeprefix("torch.ops.aten.").partition(".")
    if not target.startswith("torch.ops.aten.") or name.removesuffix("_") not in OPERATIONS:
        raise NotImplementedError(f"uses {target[:80]}, which is not an operation that is allowed in untrusted files")
    packet = getattr(torch.ops.aten, name, None)
    if packet is None or overload not in packet.overloads():
        raise NotImplementedError(f"uses {target[:80]}, which this version of PyTorch does not know")
    operation = getattr(packet, overload)
    if not _is_plain(operation._schema):
        raise NotImplementedError(f"uses {target[:80]}, which is not a form that is allowed in untrusted files")
    return operation


def allowed_forms() -> list[str]:
    """Return the names of all forms of all operations that programs may use, as in "torch.ops.aten.add.Tensor"."""
    names = sorted(OPERATIONS | {f"{name}_" for name in OPERATIONS})
    packets = [(name, getattr(torch.ops.aten, name, None)) for name in names]
    return [
        f"torch.ops.aten.{name}.{overload}"
        for name, packet in packets
        if packet is not None
        for overload in packet.overloads()
        if _is_plain(getattr(packet, overload)._schema)
    ]


def _is_plain(schema: Any) -> bool:
    """Whether a form of an operation returns tensors, and sizes that do not depend on the pixels."""
    if any(one.is_out for one in schema.arguments) or (schema.name, schema.overload_name) in NOT_PLAIN:
        return False
    if any(one.name in ENUMERATIONS and "int" in str(one.real_type) for one in schema.arguments):  # of TorchScript
        return False
    if schema.name.startswith(("aten::sym_", "aten::_assert")):
        return True
    return bool(schema.returns) and all(str(one.real_type) in ("Tensor", "List[Tensor]") for one in schema.returns)


NOT_PLAIN = {  # their sizes depend on the pixels
    ("aten::repeat_interleave", "Tensor"),
    ("aten::repeat_interleave", "self_Tensor"),
    ("aten::tensor_split", "tensor_indices_or_sections"),
}


PLAIN: dict[str, Callable[[Any], Any]] = {
    "as_int": operator.index,
    "as_float": lambda given: float(given) if type(given) in (int, float, str) else _refuse("as_float"),
    "as_bool": lambda given: given if type(given) is bool else _refuse("as_bool"),
    "as_string": lambda given: given if type(given) is str else _refuse("as_string"),
    "as_none": lambda _: None,
    "as_scalar_type": lambda given: NUMBERS[given],
    "as_memory_format": lambda given: FORMATS[given],
    "as_ints": lambda given: [operator.index(one) for one in given],
    "as_floats": lambda given: [float(one) for one in given],
    "as_bools": lambda given: [one if type(one) is bool else _refuse("as_bools") for one in given],
}
NAMED = ("as_tensor", "as_sym_int", "as_sym_float", "as_sym_bool", "as_optional_tensor")
LISTED = ("as_tensors", "as_sym_ints", "as_sym_floats", "as_sym_bools", "as_optional_tensors")


def _refuse(kind: str) -> Any:
    raise NotImplementedError(f"passes {kind[:40]} to an operation, which is neither a number nor a tensor")


def argument(said: Mapping[str, Any]) -> Any:
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
    if kind == "as_layout" and value == STRIDED:
        return torch.strided
    return _refuse(str(kind))


def _named(said: Mapping[str, Any]) -> Any:
    if "name" in said:
        return Name(str(said["name"]))
    ((kind, value),) = said.items()
    return Name(str(value)) if kind == "as_name" else argument(said)


def _number(said: Mapping[str, Any], target: str) -> Any:
    value = argument(said)
    if isinstance(value, (Name, int, float)):
        return value
    raise NotImplementedError(f"gives {target[:80]} a value that is not a number")


def leaves(given: Any) -> Iterator[Any]:
    """Yield the values in nested lists."""
    if type(given) is list:
        for one in given:
            yield from leaves(one)
    else:
        yield given


def _names(given: Iterable[Any]) -> set[str]:
    return {one.name for one in leaves(list(given)) if isinstance(one, Name)}


def _fits(name: str, kind: str, value: Any) -> bool:
    """Return whether an argument of this name and type, as the schema writes it, may have this value."""
    if name in ONLY:
        return any(value is one or (type(value) is type(one) and value == one) for one in ONLY[name])
    if kind.startswith("Optional["):
        return value is None or _fits(name, kind[len("Optional[") : -1], value)
    if kind.startswith("List["):
        inner = kind[len("List[") : -1]
        if type(value) is list:
            return len(value) <= MOST_LISTED and all(_fits(name, inner, one) for one in value)
        return inner in ("int", "float", "bool") and _fits(name, inner, value)  # one number for all dimensions
    return kind in FITS and FITS[kind](name, value)


def _is_actual(kind: str, name: str, value: Any) -> bool:
    """Return whether an actual argument is of the type of the schema. What the file states itself was checked before."""
    if type(value) is list:
        return all(_is_actual(kind, name, one) for one in value)
    if value is None:
        return "Optional" in kind
    if isinstance(value, torch.Tensor):
        return "Tensor" in kind
    return type(value) is not int or _is_bounded(name, value)


def _is_bounded(name: str, value: int) -> bool:
    return abs(value) <= (MOST_OF_WINDOW if name in OF_WINDOWS else MOST_INT) or (name == "end" and value == TO_THE_END)


def _is_int(name: str, value: Any) -> bool:
    if name in CHOICES:
        return value in CHOICES[name] and type(value) is int
    if isinstance(value, Name):
        return True
    return type(value) is int and _is_bounded(name, value)


def _is_number(name: str, value: Any) -> bool:
    return isinstance(value, (Name, float, bool)) or _is_int(name, value)


def _is_word(name: str, value: Any) -> bool:
    if type(value) is not str:
        return False
    return bool(EQUATION.fullmatch(value)) if name == "equation" else value in WORDS.get(name, ())


FITS: dict[str, Callable[[str, Any], bool]] = {
    "Tensor": _is_number,  # PyTorch makes a tensor of a number
    "int": _is_int,
    "float": _is_number,
    "number": _is_number,
    "bool": lambda _, value: isinstance(value, (Name, bool)),
    "str": _is_word,
    "ScalarType": lambda _, value: isinstance(value, torch.dtype),
    "MemoryFormat": lambda _, value: isinstance(value, torch.memory_format),
    "Layout": lambda _, value: value is torch.strided,
    "Device": lambda _, value: isinstance(value, Here),
}
