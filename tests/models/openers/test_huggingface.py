"""Image classifiers of Hugging Face: tiny ones with random weights, compared with what transformers itself makes of them."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import petechia
from petechia.core.budget import budget
from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute
from petechia.data import Preprocess
from petechia.models.openers import huggingface, open_classifier
from petechia.saliency import cam
from petechia.saliency.layers import names_of
from petechia.testing import check_opener
from tests.models.openers.conftest import CLASSES, NETWORKS, SIDE, change_json, write_huggingface

RUNTIME = Compute(device="cpu", precision="fp32", threads=1).start()
RNG = np.random.default_rng(0)
CONFIG = "config.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_huggingface(tmp_path / "vit")
    return tmp_path / "vit"


def opened(folder: Path) -> Any:
    return open_classifier(f"hf:{folder}", RUNTIME)


@pytest.mark.parametrize("kind", NETWORKS)
def test_probabilities_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
    write_huggingface(tmp_path / "m", kind)
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "m").eval()
    processor = transformers.ViTImageProcessor.from_pretrained(tmp_path / "m")
    images = [Image.fromarray(RNG.integers(0, 256, (40, 48, 3), np.uint8)) for _ in range(3)]
    with torch.inference_mode():
        wanted = theirs(processor(images, return_tensors="pt").pixel_values).logits.softmax(dim=1)
    found = opened(tmp_path / "m")
    assert found.classes == CLASSES
    ours = found.logits(np.stack([found.prepare(np.asarray(one)) for one in images])).sigmoid()
    np.testing.assert_allclose(ours, wanted, atol=2e-3)  # images are rounded to whole grey levels after the resizing
    prepared = torch.rand(3, 3, SIDE, SIDE)
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in ([0.5, 0.4, 0.3], [0.2, 0.25, 0.3]))
    with torch.inference_mode():
        exactly = theirs((prepared - mean) / std).logits.softmax(dim=1)
    np.testing.assert_allclose(found.logits(prepared).sigmoid(), exactly, atol=1e-5)


def test_it_passes_the_suite(folder: Path) -> None:
    check_opener(f"hf:{folder}", runtime=RUNTIME)


@pytest.mark.parametrize(
    ("kind", "last", "middle"),
    [
        ("vit", "vit.layers.1.layernorm_before", None),  # all maps of a ViT have one size
        ("convnext", "convnext.encoder.stages.3", "convnext.encoder.stages.2"),
        ("resnet", "resnet.encoder.stages.3", "resnet.encoder.stages.2"),
    ],
)
def test_heat_has_layers(kind: str, last: str, middle: str | None, tmp_path: Path) -> None:
    side = 64
    write_huggingface(
        tmp_path / "m", kind, {"size": {"height": side, "width": side}}, **({"image_size": side} if kind == "vit" else {})
    )
    network = opened(tmp_path / "m").require_network()
    images = torch.rand(2, 3, side, side)
    names = names_of(network, images)
    assert names == {"last": last} | ({"middle": middle} if middle else {})
    maps = cam(network, images, targets=1)
    assert {layer: tuple(one.shape) for layer, one in maps.items()} == (
        {"last": (2, 8, 8)} if kind == "vit" else {"last": (2, 2, 2), "middle": (2, 4, 4)}
    )
    assert all(float(one.max()) > 0 for one in maps.values())


def test_an_audit_takes_it(tmp_path: Path) -> None:
    names = dict(enumerate("abcdef"))  # few classes take longer
    write_huggingface(tmp_path / "m", processor={"size": 8}, image_size=8, patch_size=4, num_hidden_layers=1, id2label=names)
    result = petechia.audit(f"hf:{tmp_path / 'm'}", "phantom:images=40,size=16", images=20, quick=True, device="cpu")
    assert {one.name for one in result.classes} == set(names.values())
    assert result.model.name == "hf:m"
    assert str(tmp_path) not in result.to_json()
    assert result.model.sha256 == opened(tmp_path / "m").digest
    assert not result.model.black_box


def test_a_screen_takes_it(tmp_path: Path) -> None:
    write_huggingface(tmp_path / "m", "resnet", processor={"size": 16})
    model, clean = f"hf:{tmp_path / 'm'}", "phantom:images=40,size=16"
    assert len(petechia.screen(model, "phantom:images=4,size=16,seed=1", clean, fpr=0.1, device="cpu").findings) == 4


def test_the_digest_changes_with_every_file_that_counts(folder: Path) -> None:
    digests = {opened(folder).digest}
    change_json(folder / CONFIG, problem_type="multi_label_classification")
    digests.add(opened(folder).digest)
    change_json(folder / "preprocessor_config.json", image_mean=[0.1, 0.1, 0.1])
    digests.add(opened(folder).digest)
    (folder / "petechia.json").write_text("{}")
    digests.add(opened(folder).digest)
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"] += 1
    save_file(weights, folder / "model.safetensors")
    digests.add(opened(folder).digest)
    assert len(digests) == 5
    assert None not in digests


def test_the_task_is_that_of_the_configuration(folder: Path) -> None:
    images = torch.rand(4, 3, SIDE, SIDE)
    exclusive = opened(folder).logits(images)
    change_json(folder / CONFIG, problem_type="multi_label_classification")
    each = opened(folder).logits(images)
    np.testing.assert_allclose(exclusive.sigmoid().sum(dim=1), 1, atol=1e-5)
    np.testing.assert_allclose(exclusive.sigmoid(), each.softmax(dim=1), atol=1e-5)
    change_json(folder / CONFIG, problem_type="regression")
    with pytest.raises(PetechiaError, match="problem_type 'regression'; only single_label_classification or multi_label"):
        opened(folder)


def test_petechia_json_corrects_the_files(folder: Path) -> None:
    card = {
        "classes": ["x", "y", "z"],
        "task": "multi-label",
        "preprocess": {"crop": 0.9, "resample": "nearest"},
        "mean": [0.2],
    }
    (folder / "petechia.json").write_text(json.dumps(card))
    found = opened(folder)
    assert found.classes == ("x", "y", "z")
    assert found.preprocess == Preprocess(crop=0.9, size=SIDE, resample="nearest")
    (folder / "petechia.json").write_text('{"classes": ["x"]}')
    with pytest.raises(PetechiaError, match="names 1 classes, but its network returns"):
        opened(folder)


@pytest.mark.parametrize("number", [torch.bfloat16, torch.float16])
def test_half_precision_and_parts_are_read(number: torch.dtype, tmp_path: Path) -> None:
    network = write_huggingface(tmp_path / "whole").to(number)
    network.save_pretrained(tmp_path / "parts", max_shard_size="8KB")
    change_json(tmp_path / "parts" / "preprocessor_config.json", size=SIDE, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    assert json.loads((tmp_path / "parts" / CONFIG).read_text())["dtype"] == str(number).removeprefix("torch.")
    images = torch.rand(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        wanted = network.float()((images - 0.5) / 0.5).logits.softmax(dim=1)
    np.testing.assert_allclose(opened(tmp_path / "parts").logits(images).sigmoid(), wanted, atol=1e-5)


def test_without_a_preprocessor_the_images_are_not_normalised(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "preprocessor_config.json").unlink()
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    images = torch.rand(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        wanted = theirs(images).logits.softmax(dim=1)
    np.testing.assert_allclose(opened(folder).logits(images).sigmoid(), wanted, atol=1e-5)
    assert "not normalised; set mean and std in petechia.json" in caplog.text


def test_names_that_several_classes_share_get_their_number(folder: Path) -> None:
    change_json(folder / CONFIG, id2label={"0": "crane", "1": "crane", "2": "<b>other</b>"}, label2id={})
    assert opened(folder).classes == ("crane (0)", "crane (1)", "<b>other</b>")
    change_json(folder / CONFIG, id2label={"0": "a", "1": "a", "2": "a (0)"})
    assert opened(folder).classes == ("class 0", "class 1", "class 2")


def test_blue_first(tmp_path: Path) -> None:
    usual = {"size": SIDE, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    write_huggingface(tmp_path / "m", processor=usual)
    images = torch.rand(2, 3, SIDE, SIDE)
    before = opened(tmp_path / "m").logits(images.flip(1))
    change_json(tmp_path / "m" / "preprocessor_config.json", do_flip_channel_order=True)
    np.testing.assert_allclose(opened(tmp_path / "m").logits(images), before, atol=1e-5)


def test_grey_images(tmp_path: Path) -> None:
    processor = {"size": SIDE, "image_mean": [0.5], "image_std": [0.5]}
    write_huggingface(tmp_path / "m", processor=processor, num_channels=1)
    found = opened(tmp_path / "m")
    assert not found.colour
    assert found.logits(torch.rand(2, 1, SIDE, SIDE)).shape == (2, 3)


# What is refused


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


Change = Callable[[Path], None]


def with_config(**values: Any) -> Change:
    return lambda folder: change_json(folder / CONFIG, **values)


def with_file(name: str, content: str) -> Change:
    def write(folder: Path) -> None:
        (folder / name).write_text(content)

    return write


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch evil'\ntR.")


def linked_out(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    (folder / "model.safetensors").symlink_to(folder.parent / "elsewhere.safetensors")


def index(**places: str) -> Change:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder.parent / "x.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))

    return write


def other_weights(**shapes: tuple[int, ...]) -> Change:
    def write(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        for name, shape in shapes.items():
            weights[name.replace("__", ".")] = torch.zeros(shape)
        save_file(weights, folder / "model.safetensors")

    return write


def without_weight(name: str) -> Change:
    def write(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        del weights[name]
        save_file(weights, folder / "model.safetensors")

    return write


def crowded(folder: Path) -> None:
    """Write a file of many tensors without a byte."""
    header = json.dumps({str(one): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for one in range(60_000)}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)


def truncated(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (with_config(auto_map={"AutoConfig": "evil.Config"}), r"asks for code of its own, which is never run \(auto_map\)"),
        (with_config(quantization_config={"quant_method": "gptq"}), r"quantised weights; .* \(quantization_config\)"),
        (with_config(use_timm_backbone=True), "a network inside the network"),
        (with_config(vision_config={"auto_map": {"AutoModel": "evil.Model"}}), "code of its own"),
        (with_config(hidden_size=1_000_000_000), "contains the number 1000000000, larger than that of any model"),
        (with_config(hidden_size=100_000), r"describes a network of [\d,]+ weights, but its files hold [\d,]+"),
        (with_config(num_hidden_layers=900_000), "has more than [0-9,]+ parts, far more than its weights"),
        (with_config(depths=[900_000] * 20), "numbers that add up to"),
        (with_config(image_size=900_000, patch_size=1), "describes a network of|has sides|takes images of"),
        (with_config(hidden_size="wide"), "cannot be used|no network that can be built"),
        (with_config(num_attention_heads=5), "do not fit its config.json: .* other shapes"),
        (with_config(num_channels=5), "has the num_channels 5"),
        (with_config(model_type="llama", architectures=["LlamaForCausalLM"]), "describes 'LlamaForCausalLM', which is no"),
        (with_config(architectures=["ViTModel"]), "describes 'ViTModel', which is no image classifier"),
        (with_config(architectures=["Trainer"]), "describes 'Trainer', which is no image classifier"),
        (with_config(model_type="__class__", architectures=None), "describes '__class__', which is no image classifier"),
        (with_config(model_type=["vit"], architectures=None), "which is no image classifier"),
        (with_config(model_type="imagegpt", architectures=None), "describes 'imagegpt', which is no image classifier"),
        (with_config(id2label={"5": "a", "7": "b", "9": "c"}), "does not number its classes from 0"),
        (with_config(id2label={"0": "a", "1": "b"}), "do not fit its config.json: .* other shapes"),
        (with_config(image_size=[32, 64]), "do not fit its config.json: .* other shapes|does not take images of"),
        (with_file(CONFIG, nested(50_000)), "nested too deeply"),
        (with_file(CONFIG, nested(40)), "nested too deeply"),
        (with_file(CONFIG, "[1, 2]"), "is not a JSON object"),
        (with_file(CONFIG, "{"), "config.json cannot be read"),
        (with_file(CONFIG, '{"a": ' + "9" * 5000 + "}"), "config.json cannot be read"),
        (with_file("preprocessor_config.json", '{"size": {"height": 32, "width": 64}}'), "only square images"),
        (with_file("preprocessor_config.json", '{"size": 64}'), "does not take images of"),
        (with_file("preprocessor_config.json", '{"size": 900000}'), "preprocess.size: Input should be less than"),
        (with_file("preprocessor_config.json", '{"size": "x"}'), "preprocessor_config.json cannot be used"),
        (pickled, r"weights in pytorch_model.bin, a pickle, which can run arbitrary code .* save_pretrained writes"),
        (linked_out, "leads out of its folder"),
        (index(a="../x.safetensors"), "names a file '../x.safetensors', which is not in that folder"),
        (index(a="/etc/passwd.safetensors"), "which is not in that folder"),
        (index(a="x.bin"), "names 'x.bin', not a few safetensors files"),
        (index(a="missing.safetensors"), "has no missing.safetensors"),
        (index(), "lists no files with weights"),
        (without_weight("vit.embeddings.cls_token"), r"do not fit its config.json: they lack vit.embeddings.cls_token"),
        (other_weights(classifier__weight=(4, 16), classifier__bias=(4,)), "other shapes"),
        (with_config(problem_type=["x"]), r"has the problem_type \['x'\]"),
        (crowded, "has 60,000 tensors, far more than any model"),
        (truncated, "is not a valid safetensors file"),
        (lambda folder: (folder / CONFIG).unlink(), "has no config.json, so it is not an image classifier of Hugging Face"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
    ],
)  # fmt: skip
def test_a_folder_that_lies_is_refused_in_a_sentence(change: Change, sentence: str, folder: Path) -> None:
    change(folder)
    before = sorted(folder.iterdir())
    with pytest.raises(PetechiaError, match=sentence) as raised:
        opened(folder)
    assert str(raised.value).endswith(".")
    assert sorted(folder.iterdir()) == before


def test_further_weights_are_left_out_and_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = opened(folder).logits(torch.ones(1, 3, SIDE, SIDE))
    other_weights(vit__pooler__dense__weight=(16, 16))(folder)
    assert torch.equal(opened(folder).logits(torch.ones(1, 3, SIDE, SIDE)), before)
    assert "vit.pooler.dense.weight is not part of the network and was left out" in caplog.text


def test_a_value_that_is_too_large_is_refused_before_it_is_computed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETECHIA_LIMITS", "model_value=2000")
    budget.cache_clear()
    try:
        with pytest.raises(PetechiaError, match="makes a value of [0-9,]+ bytes an image, and the maximum is 2,000"):
            opened(folder)
    finally:
        monkeypatch.undo()
        budget.cache_clear()


def test_settings_that_would_fetch_code_have_no_effect(folder: Path) -> None:
    images = torch.rand(2, 3, SIDE, SIDE)
    before = opened(folder).logits(images)
    strange = {"_attn_implementation": "evil/kernels", "attn_implementation": "evil/kernels", "return_dict": False}
    change_json(folder / CONFIG, **strange, output_attentions=True, _name_or_path="evil/model", dtype="float64")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/model"}')
    assert torch.equal(opened(folder).logits(images), before)


def test_a_missing_library_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "find_spec", lambda _: None)
    for model in (f"hf:{folder}", "hf:org/name"):
        with pytest.raises(PetechiaError, match=f"{model} needs transformers; install it with pip install 'petechia.hf.'"):
            open_classifier(model, RUNTIME)


def test_what_is_neither_a_folder_nor_a_name(tmp_path: Path) -> None:
    for text in ("/no/such/model", "", "name", "a/b/c", "../x", "org/..", f"{tmp_path}/nothing", "o/n\x1b[31m"):
        with pytest.raises(PetechiaError, match="There is no folder .*; give hf:FOLDER, or hf:ORG/NAME"):
            open_classifier(f"hf:{text}", RUNTIME)


# The hub


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of the hub with a model, in its layout: snapshots of links to blobs."""
    constants = pytest.importorskip("huggingface_hub", reason="the extra hf is not installed").constants
    write_huggingface(tmp_path / "m")
    repository, commit = tmp_path / "hub" / "models--org--name", "0" * 40
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for folder in ("blobs", "refs"):
        (repository / folder).mkdir()
    (repository / "refs" / "main").write_text(commit)
    for number, file in enumerate(sorted((tmp_path / "m").iterdir())):
        file.rename(repository / "blobs" / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return snapshot


def test_a_cached_model_of_the_hub_is_opened_without_a_network(cache: Path) -> None:
    found = open_classifier("hf:org/name", RUNTIME)
    assert found.name == "hf:org/name"
    pinned = open_classifier(f"hf:org/name@{cache.name}", RUNTIME)
    assert pinned.digest == found.digest == opened(cache).digest  # the snapshot's own folder, whose links lead to blobs


def test_a_link_out_of_the_cache_is_refused(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes((cache / "model.safetensors").read_bytes())
    (cache / "model.safetensors").unlink()
    (cache / "model.safetensors").symlink_to(tmp_path / "secret")
    with pytest.raises(PetechiaError, match="leads out of its folder"):
        open_classifier("hf:org/name", RUNTIME)


@pytest.mark.parametrize("name", ["org/other", "org/name@v2"])
def test_a_model_that_is_not_cached_needs_a_network(name: str, cache: Path) -> None:
    with pytest.raises(PetechiaError, match=rf"{name} is not available from the hub .*give hf:FOLDER, a folder with the files"):
        open_classifier(f"hf:{name}", RUNTIME)
    assert sorted(cache.parent.iterdir()) == [cache]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"pytorch_model.bin": 1}, "has no .*safetensors on the hub, only pytorch_model.bin, a pickle"),
        ({"model.safetensors": 20 << 30}, "has 21,474,836,480 bytes on the hub, and the maximum is"),
    ],
)
def test_a_model_of_the_hub_is_refused_before_it_is_downloaded(
    files: dict[str, int], sentence: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")

    told = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name, size=size) for name, size in files.items()])
    monkeypatch.setattr(hub.HfApi, "model_info", lambda *_, **__: told)
    with pytest.raises(PetechiaError, match=sentence):
        open_classifier("hf:org/other", RUNTIME)


# Networks of timm on the hub


def test_a_folder_of_timm(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=2).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    told = {
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.25, 0.3],
        "input_size": [3, 64, 64],
        "crop_pct": 0.9,
        "interpolation": "bicubic",
    }
    change_json(tmp_path / CONFIG, architecture="test_resnet", num_classes=2, pretrained_cfg=told, label_names=["a", "b"])
    found = opened(tmp_path)
    assert (found.classes, found.preprocess) == (("a", "b"), Preprocess(crop=0.9, size=64, resample="bicubic"))
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        mean, std = (torch.tensor(told[key]).view(3, 1, 1) for key in ("mean", "std"))
        wanted = network((images - mean) / std).softmax(dim=1)
    np.testing.assert_allclose(found.logits(images).sigmoid(), wanted, atol=1e-5)
    for name in ("hf_hub:evil/model", "test_resnet.evil", "../x"):
        change_json(tmp_path / CONFIG, architecture=name)
        with pytest.raises(PetechiaError, match="timm does not know a network"):
            opened(tmp_path)
    change_json(tmp_path / CONFIG, architecture="test_resnet", pretrained_cfg={"input_size": [3, 64, "x"]})
    with pytest.raises(PetechiaError, match="cannot be used"):
        opened(tmp_path)
    for key, value in (("input_size", 64), ("input_size", {"a": 1, "b": 2, "c": 3}), ("label_names", 5), ("label_names", "ab")):
        change_json(tmp_path / CONFIG, pretrained_cfg={}, label_names=None)
        change_json(tmp_path / CONFIG, **({key: value} if key == "label_names" else {"pretrained_cfg": {key: value}}))
        with pytest.raises(PetechiaError, match=rf"has the {key} .*, which is no list"):
            opened(tmp_path)
