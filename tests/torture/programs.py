"""Changes one argument at a time of programs of `torch.export`, and runs them forward and backward in processes that may crash.

    python -m tests.torture.programs PROGRAMS SEED RESULT.json

For every form of every allowed operation, valid calls are searched first. PROGRAMS changed ones are made from them, the same
number for each form. The weights of a program lie between pages of memory that nobody may touch, so that a read or write
outside a tensor is a signal. RESULT.json counts what ran and what was refused, and lists every signal, time-out and change of a
weight, with the call that led to it.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import mmap
import os
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from petechia.models.openers.operations import allowed_forms
from petechia.models.openers.program import Program

PAGE = mmap.PAGESIZE
CHUNK = 500  # programs a process
SECONDS = 20  # for one program
MEMORY = 3 << 30
SEARCHED, AT_ONCE = 400, 50  # calls that are tried to find valid ones
VALID = 4  # of them are kept
Node = dict[str, Any]
"""A tensor of the pool: shape and type; "float" means random numbers, "index" whole numbers that address 4 entries."""
POOL: dict[str, tuple[tuple[int, ...], str]] = {
    "images": ((2, 4, 6, 6), "float32"),
    "images2": ((2, 4, 6, 6), "float32"),
    "volume": ((2, 4, 5, 5, 5), "float32"),
    "tokens": ((2, 4, 6), "float32"),
    "matrix": ((4, 4), "float32"),
    "matrix6": ((6, 6), "float32"),
    "rows": ((3, 6), "float32"),
    "channels": ((4,), "float32"),
    "channels2": ((4,), "float32"),
    "mean": ((4,), "float32"),
    "spread": ((4,), "float32"),
    "six": ((6,), "float32"),
    "one": ((1,), "float32"),
    "scalar": ((), "float32"),
    "empty": ((0, 4), "float32"),
    "kernel": ((4, 4, 3, 3), "float32"),
    "kernel_grouped": ((4, 2, 3, 3), "float32"),
    "kernel1": ((4, 4, 3), "float32"),
    "kernel3": ((4, 4, 3, 3, 3), "float32"),
    "bilinear": ((5, 6, 6), "float32"),
    "batch": ((2, 6, 6), "float32"),
    "heads": ((2, 2, 5, 4), "float32"),
    "heads2": ((2, 2, 5, 4), "float32"),
    "heads3": ((2, 2, 5, 4), "float32"),
    "grid": ((2, 3, 3, 2), "float32"),
    "columns": ((1, 16), "float32"),
    "index": ((2, 4, 6, 6), "index"),
    "index1": ((3,), "index"),
    "index2": ((4, 4), "index"),
    "mask": ((2, 4, 6, 6), "bool"),
    "mask2": ((4, 4), "bool"),
    "whole": ((2, 4, 6, 6), "int64"),
    "bytes": ((2, 4, 6, 6), "uint8"),
    "half": ((2, 4, 6, 6), "float16"),
    "double": ((2, 4, 6, 6), "float64"),
    "brain": ((4, 4), "bfloat16"),
}
INTS = (
    -(2**63),
    -(2**31),
    -65536,
    -7,
    -2,
    -1,
    0,
    1,
    2,
    3,
    5,
    8,
    64,
    4096,
    65536,
    10**6,
    2**31 - 1,
    2**31,
    2**40,
    2**62,
    2**63 - 1,
)
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-320, 1e-12, 1e12, 1e308, float("inf"), float("-inf"), float("nan"))
USUAL_WORDS = "none tanh trunc floor constant reflect replicate circular same valid ij xy fro nuc add multiply".split()  # noqa: SIM905
WORDS = (*USUAL_WORDS, "", "sum", "ij,jk->ik", "...->...", "a" * 300, "\0", "ii->i", "mean", "amax")


def guarded(values: Tensor, at_end: bool) -> Tensor:
    """Copy a tensor into memory that begins or ends at a page that cannot be read or written."""
    size = values.numel() * values.element_size()
    pages = max(1, -(-size // PAGE))
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    library = ctypes.CDLL(None, use_errno=True)
    for page in (0, pages + 1):
        if library.mprotect(ctypes.c_void_p(address + page * PAGE), PAGE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    if not values.numel():
        return values
    start = PAGE + (pages * PAGE - size if at_end else 0)
    found = torch.frombuffer(memory, dtype=values.dtype, count=values.numel(), offset=start).view(values.shape)
    return found.copy_(values)


def pool(rng: np.random.Generator) -> dict[str, Tensor]:
    """The tensors that programs hold. Floating-point ones ask for gradients."""
    made = {}
    for number, (name, (shape, kind)) in enumerate(POOL.items()):
        if kind == "index":
            values = torch.from_numpy(rng.integers(0, 3, shape))
        elif kind in ("bool", "uint8", "int64"):
            values = torch.from_numpy(rng.integers(0, 2, shape)).to(getattr(torch, kind))
        else:
            values = torch.from_numpy(np.asarray(rng.uniform(0.1, 0.9, shape))).to(getattr(torch, kind))
        made[name] = guarded(values, number % 2 == 0)
    return made


class Memory:
    """An archive without a file: one node, and the tensors of the pool."""

    path = Path("m.pt2")

    def __init__(self, node: Node, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors
        names = sorted(names_in(node))
        nodes = [node]
        if node["target"].partition(".default")[0].rpartition(".")[2].endswith("_") or node["target"].split(".")[3].endswith(
            "_"
        ):
            nodes = [cloned(name) for name in names]
            nodes.append(json.loads(json.dumps(node).replace('"as_tensor": {"name": "', '"as_tensor": {"name": "copy_of_')))
        about = {"sizes": [{"as_int": side} for side in (2, 4, 6, 6)], "dtype": 7}
        results: list[Node] = [{"as_tensor": {"name": "result"}}]
        if list_result(node["target"]):
            nodes[-1] = nodes[-1] | {"outputs": [{"as_tensors": []}]}
            results = []
        elif (count := count_results(node["target"])) != 1:
            made = [{"as_tensor": {"name": f"result{k}"}} for k in range(count)]
            nodes[-1] = nodes[-1] | {"outputs": made}
            results = made
        else:
            nodes[-1] = nodes[-1] | {"outputs": results}
        results = results or [{"as_tensor": {"name": "given"}}]
        inputs: list[Node] = [{"user_input": {"arg": {"as_tensor": {"name": "given"}}}}]
        inputs += [{"buffer": {"arg": {"name": name}, "buffer_name": name}} for name in names if name in tensors]
        self.program: Node = {
            "graph_module": {
                "graph": {"nodes": nodes, "tensor_values": {"given": about}, "outputs": results},
                "signature": {"input_specs": inputs, "output_specs": [{"user_output": {}} for _ in results]},
                "module_call_graph": [],
            }
        }

    def tensor(self, name: str) -> Tensor:
        return self._tensors[name]


def cloned(name: str) -> Node:
    taken: list[Node] = [{"name": "self", "arg": {"as_tensor": {"name": name}}, "kind": 1}]
    return {"target": "torch.ops.aten.clone.default", "inputs": taken, "outputs": [{"as_tensor": {"name": f"copy_of_{name}"}}]}


def schema_of(target: str) -> Any:
    _, _, _, name, overload = target.split(".")
    return getattr(getattr(torch.ops.aten, name), overload)._schema


def list_result(target: str) -> bool:
    return [str(one.real_type) for one in schema_of(target).returns] == ["List[Tensor]"]


def count_results(target: str) -> int:
    return len(schema_of(target).returns)


def names_in(given: Any) -> set[str]:
    """Names of the tensors in a node."""
    if isinstance(given, dict):
        own = {str(given["as_tensor"]["name"])} if "as_tensor" in given and isinstance(given["as_tensor"], dict) else set()
        return own.union(*(names_in(one) for key, one in given.items() if key != "outputs"))
    if isinstance(given, list):
        return set().union(*(names_in(one) for one in given)) | {
            str(one["name"]) for one in given if isinstance(one, dict) and set(one) == {"name"}
        }
    return set()


# Valid calls


def tensor_for(name: str, rng: np.random.Generator) -> str:
    """A tensor of the pool that an argument of this name could take."""
    often = {
        "index": ["index", "index1", "index2"],
        "indices": ["index1", "index2"],
        "mask": ["mask", "mask2"],
        "condition": ["mask", "mask2"],
        "weight": ["kernel", "kernel_grouped", "kernel1", "kernel3", "channels", "matrix6", "rows", "six", "bilinear"],
        "bias": ["channels", "six"],
        "running_mean": ["mean"],
        "running_var": ["spread"],
        "grid": ["grid"],
        "query": ["heads"],
        "key": ["heads2"],
        "value": ["heads3", "scalar"],
        "attn_mask": ["mask2"],
        "vec": ["six", "channels"],
        "mat1": ["matrix"],
        "mat2": ["matrix", "matrix6"],
        "batch1": ["batch"],
        "batch2": ["batch"],
        "tensor1": ["images", "channels"],
        "tensor2": ["images2", "channels"],
        "input1": ["batch", "rows"],
        "input2": ["batch", "rows"],
        "src": ["images2"],
    }.get(name, [])
    if often and rng.random() < 0.8:
        return str(rng.choice(often))
    usual = [
        "images",
        "images",
        "images",
        "tokens",
        "matrix",
        "rows",
        "channels",
        "batch",
        "images2",
        "volume",
        "six",
        "mask",
        "whole",
        "heads",
    ]
    return str(rng.choice(usual))


def value_for(name: str, kind: str, rng: np.random.Generator) -> Node:  # noqa: PLR0911
    """An argument of this name and type that could be valid."""
    if kind.startswith("Optional["):
        return {"as_none": True} if rng.random() < 0.5 else value_for(name, kind[9:-1], rng)
    if kind in ("List[Tensor]", "List[Optional[Tensor]]"):
        source = "index1" if name == "indices" else str(rng.choice(["images", "matrix", "channels", "tokens"]))
        return {"as_tensors": [{"name": source} for _ in range(rng.integers(1, 3))]}
    if kind == "List[int]":
        if "size" in name and "kernel" not in name and "output" not in name:
            shape = POOL[str(rng.choice(["images", "matrix", "channels", "tokens"]))][0]
            return {"as_ints": [*shape]}
        return {
            "as_ints": [int(one) for one in rng.integers(0 if "pad" in name or "dim" in name else 1, 4, rng.integers(1, 5))]
        }
    if kind == "List[float]":
        return {"as_floats": [2.0] * int(rng.integers(1, 3))}
    if kind == "List[bool]":
        return {"as_bools": [bool(rng.integers(2))] * int(rng.integers(1, 4))}
    if kind == "Tensor":
        return {"as_tensor": {"name": tensor_for(name, rng)}}
    if kind == "int":
        sized = {"N": 2, "C": 4, "HxW": 36, "group": 2, "num_groups": 2, "groups": int(rng.integers(1, 3))}
        return {"as_int": sized.get(name, int(rng.integers(0, 4)))}
    if kind == "number":
        return {"as_int": int(rng.integers(0, 4))} if rng.random() < 0.5 else {"as_float": float(rng.choice([0.5, 1.0, 2.0]))}
    if kind == "str":
        return {"as_string": str(rng.choice(["ij,jk->ik"] if name == "equation" else USUAL_WORDS))}
    plain: dict[str, Node] = {
        "float": {"as_float": 0.5},
        "bool": {"as_bool": bool(rng.integers(2))},
        "ScalarType": {"as_scalar_type": 7},
    }
    plain |= {"MemoryFormat": {"as_memory_format": int(rng.integers(1, 3))}, "Layout": {"as_layout": 7}}
    return plain.get(kind, {"as_device": {"type": "cpu", "index": None}})


def call_for(target: str, rng: np.random.Generator) -> Node:
    """A call with arguments of the right types."""
    inputs = []
    for one in schema_of(target).arguments:
        left_out = one.has_default_value() and rng.random() < 0.5
        if one.name == "generator" or (left_out and one.kwarg_only):
            continue
        if one.has_default_value() and one.name in ("train", "training"):
            value: Node = {"as_bool": False}
        elif one.name in ("train", "training"):
            value = {"as_bool": False}
        else:
            value = value_for(one.name, str(one.real_type), rng)
        inputs.append({"name": one.name, "arg": value, "kind": 2 if one.kwarg_only else 1})
    return {"target": target, "inputs": inputs, "metadata": {}}


def whole(**inputs: Any) -> list[Node]:
    """Arguments of a valid call that a search does not find; a text is a tensor, a list of texts are tensors."""

    def said(value: Any) -> Node:
        kinds: dict[type, str] = {str: "as_tensor", bool: "as_bool", int: "as_int", float: "as_float", type(None): "as_none"}
        if isinstance(value, list):
            return {"as_ints": value}
        return {kinds[type(value)]: {"name": value} if isinstance(value, str) else True if value is None else value}

    return [{"name": name, "arg": said(value), "kind": 1} for name, value in inputs.items()]


NORM = {"weight": "channels", "bias": "channels2", "running_mean": "mean", "running_var": "spread"}
CONV = {"weight": "kernel", "bias": "channels", "stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1}
KNOWN: dict[str, list[Node]] = {  # valid calls that the search does not find
    "_native_batch_norm_legit_no_training.default": whole(input="images", **NORM, momentum=0.1, eps=1e-5),
    "batch_norm.default": whole(input="images", **NORM, training=False, momentum=0.1, eps=1e-5, cudnn_enabled=True),
    "native_batch_norm.default": whole(input="images", **NORM, training=False, momentum=0.1, eps=1e-5),
    "addmm_.default": whole(self="matrix", mat1="matrix", mat2="matrix", beta=1, alpha=1),
    "baddbmm_.default": whole(self="batch", batch1="batch", batch2="batch", beta=1, alpha=1),
    "bmm.default": whole(self="batch", mat2="batch"),
    "conv1d.default": whole(input="tokens", weight="kernel1", bias="channels", stride=[1], padding=[1], dilation=[1], groups=1),
    "conv2d.default": whole(input="images", **CONV),
    "conv3d.default": whole(
        input="volume", weight="kernel3", bias="channels", stride=[1] * 3, padding=[1] * 3, dilation=[1] * 3, groups=1
    ),
    "convolution.default": whole(input="images", **{**CONV, "transposed": False, "output_padding": [0, 0]}),
    "floor_divide.default": whole(self="images", other="images2"),
    "floor_divide_.Tensor": whole(self="images", other="images2"),
    "im2col.default": whole(self="images", kernel_size=[3, 3], dilation=[1, 1], padding=[1, 1], stride=[1, 1]),
    "layer_norm.default": whole(input="images", normalized_shape=[6], weight="six", bias="six", eps=1e-5, cudnn_enable=True),
    "native_layer_norm.default": whole(input="images", normalized_shape=[6], weight="six", bias="six", eps=1e-5),
    "rms_norm.default": whole(input="images", normalized_shape=[6], weight="six", eps=1e-5),
    "scaled_dot_product_attention.default": whole(query="heads", key="heads2", value="heads3", attn_mask=None, dropout_p=0.0),
}


# Changes


def changed(node: Node, rng: np.random.Generator) -> Node:
    """The same call with one argument changed."""
    made: Node = json.loads(json.dumps(node))
    if not made["inputs"]:
        return made
    one = made["inputs"][rng.integers(len(made["inputs"]))]
    ((kind, value),) = one["arg"].items()
    way = rng.random()
    if way < 0.06:
        made["inputs"].remove(one)
    elif way < 0.2:
        one["arg"] = anything(rng)
    else:
        one["arg"] = other(kind, value, rng)
    return made


def other(kind: str, value: Any, rng: np.random.Generator) -> Node:
    """Another value of the same kind."""
    if kind == "as_tensor":
        return {kind: {"name": str(rng.choice(list(POOL)))}}
    if kind == "as_tensors":
        listed = [one["name"] for one in value] + [str(rng.choice(list(POOL)))]
        return {kind: [{"name": name} for name in rng.permutation(listed)[: rng.integers(0, 4)].tolist()]}
    if kind == "as_ints":
        listed = [*value]
        if listed and rng.random() < 0.8:
            listed[rng.integers(len(listed))] = int(INTS[rng.integers(len(INTS))])
        else:
            listed = listed[:-1] if rng.random() < 0.5 else [*listed, int(INTS[rng.integers(len(INTS))])]
        return {kind: listed}
    if kind == "as_floats":
        return {kind: [float(rng.choice(FLOATS)) for _ in range(rng.integers(0, 4))]}
    if kind == "as_bools":
        return {kind: [True] * int(rng.integers(0, 6))}
    choices: dict[str, Any] = {
        "as_int": int(INTS[rng.integers(len(INTS))]),
        "as_float": float(rng.choice(FLOATS)),
        "as_string": str(rng.choice(WORDS)),
        "as_bool": bool(rng.integers(2)),
        "as_scalar_type": int(rng.integers(-1, 50)),
        "as_memory_format": int(rng.integers(-1, 12)),
        "as_layout": int(rng.integers(-1, 12)),
    }
    return {kind: choices[kind]} if kind in choices else anything(rng)


def anything(rng: np.random.Generator) -> Node:
    """A value of any kind."""
    kinds: list[Node] = [
        {"as_none": True},
        {"as_int": int(INTS[rng.integers(len(INTS))])},
        {"as_int": int(rng.integers(0, 60))},
        {"as_float": float(rng.choice(FLOATS))},
        {"as_bool": bool(rng.integers(2))},
        {"as_string": str(rng.choice(WORDS))},
        {"as_ints": [int(INTS[rng.integers(len(INTS))]) for _ in range(rng.integers(0, 5))]},
        {"as_ints": [int(one) for one in rng.integers(-2, 9, rng.integers(0, 6))]},
        {"as_floats": [float(rng.choice(FLOATS)) for _ in range(rng.integers(0, 4))]},
        {"as_tensor": {"name": str(rng.choice(list(POOL)))}},
        {"as_tensors": [{"name": str(rng.choice(list(POOL)))}]},
        {"as_scalar_type": int(rng.integers(-1, 50))},
        {"as_memory_format": int(rng.integers(-1, 12))},
        {"as_layout": int(rng.integers(0, 12))},
        {"as_device": {"type": "meta", "index": None}},
        {"as_bools": [True, False]},
        {"as_sym_int": {"as_int": int(INTS[rng.integers(len(INTS))])}},
        {"as_complex": [1, 2]},
    ]
    return kinds[rng.integers(len(kinds))]


# Running


def run_one(node: Node, tensors: dict[str, Tensor]) -> str:
    """Run a program forward and backward; return what happened."""
    try:
        program = Program(Memory(node, tensors))  # type: ignore[arg-type]
        images = torch.linspace(0, 1, 2 * 4 * 36).reshape(2, 4, 6, 6).requires_grad_()
        total = sum(
            (one.float().sum() for one in program.every(images) if one is not None and one.requires_grad), torch.zeros(())
        )
        if total.requires_grad:
            wanted = [images, *(one for one in tensors.values() if one.requires_grad)]
            torch.autograd.grad(total, wanted, allow_unused=True)
    except Exception:  # what is not a `PetechiaError` here becomes one in `opened` and in `Program.backward`
        return "refused"
    return "ran"


def in_processes(nodes: list[Node], seed: int, failures: list[dict[str, Any]], keep_failures: bool = True) -> list[str]:
    """Run programs in processes; return what happened to each."""
    results: list[str] = []
    while len(results) < len(nodes):
        results += one_process(nodes[len(results) : len(results) + CHUNK], seed, failures, keep_failures)
    return results


def one_process(nodes: list[Node], seed: int, failures: list[dict[str, Any]], keep_failures: bool) -> list[str]:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        bound = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        tensors = pool(np.random.default_rng(seed))
        copies = {name: one.clone() for name, one in tensors.items()}
        for name, tensor in tensors.items():  # running statistics have no gradient
            tensor.requires_grad_(tensor.is_floating_point() and name not in ("mean", "spread"))
        for node in nodes:
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            said = run_one(node, tensors)
            if any(not torch.equal(tensor.detach(), copies[name]) for name, tensor in tensors.items()):
                said = "a weight was changed"
                for name, copy in copies.items():
                    tensors[name].detach().copy_(copy)
            os.write(writing, said.replace("\n", " ").encode() + b"\n")
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        results = file.read().decode().split("\n")[:-1]
    _, status = os.waitpid(child, 0)
    if status:
        results.append(f"signal {status & 127}")
    for node, one in zip(nodes, results, strict=False):
        if one not in ("ran", "refused") and keep_failures:
            failures.append({"call": node, "problem": one})
    return results


def valid_calls(target: str, seed: int, failures: list[dict[str, Any]]) -> list[Node]:
    """Search calls that run."""
    rng = np.random.default_rng([seed, *target.encode()])
    found: list[Node] = []
    for _ in range(0, SEARCHED, AT_ONCE):
        nodes = [call_for(target, rng) for _ in range(AT_ONCE)]
        said = in_processes(nodes, seed, failures)
        found += [node for node, one in zip(nodes, said, strict=False) if one == "ran"]
        if len(found) >= VALID:
            break
    known = KNOWN.get(target.removeprefix("torch.ops.aten."))
    return [*found[:VALID], *([{"target": target, "inputs": known, "metadata": {}}] if known else [])]


def programs(valid: list[Node], count: int, seed: int) -> Iterator[Node]:
    rng = np.random.default_rng([seed, count, len(valid)])
    for _ in range(count):
        yield changed(valid[rng.integers(len(valid))], rng)


def main(count: int, seed: int, result: Path, most_forms: int | None = None) -> None:
    """Try all forms of all operations, or a random few."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.empty(2, device="meta").relu().log_softmax(0)  # imports much, which each process would else do again
    chosen = allowed_forms()
    if most_forms:
        chosen = sorted(np.random.default_rng(seed).permutation(chosen)[:most_forms].tolist())
    began, failures, happened = time.time(), [], Counter[str]()  # type: ignore[var-annotated]
    without: list[str] = []
    for number, target in enumerate(chosen):
        valid = valid_calls(target, seed, failures)
        if not valid:
            without.append(target)
            continue
        share = -(-count // len(chosen))
        happened.update(
            one if one in ("ran", "refused") else "failed"
            for one in in_processes(list(programs(valid, share, seed)), seed, failures)
        )
        if number % 10 == 0 or number + 1 == len(chosen):
            result.with_suffix(".part").write_text(
                json.dumps({"without": without, "failures": failures, "happened": dict(happened)})
            )
            print(f"{number}/{len(chosen)} {target} {dict(happened)} {len(failures)} failures", file=sys.stderr, flush=True)
    report = {
        "forms": len(chosen),
        "without_a_valid_call": without,
        "programs": sum(happened.values()),
        "happened": dict(happened),
        "failures": failures,
        "seconds": round(time.time() - began),
    }
    result.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    faulthandler.enable()
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else None)
