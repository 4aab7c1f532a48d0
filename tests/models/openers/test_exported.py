import io
import json
import pickle
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from petechia.core.budget import budget
from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute
from petechia.detect.audit.hosts import Hosts
from petechia.detect.audit.rises import rise
from petechia.detect.audit.transforms import Pattern
from petechia.detect.scan.features import features_of
from petechia.detect.screen import Screen
from petechia.models.openers import open_classifier
from petechia.models.openers.exported import _workers
from petechia.models.openers.operations import allowed_forms
from petechia.models.openers.program import opened
from petechia.saliency import cam

RUNTIME = Compute(device="cpu", precision="fp32", threads=1).start()
SIZE = 32
IMAGES = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE), np.uint8)
PIXELS = torch.from_numpy(IMAGES / np.float32(255))[:, None]
Change = Callable[[dict[str, bytes]], None]


def network(arch: str = "test_resnet", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = timm.create_model(arch, num_classes=3, in_chans=1, **options).eval()
    return made


def export(made: nn.Module, path: Path, batch: int | None = None, size: int = SIZE) -> str:
    shapes = None if batch else ({0: torch.export.Dim("batch", min=1, max=4096)},)
    program = torch.export.export(made, (torch.zeros(batch or 2, 1, size, size),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return str(path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "m.pt2"
    export(network(), path)
    return path


def rewrite(source: Path, target: Path, change: Change, compression: int = zipfile.ZIP_STORED) -> str:
    """An archive with changed entries, whose names are given without its root."""
    with zipfile.ZipFile(source) as old:
        root = old.namelist()[0].partition("/")[0]
        entries = {name.removeprefix(f"{root}/"): old.read(name) for name in old.namelist()}
    change(entries)
    with zipfile.ZipFile(target, "w", compression) as new:
        for name, content in entries.items():
            new.writestr(f"{root}/{name}", content)
    return str(target)


def in_text(change: Callable[[dict[str, Any]], None], file: str = "models/model.json") -> Change:
    def apply(entries: dict[str, bytes]) -> None:
        text = json.loads(entries[file])
        change(text)
        entries[file] = json.dumps(text).encode()

    return apply


@pytest.mark.parametrize("batch", [None, 2, 7])
def test_a_program_answers_as_its_network(tmp_path: Path, exported: Path, batch: int | None) -> None:
    path = str(exported) if batch is None else export(network(), tmp_path / "m.pt2", batch)
    found = open_classifier(path, RUNTIME)
    assert (found.classes, found.preprocess.size, found.colour) == (("class 0", "class 1", "class 2"), SIZE, False)
    with torch.inference_mode():
        torch.testing.assert_close(found.logits(IMAGES), network()(PIXELS))


def test_a_transformer_whose_shapes_are_computed(tmp_path: Path) -> None:
    made = network("test_vit", img_size=SIZE)
    with torch.inference_mode():
        torch.testing.assert_close(open_classifier(export(made, tmp_path / "m.pt2"), RUNTIME).logits(IMAGES), made(PIXELS))


def test_a_program_of_a_softmax(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(exported.read_bytes())
    (tmp_path / "m.json").write_text(
        json.dumps({"task": "multi-class", "classes": ["A", "B", "C"], "mean": [0.5], "std": [0.2]})
    )
    found = open_classifier(str(tmp_path / "m.pt2"), RUNTIME)
    assert found.classes == ("A", "B", "C")
    with torch.inference_mode():
        wanted = network()((PIXELS - 0.5) / 0.2).softmax(dim=1)
    torch.testing.assert_close(found.logits(IMAGES).sigmoid(), wanted, atol=1e-6, rtol=1e-4)


def test_a_program_can_be_looked_into(exported: Path) -> None:
    found = open_classifier(str(exported), RUNTIME)
    made = network()
    ours, theirs = PIXELS.clone().requires_grad_(), PIXELS.clone().requires_grad_()
    found.answer(ours)[:, 1].sum().backward()  # type: ignore[no-untyped-call]
    made(theirs)[:, 1].sum().backward()
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad)
    # The last step that gives a map is the ReLU that ends the last block, as in the network.
    torch.testing.assert_close(
        cam(found.require_network(), PIXELS, 1, ("last",))["last"], cam(made, PIXELS, 1, ("last",))["last"]
    )


def test_what_looks_into_networks_takes_a_program(exported: Path) -> None:
    found = open_classifier(str(exported), RUNTIME)
    clean = np.random.default_rng(1).integers(0, 256, (24, SIZE, SIZE), np.uint8)
    hosts = Hosts.of(found, clean)
    assert np.isfinite(rise(found, hosts, hosts, Pattern(4)).effects).all()
    assert features_of(found, clean).shape == (24, 3)
    assert len(Screen.fit(found, clean, fpr=0.1).score(clean[:2]).suspicion) == 2


class Malice:
    """Writes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


def pickled(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_pickled_inputs_are_not_read(exported: Path, tmp_path: Path) -> None:
    proof = tmp_path / "it ran"
    inputs = "data/sample_inputs/model.pt"
    path = rewrite(exported, tmp_path / "m.pt2", lambda entries: entries.update({inputs: pickled(((Malice(proof),), {}))}))
    with torch.inference_mode():
        torch.testing.assert_close(open_classifier(path, RUNTIME).logits(IMAGES), network()(PIXELS))
    assert not proof.exists()
    with suppress(Exception):  # its warning about it cannot be printed
        torch.export.load(path)
    assert proof.exists()  # the malice is real: PyTorch's own reader runs it


@pytest.mark.parametrize("form", ["weight", "weights", "constant", "object"])
def test_pickled_weights_and_constants_are_refused(exported: Path, tmp_path: Path, form: str) -> None:
    proof = tmp_path / "it ran"
    weights = "data/weights/model_weights_config.json"

    def change(entries: dict[str, bytes]) -> None:
        malice = pickled(Malice(proof))
        if form == "weight":
            in_text(lambda text: text["config"]["fc.bias"].update(use_pickle=True), weights)(entries)
            entries["data/weights/weight_46"] = malice
        elif form == "weights":
            entries["data/weights/model.pt"] = malice
        elif form == "constant":
            entries["data/constants/model.pt"] = malice
        else:
            in_text(lambda text: text["config"]["fc.bias"].update(path_name="opaque_obj_0"), weights)(entries)
            entries["data/weights/opaque_obj_0"] = pickle.dumps(Malice(proof))

    with pytest.raises(
        PetechiaError, match="as a pickle, which can run arbitrary code|cannot? be read|is not a valid torch.export"
    ):
        open_classifier(rewrite(exported, tmp_path / "m.pt2", change), RUNTIME)
    assert not proof.exists()


def test_weights_in_one_file_as_older_versions_write_them(exported: Path, tmp_path: Path) -> None:
    def change(entries: dict[str, bytes]) -> None:
        for name in [name for name in entries if name.startswith("data/weights/")]:
            del entries[name]
        entries["data/weights/model.pt"] = pickled(network().state_dict())

    with torch.inference_mode():
        logits = open_classifier(rewrite(exported, tmp_path / "m.pt2", change), RUNTIME).logits(IMAGES)
        torch.testing.assert_close(logits, network()(PIXELS))


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.load",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.set_.source_Tensor",
        "_operator.call",
    ],
)
def test_operations_that_are_not_known_to_be_harmless_are_refused(exported: Path, tmp_path: Path, target: str) -> None:
    change = in_text(lambda text: text["graph_module"]["graph"]["nodes"][2].update(target=target))
    with pytest.raises(PetechiaError, match=f"uses {target}, which is not an operation that is allowed"):
        open_classifier(rewrite(exported, tmp_path / "m.pt2", change), RUNTIME)


def test_expressions_and_names_are_not_evaluated(exported: Path, tmp_path: Path) -> None:
    proof = tmp_path / "it ran"
    code = f"__import__('pathlib').Path({str(proof)!r}).touch()"

    def change(text: dict[str, Any]) -> None:
        graph = text["graph_module"]["graph"]
        for value in graph["tensor_values"].values():
            for side in value["sizes"]:
                if "as_expr" in side:
                    side["as_expr"]["expr_str"] = code
        text["guards_code"] = [code]
        for node in graph["nodes"]:
            node["name"] = code
            node["metadata"] = {"stack_trace": code, "nn_module_stack": code, "torch_fn": code}

    path = rewrite(exported, tmp_path / "m.pt2", in_text(change))
    assert open_classifier(path, RUNTIME).logits(IMAGES).shape == (5, 3)
    assert not proof.exists()


class Training(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 6 * 6, 2))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)  # type: ignore[no-any-return]


def test_a_network_that_was_exported_as_it_trains(tmp_path: Path) -> None:
    with pytest.raises(PetechiaError, match="was exported in training mode; call eval"):
        open_classifier(export(Training().train(), tmp_path / "m.pt2", batch=2, size=8), RUNTIME)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda entries: entries.pop("models/model.json"), "is not a program that torch.export.save"),
        (lambda entries: entries.update({"models/model.json": b"{"}), "is not a valid torch.export program"),
        (lambda entries: entries.update({"models/model.json": b"[" * 100_000}), "is not a valid torch.export program"),
        (
            lambda entries: entries.update({"data/weights/weight_0": b"123"}),
            "is not a valid torch.export program",
        ),
        (in_text(lambda text: text["schema_version"].update(major=7)), "was written by another version of torch.export"),
        (in_text(lambda text: text["graph_module"]["graph"]["nodes"].pop()), "cannot be run on images"),
        (
            in_text(lambda text: text["graph_module"]["graph"].update(outputs=[])),
            "is not a valid torch.export program",
        ),
    ],
)
def test_a_damaged_program(exported: Path, tmp_path: Path, change: Change, sentence: str) -> None:
    with pytest.raises(PetechiaError, match=sentence):
        open_classifier(rewrite(exported, tmp_path / "m.pt2", change), RUNTIME)


def test_a_compressed_program_could_be_a_bomb(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(PetechiaError, match="m.pt2 is compressed"):
        open_classifier(rewrite(exported, tmp_path / "m.pt2", lambda _: None, zipfile.ZIP_DEFLATED), RUNTIME)
    (tmp_path / "m.pt2").write_bytes(b"no archive")
    with pytest.raises(PetechiaError, match="is not a valid torch.export program"):
        open_classifier(str(tmp_path / "m.pt2"), RUNTIME)


def node(target: str, made: str, **inputs: Any) -> dict[str, Any]:
    """A node of a program; inputs: name → argument as the file states it."""
    return {
        "target": target,
        "inputs": [{"name": name, "arg": value, "kind": 1} for name, value in inputs.items()],
        "outputs": [{"as_tensor": {"name": made}}],
        "metadata": {},
    }


def tensor(name: str) -> dict[str, Any]:
    return {"as_tensor": {"name": name}}


def before_all(*nodes: dict[str, Any]) -> Change:
    """Insert nodes before all others."""
    return in_text(lambda text: text["graph_module"]["graph"]["nodes"].__setitem__(slice(0, 0), nodes))


ATEN = "torch.ops.aten"
IMAGES_IN, WEIGHT = tensor("x"), tensor("p_fc_bias")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (before_all(node(f"{ATEN}.clone.default", "a", self=IMAGES_IN, memory_format={"as_int": 4})), "'memory_format' that"),
        (before_all(node(f"{ATEN}.contiguous.default", "a", self=IMAGES_IN, memory_format={"as_int": 1})), "'memory_format'"),
        (before_all(node(f"{ATEN}._to_copy.default", "a", self=IMAGES_IN, dtype={"as_int": 99})), "'dtype' that is"),
        (before_all(node(f"{ATEN}._to_copy.default", "a", self=IMAGES_IN, dtype=tensor("x"))), "'dtype' that is not allowed"),
        (before_all(node(f"{ATEN}.zeros.default", "a", size={"as_ints": [2**40]})), "'size' that is not allowed"),
        (before_all(node(f"{ATEN}.zeros.default", "a", size={"as_ints": [2**18, 2**18]})), "makes 274,877,906,944 bytes"),
        (before_all(node(f"{ATEN}.to.prim_dtype", "a", self=IMAGES_IN, dtype={"as_int": -1})), "not a form that is"),
        (before_all(node(f"{ATEN}.tensor_split.sections", "a", self=IMAGES_IN, sections={"as_int": 10**6})), "'sections'"),
        (before_all(node(f"{ATEN}.relu.default", "a", other=IMAGES_IN)), "an argument 'other', which it does not have"),
        (before_all(node(f"{ATEN}.gelu.default", "a", self=IMAGES_IN, approximate={"as_string": "x"})), "'approximate'"),
        (before_all(node(f"{ATEN}.add.out", "a", self=IMAGES_IN, other=IMAGES_IN, out=IMAGES_IN)), "not a form that is"),
        (before_all(node(f"{ATEN}.sum.int", "a", self={"as_ints": [1]})), "not a form that is"),
        (before_all(node(f"{ATEN}.repeat_interleave.Tensor", "a", repeats=IMAGES_IN)), "not a form that is"),
        (before_all(node(f"{ATEN}.add_.Tensor", "a", self=WEIGHT, other=WEIGHT)), "changes its own weights"),
        (
            before_all(node(f"{ATEN}.view.default", "a", self=WEIGHT, size={"as_ints": [3, 1]}),
                       node(f"{ATEN}.relu_.default", "b", self=tensor("a"))),
            "changes its own weights",
        ),
        (
            before_all(node(f"{ATEN}.upsample_bilinear2d.default", "a", self=IMAGES_IN, output_size={"as_ints": [9, 9]},
                            align_corners={"as_bool": False}, scales_h={"as_float": 0.001}, scales_w={"as_float": 0.001})),
            "scales_h does not fit the sizes",
        ),
        (
            before_all(node(f"{ATEN}.native_group_norm.default", "a", input=IMAGES_IN, weight={"as_none": True},
                            bias={"as_none": True}, N={"as_int": 64}, C={"as_int": 64}, HxW={"as_int": 4096},
                            group={"as_int": 1}, eps={"as_float": 1e-5})),
            "told of other sizes than its input has",
        ),
        (
            before_all(node(f"{ATEN}.avg_pool2d.default", "a", self=IMAGES_IN, kernel_size={"as_ints": [2, 2]},
                            stride={"as_ints": [65536, 1]})),
            "'stride' that is not allowed",
        ),
        (
            before_all(node(f"{ATEN}._native_batch_norm_legit_no_training.default", "a", input=IMAGES_IN,
                            weight={"as_none": True}, bias=tensor("p_fc_weight"), running_mean=WEIGHT, running_var=WEIGHT,
                            momentum={"as_float": 0.1}, eps={"as_float": 1e-5})),
            "batch norm needs one bias a channel",
        ),
        (
            before_all(*(node("_operator.mul", f"n{k + 1}", a={"as_sym_int": {"as_name": f"n{k}"} if k else {"as_int": 9999}},
                              b={"as_sym_int": {"as_name": f"n{k}"} if k else {"as_int": 9999}}) for k in range(40))),
            "makes a number beyond",
        ),
    ],
)  # fmt: skip
def test_arguments_that_no_schema_allows(exported: Path, tmp_path: Path, change: Change, sentence: str) -> None:
    with pytest.raises(PetechiaError, match=sentence):
        opened(Path(rewrite(exported, tmp_path / "m.pt2", change))).every(PIXELS)


def test_a_program_that_changes_its_images_does_not_change_those_of_others(exported: Path, tmp_path: Path) -> None:
    def change(entries: dict[str, bytes]) -> None:
        before_all(node(f"{ATEN}.mul_.Scalar", "doubled", self=IMAGES_IN, other={"as_float": 2.0}))(entries)

    program = opened(Path(rewrite(exported, tmp_path / "m.pt2", change)))
    images = PIXELS.clone()
    with torch.inference_mode():
        torch.testing.assert_close(program(images), network()(PIXELS * 2))
    assert torch.equal(images, PIXELS)


def test_a_program_that_takes_hours_is_stopped(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [node(f"{ATEN}.zeros.default", "m0", size={"as_ints": [3000, 3000]})]
    steps += [node(f"{ATEN}.mm.default", f"m{k + 1}", self=tensor(f"m{k}"), mat2=tensor(f"m{k}")) for k in range(300)]
    monkeypatch.setenv("PETECHIA_LIMITS", "model_seconds=2")
    budget.cache_clear()
    _workers.cache_clear()
    try:
        with pytest.raises(PetechiaError, match=r"m\.pt2 took longer than 2 seconds"):
            open_classifier(rewrite(exported, tmp_path / "m.pt2", before_all(*steps)), RUNTIME)
    finally:
        budget.cache_clear()
        _workers.cache_clear()


def test_weights_in_an_archive_that_is_compressed_inside(exported: Path, tmp_path: Path) -> None:
    def change(entries: dict[str, bytes]) -> None:
        stored, packed = pickled(network().state_dict()), io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(stored)) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
        entries["data/weights/model.pt"] = packed.getvalue()

    with pytest.raises(PetechiaError, match=r"data/weights/model\.pt in .*m\.pt2 is compressed"):
        opened(Path(rewrite(exported, tmp_path / "m.pt2", change)))


def test_all_allowed_forms_return_tensors_or_sizes() -> None:
    forms = allowed_forms()
    assert len(forms) > 300
    assert "torch.ops.aten.conv2d.default" in forms
    assert not {"torch.ops.aten.add.out", "torch.ops.aten.sum.int", "torch.ops.aten.sum.dim_DimnameList"} & {*forms}
