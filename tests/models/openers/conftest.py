"""Tiny models of others with random weights, as their libraries write them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

CLASSES = ("Atelectasis", "Effusion", "Nothing")
SIDE = 32
VIT = {"image_size": SIDE, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16]}
NETWORKS: dict[str, dict[str, Any]] = {
    "vit": {**VIT, "intermediate_size": 32},
    "deit": {**VIT, "intermediate_size": 32},
    "dinov2": {**VIT},
    "beit": {**VIT, "intermediate_size": 32, "use_relative_position_bias": True},
    "swin": {"image_size": SIDE, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
    "convnext": {**STAGES, "image_size": SIDE},
    "resnet": {**STAGES, "embedding_size": 8, "layer_type": "basic"},
    "mobilenet_v2": {"image_size": SIDE, "depth_multiplier": 0.25, "finegrained_output": False},
}


def write_huggingface(folder: Path, kind: str = "vit", processor: dict[str, Any] | None = None, **settings: Any) -> Any:
    """Write an image classifier of transformers with random weights, and return the network, in evaluation mode."""
    transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
    torch.manual_seed(0)
    names = dict(enumerate(CLASSES))
    stated = NETWORKS[kind] | {"id2label": names, "label2id": {name: k for k, name in names.items()}} | settings
    config = transformers.AutoConfig.for_model(kind, **stated)
    names_of_classes = transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[kind]
    network = getattr(transformers, names_of_classes if isinstance(names_of_classes, str) else names_of_classes[0])(config)
    for one in network.parameters():
        one.data += 0.05 * torch.randn_like(one)  # classifiers start at 0
    network.eval().save_pretrained(folder)
    usual = {"size": {"height": SIDE, "width": SIDE}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]}
    change_json(folder / "preprocessor_config.json", **(usual if processor is None else processor))
    return network


def change_json(path: Path, **values: Any) -> None:
    """Set keys of a JSON file, which is made if there is none."""
    found = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(found | values))


OPEN_CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


def write_open_clip(folder: Path, prompts: str = "class,prompt\nA,an A\nB,a B\n", **settings: Any) -> Any:
    """Write a model of open_clip with random weights, and return the network, in evaluation mode."""
    open_clip = pytest.importorskip("open_clip", reason="the extra clip is not installed")
    torch.manual_seed(0)
    stated = {**OPEN_CLIP, **settings}
    own_tower = stated.get("custom_text") or "hf_model_name" in stated["text_cfg"]
    kind = open_clip.model.CustomTextCLIP if own_tower else open_clip.model.CLIP
    network = kind(**{key: one for key, one in stated.items() if key != "custom_text"}).eval()
    folder.mkdir(exist_ok=True)
    save_file(network.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": stated, "preprocess_cfg": {"mean": [0.5] * 3}}))
    (folder / "prompts.csv").write_text(prompts)
    return network
