"""What runs in the worker process of an ONNX model: onnxruntime, and the reading of the graph. No torch is imported here."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petechia.core.budget import check, check_file
from petechia.core.errors import PetechiaError, first_line, printable

NUMBERS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
LINEAR = frozenset(
    """
    Gemm MatMul Conv ConvTranspose MatMulInteger QLinearMatMul QGemm QLinearConv ConvInteger Einsum FusedMatMul FusedGemm
    FusedConv MatMulNBits
    """.split()  # noqa: SIM905
)
ACTIVATIONS = frozenset(
    """
    Sigmoid Softmax LogSoftmax Identity Cast Add Sub Mul Div Reshape Squeeze Unsqueeze Flatten Transpose Clip DequantizeLinear
    QuantizeLinear DynamicQuantizeLinear Slice Gather Dropout Tanh Expand
    """.split()  # noqa: SIM905
)


def open_model(file: str, threads: int) -> tuple[Any, dict[str, Any]]:
    """Open an ONNX file.

    Args:
        file: path of the file.
        threads: CPU threads that it may use.

    Returns:
        The session, and its description: `inputs` and `outputs`, each a list of [name, type, shape], and `graph`, a list of
        [kind, taken values, made values].

    Raises:
        PetechiaError: onnxruntime cannot open the file, or its weights in other files are too large or outside the folder.
    """
    import onnxruntime

    graph = _graph(Path(file))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised, not logged
    options.enable_mem_pattern = False  # it would plan memory for sizes that the file only claims
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except MemoryError:
        raise
    except Exception as error:
        raise _invalid(file, error) from None
    about = {
        key: [[one.name, one.type, [side if isinstance(side, int) else None for side in one.shape]] for one in values]
        for key, values in (("inputs", session.get_inputs()), ("outputs", session.get_outputs()))
    }
    return session, about | {"graph": graph}


def run(session: Any, file: str, feed: str, images: NDArray[Any], wanted: list[str]) -> list[NDArray[np.float32] | None]:
    """Run the model.

    Args:
        session: what `open_model` returned.
        file: path of the file, for messages.
        feed: name of the input.
        images: a batch.
        wanted: names of outputs.

    Returns:
        The outputs, float32; None for those that are not floating-point numbers.

    Raises:
        PetechiaError: onnxruntime cannot run the model on these images.
    """
    try:
        found = session.run(wanted, {feed: images})
    except MemoryError:
        raise
    except Exception as error:
        if "alloc" in str(error).lower():
            raise MemoryError from None
        raise PetechiaError(f"{file} cannot be run on images ({first_line(error)}); export it again.") from None
    return [one.astype(np.float32) if isinstance(one, np.ndarray) and one.dtype.kind == "f" else None for one in found]


def _invalid(file: str | Path, error: BaseException) -> PetechiaError:
    if "BFloat16" in str(error) or "bfloat16" in str(error):
        return PetechiaError(
            f"{file} computes in bfloat16, which onnxruntime cannot do on a CPU; export it in float32 or float16."
        )
    return PetechiaError(f"{file} is not a valid ONNX model ({first_line(error)}); export it again.")


def _graph(path: Path) -> list[list[Any]]:
    """Return what is computed from what, and check the files that hold weights."""
    import onnx

    try:
        graph = onnx.load_model(path, load_external_data=False).graph
        weights = {one.name for one in graph.initializer}
        tensors = list(_tensors(graph, onnx))
    except MemoryError:
        raise
    except Exception as error:  # untrusted bytes can raise anything
        raise _invalid(path, error) from None
    elements = sum(prod(max(0, side) for side in one.dims) for one in tensors)
    check("model_elements", elements, f"{path} describes {elements:,} weights", "export it again")
    for name in sorted({entry.value for one in tensors for entry in one.external_data if entry.key == "location"}):
        _check_external(path, name)
    check("model_steps", len(graph.node), f"{path} has {len(graph.node):,} operations", "export it again")
    return [
        [_kind(node.op_type), [name for name in node.input if name and name not in weights], list(node.output)]
        for node in graph.node
    ]


def _tensors(graph: Any, onnx: Any, depth: int = 0) -> Iterator[Any]:
    """Yield all tensors that a graph contains, those of the bodies of its loops included."""
    if depth > 20:
        raise ValueError("graphs nested that deeply")
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for one in node.attribute:
            if one.type == onnx.AttributeProto.TENSOR:
                yield one.t
            for inner in (*([one.g] if one.type == onnx.AttributeProto.GRAPH else []), *one.graphs):
                yield from _tensors(inner, onnx, depth + 1)


def _check_external(path: Path, name: str) -> None:
    """Refuse a file with weights that is not inside the folder of the model, or too large."""
    folder = path.parent.resolve()
    try:
        where = (folder / name).resolve()
        inside = where.is_relative_to(folder) and not Path(name).is_absolute() and where.is_file()
    except (OSError, ValueError, RuntimeError):
        inside = False
    if not inside:
        raise PetechiaError(
            f"{path} is not a valid ONNX model (it keeps weights in {printable(name)!r}, which is not a file in its folder); "
            f"put that file beside it, or export it again."
        )
    check_file(where, "model_bytes", "export the model again")


def _kind(operation: str) -> str:
    return "linear" if operation in LINEAR else "activation" if operation in ACTIVATIONS else "other"
