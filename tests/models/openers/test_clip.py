"""Models of open_clip with prompts: tiny ones with random weights, compared with what open_clip itself makes of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute
from petechia.data import Preprocess
from petechia.models.openers import clip, open_classifier
from petechia.models.openers.prompts import Prompts
from petechia.saliency import cam
from petechia.saliency.layers import names_of
from petechia.testing import check_opener
from tests.models.openers.conftest import OPEN_CLIP, SIDE, change_json, write_open_clip

RUNTIME = Compute(device="cpu", precision="fp32", threads=1).start()
CONFIG = "open_clip_config.json"
PAIRS = "class,prompt,negative\nPneumonia,pneumonia,no pneumonia\nEffusion,pleural effusion,clear pleura\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_open_clip(tmp_path / "m")
    return tmp_path / "m"


def opened(text: object) -> Any:
    return open_classifier(f"clip:{text}", RUNTIME)


def similarities(folder: Path, images: torch.Tensor, *texts: str) -> torch.Tensor:
    """What open_clip itself says: the scaled similarity of each image and each text."""
    open_clip = pytest.importorskip("open_clip")
    theirs = open_clip.create_model(f"local-dir:{folder}").eval()
    std = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
    with torch.inference_mode():
        logits, _ = theirs.get_logits((images - 0.5) / std, open_clip.get_tokenizer(f"local-dir:{folder}")(list(texts)))
    return torch.as_tensor(logits)


def test_prompts_exclude_each_other(folder: Path) -> None:
    images = torch.rand(3, 3, SIDE, SIDE)
    found = opened(folder)
    assert (found.classes, found.colour) == (("A", "B"), True)
    assert found.preprocess == Preprocess(crop="square", size=SIDE, resample="bicubic")
    wanted = similarities(folder, images, "an A", "a B").softmax(dim=1)
    np.testing.assert_allclose(found.logits(images).sigmoid(), wanted, atol=1e-5)


def test_a_negative_prompt_makes_each_class_a_question_of_its_own(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(PAIRS)
    images = torch.rand(3, 3, SIDE, SIDE)
    found = opened(f"{folder},prompts={tmp_path / 'pairs.csv'}")
    assert found.classes == ("Pneumonia", "Effusion")
    for k, pair in enumerate((("pneumonia", "no pneumonia"), ("pleural effusion", "clear pleura"))):
        wanted = similarities(folder, images, *pair).softmax(dim=1)[:, 0]
        np.testing.assert_allclose(found.logits(images)[:, k].sigmoid(), wanted, atol=1e-5)
    assert found.digest != opened(folder).digest
    assert (found.public_name, opened(folder).public_name) == ("clip:m,prompts=pairs.csv", "clip:m")


def test_a_model_that_was_trained_with_a_sigmoid(tmp_path: Path) -> None:
    network = write_open_clip(tmp_path / "m", init_logit_bias=-2.0)
    assert network.logit_bias is not None
    images = torch.rand(3, 3, SIDE, SIDE)
    wanted = similarities(tmp_path / "m", images, "an A", "a B")
    np.testing.assert_allclose(opened(tmp_path / "m").logits(images), wanted, atol=1e-4)


def test_several_prompts_of_a_class_are_averaged(folder: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    (folder / "prompts.csv").unlink()
    (folder / "prompts.yaml").write_text("A: [an A, the A]\nB: a B\n")
    images = torch.rand(3, 3, SIDE, SIDE)
    theirs = open_clip.create_model(f"local-dir:{folder}").eval()
    head = open_clip.build_zero_shot_classifier(
        theirs, open_clip.get_tokenizer(f"local-dir:{folder}"), ["A"], [lambda name: f"an {name}", lambda name: f"the {name}"]
    )
    with torch.inference_mode():
        std = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
        features = theirs.encode_image((images - 0.5) / std, normalize=True)
        first = theirs.logit_scale.exp() * features @ head
    wanted = torch.cat([first, similarities(folder, images, "a B")], dim=1).softmax(dim=1)
    np.testing.assert_allclose(opened(folder).logits(images).sigmoid(), wanted, atol=1e-5)


def test_image_towers_of_timm_and_a_resnet(tmp_path: Path) -> None:
    images = torch.rand(2, 3, 64, 64)
    towers: dict[str, dict[str, Any]] = {
        "timm": {"timm_model_name": "test_resnet", "image_size": 64, "timm_pool": "avg", "timm_proj": "linear"},
        "resnet": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 8, "image_size": 64},
    }
    for name, tower in towers.items():
        write_open_clip(tmp_path / name, vision_cfg=tower, custom_text=name == "timm")
        wanted = similarities(tmp_path / name, images, "an A", "a B").softmax(dim=1)
        np.testing.assert_allclose(opened(tmp_path / name).logits(images).sigmoid(), wanted, atol=1e-5)


def test_it_passes_the_suite_and_has_heat(folder: Path) -> None:
    found = check_opener(f"clip:{folder}", runtime=RUNTIME)
    network, images = found.require_network(), torch.rand(2, 3, SIDE, SIDE)
    assert names_of(network, images) == {"last": "visual.transformer.resblocks.1.ln_1"}
    assert cam(network, images, targets=1)["last"].shape == (2, 4, 4)


def test_a_text_tower_and_a_tokenizer_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "m"
    folder.mkdir()
    write_bert(folder)
    tower = {
        "hf_model_name": str(folder / "text"),
        "hf_tokenizer_name": "org/bert",
        "hf_proj_type": "linear",
        "hf_pooler_type": "mean_pooler",
    }
    write_open_clip(folder, text_cfg={**tower, "context_length": 16, "hf_model_pretrained": False})
    images = torch.rand(2, 3, SIDE, SIDE)
    wanted = similarities(folder, images, "an A", "a B").softmax(dim=1)
    change_text(folder, hf_model_name="org/bert")
    with pytest.raises(PetechiaError, match="org/bert is not available .* put its config.json into .* as text_config.json"):
        opened(folder)
    (folder / "text_config.json").write_text((folder / "text" / "config.json").read_text())
    np.testing.assert_allclose(opened(folder).logits(images).sigmoid(), wanted, atol=1e-5)
    change_json(folder / "text_config.json", auto_map={"AutoModel": "evil.Model"})
    with pytest.raises(PetechiaError, match="asks for code of its own"):
        opened(folder)
    change_json(folder / "text_config.json", auto_map=None)
    change_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", None]})
    with pytest.raises(PetechiaError, match="tokenizer of .* asks for code of its own"):
        opened(folder)
    for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(PetechiaError, match="put the files of its tokenizer"):
        opened(folder)


def write_bert(folder: Path) -> None:
    """A tiny text tower and its tokenizer."""
    transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "an", "b"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=32, **size)
    config.save_pretrained(folder / "text")


def change_text(folder: Path, **values: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    config["model_cfg"]["text_cfg"] |= values
    (folder / CONFIG).write_text(json.dumps(config))


def change_vision(folder: Path, **values: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    config["model_cfg"]["vision_cfg"] |= values
    (folder / CONFIG).write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("text", "vision", "sentence"),
    [
        ({"tokenizer_kwargs": {"trust_remote_code": True}}, {}, "sets trust_remote_code for the tokenizer"),
        ({"tokenizer_kwargs": {"bpe_path": "/etc/passwd"}}, {}, "sets bpe_path for the tokenizer"),
        ({"tokenizer_kwargs": ["clean"]}, {}, "has tokenizer_kwargs that are no object"),
        ({"tokenizer_kwargs": 5}, {}, "has tokenizer_kwargs that are no object"),
        ({"hf_model_name": "../../evil"}, {}, "is no name of a model of the Hugging Face hub"),
        ({"hf_tokenizer_name": "/etc"}, {}, "is no name of a model of the Hugging Face hub"),
        ({"vocab_size": 400_000}, {}, "describes a network of"),
        ({"context_length": 50_000}, {}, "makes a value of"),
        ({"context_length": "long"}, {}, "no network that can be built|context_length"),
        ({"layers": 900_000}, {}, "has more than [0-9,]+ parts"),
        ({"vocab_size": 100}, {}, "have other shapes"),
        ({}, {"timm_model_name": "hf-hub:evil/model"}, "which timm does not know"),
        ({}, {"timm_model_name": ["resnet18"]}, "which timm does not know"),
        ({}, {"width": 100_000, "head_width": 50_000}, "describes a network of"),
        ({}, {"patch_size": 0}, "no network that can be built"),
        ({}, {"evil": 1}, "no network that can be built"),
        ({}, {"image_size": [32, 64]}, "have other shapes"),
    ],
)
def test_settings_that_lie_or_fetch_are_refused(text: Any, vision: Any, sentence: str, folder: Path) -> None:
    change_text(folder, **text)
    change_vision(folder, **vision)
    with pytest.raises(PetechiaError, match=sentence) as raised:
        opened(folder)
    assert str(raised.value).endswith(".")


def test_files_that_are_not_those_of_a_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = load_file(folder / "open_clip_model.safetensors")
    save_file({name: one for name, one in weights.items() if name != "visual.proj"}, folder / "open_clip_model.safetensors")
    with pytest.raises(PetechiaError, match="do not fit its open_clip_config.json: they lack visual.proj"):
        opened(folder)
    save_file({**weights, "evil": torch.zeros(3)}, folder / "open_clip_model.safetensors")
    with pytest.raises(PetechiaError, match="the network has no evil"):
        opened(folder)
    (folder / CONFIG).write_text(json.dumps({"model_cfg": {**OPEN_CLIP, "multimodal_cfg": {}}}))
    with pytest.raises(PetechiaError, match="describes a CoCa"):
        opened(folder)
    (folder / CONFIG).write_text("{}")
    with pytest.raises(PetechiaError, match="lacks model_cfg"):
        opened(folder)
    save_file(weights, folder / "open_clip_model.safetensors")
    (folder / CONFIG).write_text(json.dumps({"model_cfg": OPEN_CLIP, "preprocess_cfg": {"interpolation": ["bicubic"]}}))
    with pytest.raises(PetechiaError, match=r"interpolation \['bicubic'\]"):
        opened(folder)
    (folder / CONFIG).write_text(json.dumps({"model_cfg": OPEN_CLIP}))
    (folder / "open_clip_model.safetensors").rename(folder / "open_clip_pytorch_model.bin")
    with pytest.raises(PetechiaError, match="weights in open_clip_pytorch_model.bin, a pickle"):
        opened(folder)
    (folder / "prompts.csv").unlink()
    with pytest.raises(PetechiaError, match=r"has no prompts.csv or prompts.yaml, .* or give clip:.*,prompts=FILE"):
        opened(folder)
    monkeypatch.setattr(clip, "find_spec", lambda _: None)
    with pytest.raises(PetechiaError, match="needs open_clip; install it with pip install 'petechia.clip.'"):
        opened(folder)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("p.csv", "class,text\nA,a\n", "has the columns class, text, not class, prompt, negative"),
        ("p.csv", "class,prompt,negative\nA,a,no a\nB,b,\n", "negative ones for some classes only"),
        ("p.csv", "class,prompt\nA,a\n", "has one class, A, and nothing to compare it with"),
        ("p.csv", "class,prompt\n,a\nB,b\n", "a class without a name"),
        ("p.csv", f"class,prompt\nA,{'a' * 2001}\nB,b\n", "more than 2,000 characters"),
        ("p.csv", "class,prompt\n" + "".join(f"c{k},x\n" for k in range(1001)), "has 1,001 classes"),
        ("p.yaml", "[a, b]", "has no classes"),
        ("p.yaml", "A: {positive: a}", "other keys than prompt and negative"),
        ("p.yaml", "A: 3\nB: b", "a prompt that is no text"),
        ("p.yaml", "A: [", "is not YAML"),
        ("p.yaml", "A: a\nA: b", "is not YAML"),
        ("p.yaml", "", "has no classes"),
    ],
)
def test_prompts_that_cannot_be_used(name: str, content: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(PetechiaError, match=sentence):
        Prompts.read(tmp_path / name)


def test_prompts_are_the_same_as_csv_and_yaml(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("class,prompt,negative\nA,an A,no A\nA,the A,\nB,a B,no B\n")
    (tmp_path / "p.yaml").write_text("A: {prompt: [an A, the A], negative: no A}\nB: {prompt: a B, negative: no B}\n")
    wanted = Prompts(("A", "B"), (("an A", "the A"), ("a B",)), (("no A",), ("no B",)))
    assert Prompts.read(tmp_path / "p.csv") == Prompts.read(tmp_path / "p.yaml") == wanted
