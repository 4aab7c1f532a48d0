"""Which of several outputs are the scores."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import petechia
from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute
from petechia.models.openers import open_classifier
from petechia.models.openers.card import Card
from petechia.models.openers.outputs import Graph, Kind, Output, choose, tone

RUNTIME = Compute(device="cpu", precision="fp32", threads=1).start()
RNG = np.random.default_rng(0)
SIZE, IMAGES = 8, 4
FEATURES = RNG.normal(size=(IMAGES, 6)).astype(np.float32)
LOGITS = RNG.normal(size=(IMAGES, 3)).astype(np.float32)
OTHERS = RNG.normal(size=(IMAGES, 5)).astype(np.float32)
MAP = RNG.normal(size=(IMAGES, 6, 4, 4)).astype(np.float32)
HEAD: dict[str, tuple[Kind, tuple[str, ...]]] = {
    "l": ("linear", ("f",)),
    "v": ("linear", ("p",)),
    "f": ("activation", ("p",)),
    "p": ("other", ("m",)),
}


def probabilities(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(1 / (1 + np.exp(-logits)))


def chosen(given: Mapping[str, tuple[Any, str]], made: Mapping[str, tuple[Kind, tuple[str, ...]]] = HEAD, **card: Any) -> str:
    """The name of the chosen output; given: name → values, name of the value in the graph."""
    listed = [Output(name, values, value) for name, (values, value) in given.items()]
    return listed[choose(listed, IMAGES, Graph(made), Card(**card), Path("m.onnx")).number].name


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(
    "outputs",
    [
        {"features": (FEATURES, "f"), "logits": (LOGITS, "l")},
        {"output_0": (FEATURES, "f"), "output_1": (LOGITS, "l")},  # the names say nothing: what feeds the layer is not scores
        {"0": (MAP, "m"), "1": (LOGITS, "l")},
        {"aux": (OTHERS, "a"), "output": (LOGITS, "l")},
        {"last_hidden_state": (FEATURES, "p"), "logits": (LOGITS, "l")},
        {"pooler_output": (FEATURES, "f"), "class_scores": (LOGITS[:, :, None, None], "l")},
        {"embedding": (FEATURES, "f"), "fc": (LOGITS[:, None], "l")},
        {"pred": (np.eye(3, dtype=np.float32)[LOGITS.argmax(axis=1)], "a"), "out": (LOGITS, "l")},  # the decision is no score
        {"label": (None, "a"), "probabilities": (probabilities(LOGITS), "l")},
        {"seg_logits": (OTHERS, "s"), "y": (LOGITS, "l")},
    ],
)
def test_shape_name_and_graph_agree(outputs: dict[str, tuple[Any, str]], first: bool) -> None:
    names = list(outputs)
    assert chosen(dict(reversed(outputs.items())) if first else outputs) == names[1]


def test_logits_beside_their_own_activation() -> None:
    made: dict[str, tuple[Kind, tuple[str, ...]]] = {"s": ("activation", ("l",)), **HEAD}
    for activated in (probabilities(LOGITS), np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True), -np.logaddexp(0, -LOGITS)):
        both = {"probs": (activated.astype(np.float32), "s"), "out": (LOGITS, "l")}
        assert chosen(both, made) == "out"
        assert chosen(both, made, outputs="probabilities") == "probs"


@pytest.mark.parametrize(
    "outputs",
    [
        {"finding_logits": (LOGITS, "l"), "view_logits": (OTHERS, "v")},  # two tasks
        {"output_0": (OTHERS, "a"), "output_1": (LOGITS, "b")},  # nothing says which
        {"features": (FEATURES, "f"), "map": (MAP, "m")},  # the only one of that shape is not called scores
        {"logits": (FEATURES, "f"), "495": (LOGITS, "l")},  # the name is that of another output
        {"out": (FEATURES, "f"), "logits": (LOGITS[:, 0], "l")},  # the scores lost their second dimension
    ],
)
def test_what_is_not_clear_is_refused(outputs: dict[str, tuple[Any, str]]) -> None:
    with pytest.raises(PetechiaError, match=r"set output in m\.json to its name") as told:
        chosen(outputs)
    assert all(f"{name}: {list(values.shape)}" in str(told.value) for name, (values, _) in outputs.items() if name != "495")
    assert chosen(outputs, output=0) == next(iter(outputs))


def test_the_card_decides() -> None:
    outputs = {"a_logits": (LOGITS, "l"), "b_logits": (OTHERS, "v")}
    assert chosen(outputs, output="b_logits") == chosen(outputs, output=1) == "b_logits"
    assert chosen(outputs, classes=tuple("ABCDE")) == "b_logits"  # as many as are named
    with pytest.raises(PetechiaError, match=r"no output c; set output in m\.json to one of its outputs: a_logits: \[4, 3\]"):
        chosen(outputs, output="c")
    with pytest.raises(PetechiaError, match="has no output 2"):
        chosen(outputs, output=2)
    with pytest.raises(PetechiaError, match=r"returns m: \[4, 6, 4, 4\] for 4 images; a classifier returns scores of two"):
        chosen({"m": (MAP, "m"), "l": (LOGITS, "l")}, output="m")


def test_scores_without_their_second_dimension_are_told_whole() -> None:
    with pytest.raises(PetechiaError, match=r"m.onnx returns s: \[4\] for 4 images; .* export it again without the squeeze"):
        chosen({"s": (LOGITS[:, 0], "l")})
    assert chosen({"s": (LOGITS[:, :1], "l")}) == "s"


def test_what_names_say() -> None:
    for name in ("logits", "clsLogits", "class_scores", "dense/Softmax:0", "backbone/fc/probs", "Prediction"):
        assert tone(name) == 1, name
    for name in ("aux_logits", "features", "attentionMap", "x_embedding", "pred_masks", "pooler_output"):
        assert tone(name) == -1, name
    for name in ("output", "y", "495", "Identity:0", "encoder/fc/Gemm_output_0"):
        assert tone(name) == 0, name


# Files


class Head(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.conv, self.fc = nn.Conv2d(1, 6, 3), nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Any:
        maps = self.conv(images).relu()
        features = maps.mean((2, 3))
        logits = self.fc(features)
        return {
            "tuple": (features, logits),
            "dict": {"features": features, "nested": [{"logits": logits}, maps]},
            "map": (maps, logits),
            "half": logits,
        }[self.kind]


def logits_of(network: Head, images: np.ndarray[Any, Any]) -> Tensor:
    with torch.inference_mode():
        pixels = torch.from_numpy(images / np.float32(255))[:, None]
        return network.fc(network.conv(pixels).relu().mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["tuple", "dict", "map"])
def test_programs_with_several_outputs(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    images = RNG.integers(0, 256, (3, SIZE, SIZE), np.uint8)
    network = Head(kind).eval()
    torch.export.save(torch.export.export(network, (torch.zeros(2, 1, SIZE, SIZE),)), tmp_path / "m.pt2")
    with caplog.at_level(logging.WARNING, "petechia"):
        found = open_classifier(str(tmp_path / "m.pt2"), RUNTIME)
    torch.testing.assert_close(found.logits(images), logits_of(network, images))
    assert f"taken from the output {'nested.0.logits' if kind == 'dict' else '1'}" in caplog.text
    (tmp_path / "m.json").write_text(json.dumps({"output": "features" if kind == "dict" else 0}))
    if kind == "map":
        with pytest.raises(PetechiaError, match="returns output 0: .8, 6, 6, 6. for 8 images"):
            open_classifier(str(tmp_path / "m.pt2"), RUNTIME)
    else:
        assert len(open_classifier(str(tmp_path / "m.pt2"), RUNTIME).classes) == 6


@pytest.mark.parametrize("number", [torch.float16, torch.bfloat16])
def test_programs_in_half_precision_get_what_they_take(tmp_path: Path, number: torch.dtype) -> None:
    images = RNG.integers(0, 256, (3, SIZE, SIZE), np.uint8)
    network = Head("half").eval().to(number)
    torch.export.save(torch.export.export(network, (torch.zeros(2, 1, SIZE, SIZE, dtype=number),)), tmp_path / "m.pt2")
    found = open_classifier(str(tmp_path / "m.pt2"), RUNTIME)
    torch.testing.assert_close(found.logits(images), logits_of(Head("half").eval(), images), atol=0.02, rtol=0.02)
    given = torch.rand(2, 1, SIZE, SIZE, requires_grad=True)
    found.answer(given).sum().backward()  # type: ignore[no-untyped-call]
    assert given.grad is not None
    assert given.grad.dtype == torch.float32
    assert bool(given.grad.any())


def write_onnx(path: Path, names: tuple[str, ...]) -> str:
    """A model with the outputs features, logits, probs, a map and the number of the class, in the order of the names."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    helper, kinds = onnx.helper, onnx.TensorProto
    kernel, weights = RNG.normal(size=(6, 1, 3, 3)).astype(np.float32), RNG.normal(size=(6, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["images", "kernel"], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("MatMul", ["features", "weights"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["probs"]),
        helper.make_node("ArgMax", ["logits"], ["number"], axis=1, keepdims=0),
    ]
    shapes = {"map": ("N", 6, 6, 6), "features": ("N", 6), "logits": ("N", 3), "probs": ("N", 3), "number": ("N",)}
    outputs = [
        helper.make_tensor_value_info(name, kinds.INT64 if name == "number" else kinds.FLOAT, shapes[name]) for name in names
    ]
    given = [helper.make_tensor_value_info("images", kinds.FLOAT, ("N", 1, SIZE, SIZE))]
    stored = [onnx.numpy_helper.from_array(kernel, "kernel"), onnx.numpy_helper.from_array(weights, "weights")]
    graph = helper.make_graph(nodes, "g", given, outputs, stored)
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString())
    pixels = torch.rand(2, 1, SIZE, SIZE)
    assert torch.from_numpy(kernel).shape[0] == nn.functional.conv2d(pixels, torch.from_numpy(kernel)).shape[1]
    np.save(path.with_suffix(".npy"), kernel)
    np.save(path.with_suffix(".weights.npy"), weights)
    return str(path)


@pytest.mark.parametrize(
    "names", [("features", "logits"), ("map", "features", "probs", "number", "logits"), ("probs", "number")]
)
def test_onnx_with_several_outputs(tmp_path: Path, names: tuple[str, ...]) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    found = open_classifier(write_onnx(tmp_path / "m.onnx", names), RUNTIME)
    kernel, weights = np.load(tmp_path / "m.npy"), np.load(tmp_path / "m.weights.npy")
    images = RNG.integers(0, 256, (3, SIZE, SIZE), np.uint8)
    maps = nn.functional.conv2d(torch.from_numpy(images / np.float32(255))[:, None], torch.from_numpy(kernel))
    wanted = maps.mean((2, 3)) @ torch.from_numpy(weights)
    torch.testing.assert_close(found.logits(images), wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("last", "what"), [("softmax", "add up to 1"), ("sigmoid", "lie in 0 to 1")])
def test_probabilities_that_the_card_calls_logits_are_told(
    tmp_path: Path, last: str, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.models.openers.test_openers import describe  # noqa: PLC0415
    from tests.models.openers.test_openers import write_onnx as write  # noqa: PLC0415

    path = write(tmp_path / "m.onnx", last=last.capitalize())
    describe(path, outputs="logits", task="multi-class")
    with caplog.at_level(logging.WARNING, "petechia"):
        open_classifier(path, RUNTIME)
    assert what in caplog.text
    assert "m.json says logits" in caplog.text


class Beside(torch.nn.Module):
    """Logits, alone or beside what cannot be scores."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.features, self.head = kind, torch.nn.Conv2d(1, 4, 3), torch.nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> Any:
        maps = self.features(images)
        logits = self.head(maps.mean((2, 3)))
        return {
            "convolutional": logits[:, :, None, None],
            "row": logits[:, None],
            "labels": (logits, logits.argmax(1)),
            "decisions": (torch.nn.functional.one_hot(logits.argmax(1), 3).float(), logits),
            "map": (maps, logits),
            "loss": (logits.mean(), logits),
            "sigmoid": (logits.sigmoid(), logits),
        }[self.kind]


@pytest.mark.parametrize("kind", ["convolutional", "row", "labels", "decisions", "map", "loss", "sigmoid"])
def test_modules_in_memory_whose_scores_are_clear_where_the_classes_are_named(kind: str) -> None:
    images = RNG.integers(0, 256, (3, SIZE, SIZE), np.uint8)
    network = Beside(kind).eval()
    found = petechia.open_model(network, classes="ABC", size=SIZE, device="cpu", precision="fp32")
    with torch.no_grad():
        batch = torch.from_numpy(images)[:, None] / 255
        truth = network.head(network.features(batch).mean((2, 3)))
    torch.testing.assert_close(found.logits(images), truth)


@pytest.mark.parametrize("kind", ["tuple", "dict", "map"])
def test_modules_in_memory_with_several_outputs(kind: str) -> None:
    images = RNG.integers(0, 256, (3, SIZE, SIZE), np.uint8)
    network = Head(kind).eval()
    key: str | int = "nested.0.logits" if kind == "dict" else 1
    if kind == "dict":
        found = petechia.open_model(network, size=SIZE, device="cpu", precision="fp32")
        torch.testing.assert_close(found.logits(images), logits_of(network, images))
    else:  # positions alone say nothing, and a module does not say what feeds what
        with pytest.raises(PetechiaError, match=r"output 1: \[8, 3\]\), and it is not clear .* set output= to its name"):
            petechia.open_model(network, size=SIZE, device="cpu")
    found = petechia.open_model(network, size=SIZE, output=key, device="cpu", precision="fp32")
    torch.testing.assert_close(found.logits(images), logits_of(network, images))
    assert found.network is not None
