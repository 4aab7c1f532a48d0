import hashlib
import json
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from petechia.core.budget import budget
from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute
from petechia.data import Preprocess
from petechia.models.model import Architecture, create
from petechia.models.openers import open_classifier

RUNTIME = Compute(device="cpu", precision="fp32").start()
SIZE, CLASSES = 8, 3
RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(SIZE * SIZE, CLASSES)).astype(np.float32)
IMAGES = RNG.integers(0, 256, (5, SIZE, SIZE), np.uint8)
TRUE_LOGITS = (IMAGES.reshape(5, -1) / 255) @ WEIGHTS


def write_onnx(
    path: Path, shape: tuple[Any, ...] = ("N", 1, SIZE, SIZE), weights: NDArray[np.float32] = WEIGHTS, last: str = "Identity"
) -> str:
    """A linear classifier of pixels, in the order of its input."""
    onnx = pytest.importorskip("onnx", reason="ONNX models are written with onnx, which is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node(last, ["logits"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("images", number, shape)],
        [helper.make_tensor_value_info("scores", number, (shape[0], weights.shape[1]))],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return str(path)


def describe(path: str, **card: Any) -> None:
    Path(path).with_suffix(".json").write_text(json.dumps(card))


def test_petechias_own_file(tmp_path: Path) -> None:
    model = create(Architecture(arch="test_resnet"), ("A", "B"), Preprocess(size=32, crop=0.9), 0).eval()
    model.save(tmp_path / "model.safetensors")
    found = open_classifier(str(tmp_path / "model.safetensors"), RUNTIME)
    assert (found.classes, found.preprocess) == (("A", "B"), model.description.preprocess)
    images = np.zeros((2, 32, 32), np.uint8)
    with torch.inference_mode():
        assert torch.allclose(found.logits(images), model(torch.zeros(2, 1, 32, 32)), atol=1e-5)


@pytest.mark.parametrize("batch", ["N", 1, 2, 7], ids=lambda batch: f"batch {batch}")
def test_onnx_with_any_batch(tmp_path: Path, batch: Any) -> None:
    found = open_classifier(write_onnx(tmp_path / "m.onnx", (batch, 1, SIZE, SIZE)), RUNTIME)
    assert found.network is None
    assert found.classes == ("class 0", "class 1", "class 2")
    assert found.preprocess == Preprocess(size=SIZE)
    np.testing.assert_allclose(found.logits(IMAGES), TRUE_LOGITS, atol=1e-4)


def test_onnx_probabilities_become_logits_unless_the_card_says_otherwise(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx", last="Sigmoid")
    np.testing.assert_allclose(open_classifier(path, RUNTIME).logits(IMAGES), TRUE_LOGITS, atol=0.02)
    describe(path, outputs="probabilities")
    np.testing.assert_allclose(open_classifier(path, RUNTIME).logits(IMAGES), TRUE_LOGITS, atol=0.02)
    describe(path, outputs="logits")
    np.testing.assert_allclose(open_classifier(path, RUNTIME).logits(IMAGES), 1 / (1 + np.exp(-TRUE_LOGITS)), atol=1e-5)


def softmax(outputs: NDArray[Any]) -> NDArray[Any]:
    raised = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


@pytest.mark.parametrize(("last", "outputs"), [("Identity", None), ("Identity", "logits"), ("Softmax", None)])
def test_onnx_of_a_softmax_becomes_what_a_sigmoid_makes_the_softmax_of(tmp_path: Path, last: str, outputs: str | None) -> None:
    path = write_onnx(tmp_path / "m.onnx", weights=WEIGHTS / np.float32(8), last=last)
    describe(path, task="multi-class", **({"outputs": outputs} if outputs else {}))
    scores = open_classifier(path, RUNTIME).logits(IMAGES).sigmoid().numpy()
    np.testing.assert_allclose(scores, softmax(TRUE_LOGITS / 8), atol=1e-4)


def test_one_score_is_not_multi_class(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx", weights=WEIGHTS[:, :1])
    np.testing.assert_allclose(open_classifier(path, RUNTIME).logits(IMAGES), TRUE_LOGITS[:, :1], atol=1e-4)
    describe(path, task="multi-class")
    with pytest.raises(PetechiaError, match="gives one score, but its JSON states the task multi-class"):
        open_classifier(path, RUNTIME)


def test_onnx_certain_probabilities_stay_finite(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx", weights=1000 * WEIGHTS, last="Sigmoid")
    logits = open_classifier(path, RUNTIME).logits(IMAGES).numpy()
    assert np.abs(logits).min() > 13
    assert (np.sign(logits) == np.sign(TRUE_LOGITS)).all()


def test_onnx_as_its_card_says(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx")
    describe(path, classes=["A", "B", "C"], preprocess={"crop": 0.8, "resample": "bilinear"}, mean=[0.5], std=[0.25])
    found = open_classifier(path, RUNTIME)
    assert found.classes == ("A", "B", "C")
    assert found.preprocess == Preprocess(crop=0.8, size=SIZE, resample="bilinear")
    np.testing.assert_allclose(found.logits(IMAGES), (IMAGES.reshape(5, -1) / 255 - 0.5) / 0.25 @ WEIGHTS, atol=1e-3)


@pytest.mark.parametrize("channels_last", [False, True])
def test_onnx_of_colour(tmp_path: Path, channels_last: bool) -> None:
    shape = ("N", SIZE, SIZE, 3) if channels_last else ("N", 3, SIZE, SIZE)
    weights = RNG.normal(size=(3 * SIZE * SIZE, 2)).astype(np.float32)
    path = write_onnx(tmp_path / "m.onnx", shape, weights)
    describe(path, mean=[0.1, 0.2, 0.3])
    found = open_classifier(path, RUNTIME)
    assert found.colour
    colours = IMAGES[:, :, :, None] / 255 - [0.1, 0.2, 0.3]
    arranged = colours if channels_last else colours.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found.logits(IMAGES), arranged.reshape(5, -1) @ weights, atol=1e-4)


def test_onnx_of_any_size_takes_that_of_the_card(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx", ("N", 1, "H", "W"))
    with pytest.raises(PetechiaError, match="images of any size; set preprocess.size in m.json"):
        open_classifier(path, RUNTIME)
    describe(path, preprocess={"size": SIZE})
    np.testing.assert_allclose(open_classifier(path, RUNTIME).logits(IMAGES), TRUE_LOGITS, atol=1e-4)


@pytest.mark.parametrize(
    ("card", "sentence"),
    [
        ({"classes": ["A"]}, "gives 3 scores, but m.json names 1 classes"),
        ({"preprocess": {"size": 9}}, "images of 8 pixels a side, but its JSON states preprocess.size 9"),
        ({"outputs": "probabilities"}, "its JSON states probabilities; set outputs to logits"),
        ({"channels": 3}, "takes images of 1 channels"),
        ({"mean": [0.1, 0.2]}, None),
        ({"clases": ["A"]}, "m.json, the description of m.onnx, cannot be used .clases: Extra inputs"),
    ],
)
def test_onnx_that_its_card_does_not_fit(tmp_path: Path, card: dict[str, Any], sentence: str | None) -> None:
    path = write_onnx(tmp_path / "m.onnx")
    describe(path, **card)
    if sentence is None:  # means of colours serve for grey
        open_classifier(path, RUNTIME)
        return
    with pytest.raises(PetechiaError, match=sentence):
        open_classifier(path, RUNTIME)


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        (("N", 64), "an image classifier takes one batch of images"),
        (("N", 2, SIZE, SIZE), "images of 2 channels"),
        (("N", 1, SIZE, 2 * SIZE), "8 x 16 pixels; only square images"),
        (("N", "C", SIZE, SIZE), "does not state its number of channels"),
    ],
)
def test_onnx_that_takes_something_else(tmp_path: Path, shape: tuple[Any, ...], sentence: str) -> None:
    pixels = np.prod([side for side in shape[1:] if isinstance(side, int)], dtype=int)
    weights = np.zeros((pixels, CLASSES), np.float32)
    with pytest.raises(PetechiaError, match=sentence):
        open_classifier(write_onnx(tmp_path / "m.onnx", shape, weights), RUNTIME)


def test_onnx_that_contradicts_itself_cannot_be_asked(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx", ("N", 1, "H", "W"))
    describe(path, preprocess={"size": 9})
    with pytest.raises(PetechiaError, match="cannot be run on images"):
        open_classifier(path, RUNTIME)


def test_onnx_that_is_none(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(PetechiaError, match="not a valid ONNX model"):
        open_classifier(str(tmp_path / "m.onnx"), RUNTIME)


@pytest.mark.parametrize("location", ["../weights.bin", "absolute", "link"])
def test_onnx_reads_no_file_outside_its_folder(tmp_path: Path, location: str) -> None:
    folder, secret = tmp_path / "model", tmp_path / "weights.bin"
    folder.mkdir()
    path = Path(write_onnx(folder / "m.onnx"))
    import onnx  # noqa: PLC0415 (it is there, or this was skipped)

    secret.write_bytes(WEIGHTS.tobytes())
    model = onnx.load(path)
    (stored,) = model.graph.initializer
    stored.ClearField("raw_data")
    stored.data_location = onnx.TensorProto.EXTERNAL
    entry = stored.external_data.add()
    entry.key, entry.value = "location", {"absolute": str(secret), "link": "link.bin"}.get(location, location)
    (folder / "link.bin").symlink_to(secret)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(PetechiaError, match="not a valid ONNX model"):
        open_classifier(str(path), RUNTIME)
    (folder / "inside.bin").write_bytes(WEIGHTS.tobytes())
    entry.value = "inside.bin"  # the same file where it may be
    path.write_bytes(model.SerializeToString())
    np.testing.assert_allclose(open_classifier(str(path), RUNTIME).logits(IMAGES), TRUE_LOGITS, atol=1e-4)


def test_onnx_without_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "m.onnx").write_bytes(b"")
    with pytest.raises(PetechiaError, match="pip install 'petechia.onnx.'"):
        open_classifier(str(tmp_path / "m.onnx"), RUNTIME)


class Malice:
    """Writes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


@pytest.mark.parametrize("form", ["{}", "timm:test_resnet:{}"])
@pytest.mark.parametrize("name", ["m.pt", "m.PTH", "m.bin", "m.pkl", "m.safetensors", "m.onnx", "m.pt2", "m"])
@pytest.mark.parametrize("writer", ["torch", "torch, old", "pickle", "hidden"])
def test_no_pickle_runs_its_code_under_any_name(tmp_path: Path, name: str, form: str, writer: str) -> None:
    proof, path = tmp_path / "it ran", tmp_path / name
    if writer == "hidden":  # among the weights that the network has
        timm = pytest.importorskip("timm")
        torch.save(timm.create_model("test_resnet", num_classes=2).state_dict() | {"fc.weight": Malice(proof)}, path)
    elif writer == "pickle":
        path.write_bytes(pickle.dumps(Malice(proof)))
    else:
        torch.save(Malice(proof), path, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(PetechiaError):
        open_classifier(form.format(path), RUNTIME)
    assert not proof.exists()
    pickle.loads(pickle.dumps(Malice(proof)))  # noqa: S301 (the malice is real)
    assert proof.exists()


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.bin"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_timm_with_a_bare_state_dict(tmp_path: Path, name: str, wrapped: bool) -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model("test_resnet", num_classes=2, in_chans=1).eval()
    state = network.state_dict()
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{key}": one for key, one in state.items()}} if wrapped else state, tmp_path / name
    )
    describe(str(tmp_path / name), preprocess={"size": 32}, mean=[0], std=[1])
    found = open_classifier(f"timm:test_resnet:{tmp_path / name}", RUNTIME)
    images = RNG.integers(0, 256, (2, 32, 32), np.uint8)
    with torch.inference_mode():
        assert torch.allclose(found.logits(images), network(torch.from_numpy(images / np.float32(255))[:, None]), atol=1e-5)


def test_timm_with_a_file_that_is_no_state_dict_of_it(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    path = tmp_path / "m.pt"
    for content, sentence in (
        ({"fc.weight": torch.zeros(2, 3)}, "does not contain the weights of timm's test_resnet"),
        ({"state_dict": {"fc.weight": torch.zeros(2, 3), "epoch": 3}}, "contains more than weights"),
        (torch.zeros(3), "contains more than weights"),
    ):
        torch.save(content, path)
        with pytest.raises(PetechiaError, match=sentence):
            open_classifier(f"timm:test_resnet:{path}", RUNTIME)
    path.unlink()
    with pytest.raises(PetechiaError, match="m.pt is not a file; check the path"):
        open_classifier(f"timm:test_resnet:{path}", RUNTIME)


def test_a_pickle_is_refused_with_how_to_convert_it(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "m.pt")
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({}))
    for name in (str(tmp_path / "m.pt"), f"timm:test_resnet:{tmp_path / 'm.pkl'}"):
        with pytest.raises(PetechiaError, match="is a pickle, .* safetensors.torch.save_file"):
            open_classifier(name, RUNTIME)


@pytest.mark.parametrize("channels", [1, 3])
def test_timm_with_weights_from_a_file(tmp_path: Path, channels: Any) -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model("test_resnet", num_classes=4, in_chans=channels).eval()
    path = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), path)
    describe(str(path), classes=["A", "B", "C", "D"], preprocess={"size": 32})
    found = open_classifier(f"timm:test_resnet:{path}", RUNTIME)
    assert found.classes == ("A", "B", "C", "D")
    assert found.name == f"timm:test_resnet:{path}"
    assert found.identified() == ("timm:test_resnet:weights.safetensors", hashlib.sha256(path.read_bytes()).hexdigest())
    assert found.preprocess.size == 32
    describe(str(path), preprocess={"size": 32}, task="multi-class")
    of_softmax = open_classifier(f"timm:test_resnet:{path}", RUNTIME)
    images = RNG.integers(0, 256, (2, 32, 32), np.uint8)
    pixels = torch.from_numpy(images / np.float32(255))[:, None].expand(-1, channels, -1, -1)
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(-1, 1, 1) for key in ("mean", "std"))
    if channels == 1:
        mean, std = mean.mean(), std.mean()
    with torch.inference_mode():
        outputs = network((pixels - mean) / std)
    assert torch.allclose(found.logits(images), outputs, atol=1e-5)
    assert torch.allclose(of_softmax.logits(images).sigmoid(), outputs.softmax(dim=1), atol=1e-6)


def test_timm_without_a_card_is_as_timm_says(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=2).state_dict(), path)
    found = open_classifier(f"timm:test_resnet:{path}", RUNTIME)
    assert (found.classes, found.preprocess.size, found.preprocess.crop) == (("class 0", "class 1"), 160, 0.95)


def test_timm_with_the_weights_of_another_network(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_vit", num_classes=2).state_dict(), path)
    with pytest.raises(PetechiaError, match="does not contain the weights of timm's test_resnet"):
        open_classifier(f"timm:test_resnet:{path}", RUNTIME)


def test_timm_without_a_network_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(
        PetechiaError, match="ImageNet weights of test_resnet are not available .Name or service not known.; .* give timm"
    ):
        open_classifier("timm:test_resnet", RUNTIME)
    with pytest.raises(PetechiaError, match="timm does not know a network 'test_resnot'"):
        open_classifier("timm:test_resnot", RUNTIME)


def test_timm_with_imagenet_weights_knows_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm  # noqa: PLC0415 (its function is replaced)

    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda arch, pretrained: real(arch, pretrained=False))
    found = open_classifier("timm:test_resnet", RUNTIME)
    assert found.colour
    assert found.classes[3].startswith("tiger shark")
    logits = found.logits(np.zeros((1, 160, 160), np.uint8))
    assert logits.shape == (1, 1000)
    assert float(logits.sigmoid().sum()) == pytest.approx(1, abs=1e-4)  # of ImageNet's classes an image shows one


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(PetechiaError, match="There is no model 'nowhere.onnx'; give a .safetensors, .onnx or .pt2 file"):
        open_classifier("nowhere.onnx", RUNTIME)


def endless_onnx(path: Path) -> str:
    """A model that counts to 2 ^ 62 before it answers."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    helper, kinds = onnx.helper, onnx.TensorProto

    def value(name: str, kind: int, shape: tuple[Any, ...]) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["x", "x"], ["y"])],
        "body",
        [value("i", kinds.INT64, ()), value("go", kinds.BOOL, ()), value("x", kinds.FLOAT, ("N", 64))],
        [value("go_on", kinds.BOOL, ()), value("y", kinds.FLOAT, ("N", 64))],
    )
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("Loop", ["count", "true", "flat"], ["scores"], body=body),
    ]
    stored = [onnx.numpy_helper.from_array(np.array(2**62), "count"), onnx.numpy_helper.from_array(np.array(True), "true")]
    given = [value("images", kinds.FLOAT, ("N", 1, SIZE, SIZE))]
    graph = helper.make_graph(nodes, "g", given, [value("scores", kinds.FLOAT, ("N", 64))], stored)
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString())
    return str(path)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets limits of the budget."""

    def set_limits(text: str) -> None:
        monkeypatch.setenv("PETECHIA_LIMITS", text)
        budget.cache_clear()

    yield set_limits
    budget.cache_clear()


def test_onnx_that_never_ends_is_stopped(tmp_path: Path, limits: Callable[[str], None]) -> None:
    limits("model_seconds=2")
    began = time.monotonic()
    with pytest.raises(PetechiaError, match=r"m\.onnx took longer than 2 seconds"):
        open_classifier(endless_onnx(tmp_path / "m.onnx"), RUNTIME)
    assert time.monotonic() - began < 60


def test_onnx_that_takes_all_memory_is_stopped(tmp_path: Path, limits: Callable[[str], None]) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    path = Path(write_onnx(tmp_path / "m.onnx"))
    model = onnx.load(path)
    side = onnx.numpy_helper.from_array(np.array([1 << 15, 1 << 15]), "side")
    model.graph.initializer.append(side)
    model.graph.node.insert(0, onnx.helper.make_node("ConstantOfShape", ["side"], ["giant"]))  # 4 GiB
    model.graph.node.insert(1, onnx.helper.make_node("ReduceMax", ["giant"], ["zero"], keepdims=0))
    model.graph.node[2].input[0] = "moved"
    model.graph.node.insert(2, onnx.helper.make_node("Add", ["images", "zero"], ["moved"]))
    path.write_bytes(model.SerializeToString())
    limits("model_memory=1e9")
    with pytest.raises(PetechiaError, match="m.onnx"):
        open_classifier(str(path), RUNTIME)
    limits("model_memory=12e9")
    np.testing.assert_allclose(open_classifier(str(path), RUNTIME).logits(IMAGES), TRUE_LOGITS, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((10**9, 1, SIZE, SIZE), "m.onnx takes batches of 64,000,000,000 numbers, and the maximum is"),
        (("N", 1, 1, 1), "takes images of 1 x 1 pixels, but sides have 8 to 4,096"),
        (("N", 1, 5000, 5000), "takes images of 5000 x 5000 pixels"),
    ],
)
def test_onnx_of_absurd_sizes(tmp_path: Path, shape: tuple[Any, ...], sentence: str) -> None:
    weights = np.zeros((shape[2] * shape[3], CLASSES if shape[2] < 9 else 1), np.float32)
    with pytest.raises(PetechiaError, match=sentence):
        open_classifier(write_onnx(tmp_path / "m.onnx", shape, weights), RUNTIME)


def test_onnx_whose_weights_lie_in_a_giant_file(tmp_path: Path, limits: Callable[[str], None]) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    path = Path(write_onnx(tmp_path / "m.onnx"))
    model = onnx.load(path)
    (stored,) = model.graph.initializer
    stored.ClearField("raw_data")
    stored.data_location = onnx.TensorProto.EXTERNAL
    entry = stored.external_data.add()
    entry.key, entry.value = "location", "m.bin"
    path.write_bytes(model.SerializeToString())
    with (tmp_path / "m.bin").open("wb") as file:
        file.truncate(20 << 30)  # sparse: it takes no space
    with pytest.raises(PetechiaError, match="m.bin has 21,474,836,480 bytes, and the maximum is"):
        open_classifier(str(path), RUNTIME)


def test_a_worker_of_onnx_that_dies_is_started_again(tmp_path: Path) -> None:
    found = open_classifier(write_onnx(tmp_path / "m.onnx"), RUNTIME)
    adapter: Any = found.answer
    os.kill(adapter.network.session._worker._process.pid, signal.SIGKILL)
    with pytest.raises(PetechiaError, match="m.onnx made the process that read it crash"):
        found.logits(IMAGES)
    np.testing.assert_allclose(found.logits(IMAGES), TRUE_LOGITS, atol=1e-4)
