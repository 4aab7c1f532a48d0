"""Models of open_clip as zero-shot classifiers: prompts are the classes.

The text tower reads the prompts once, when the model is opened. What remains is the image tower with a linear layer of the
texts' embeddings.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from petechia.core.budget import check, read_file
from petechia.core.errors import PetechiaError, first_line, listing, printable, shown
from petechia.core.files import expand_home
from petechia.core.runtime import Runtime
from petechia.models.classifier import Classifier
from petechia.models.openers.adapter import InputSpec, classifier_of
from petechia.models.openers.card import CARD, Card
from petechia.models.openers.claims import run_without_data, without_memory
from petechia.models.openers.folder import ModelFolder, Shapes, Weights
from petechia.models.openers.hub import snapshot
from petechia.models.openers.prompts import Prompts

LOGGER = logging.getLogger(__name__)
CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")
PROMPTS = ("prompts.csv", "prompts.yaml")
TEXT_CONFIG = "text_config.json"  # of a text tower of Hugging Face
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
TOKENIZER = (*VOCABULARIES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
TOKENIZER_SETTINGS = {"clean", "strip_sep_token", "language"}  # others reach code that opens paths, or runs code
FILTERS = {"bicubic": "bicubic", "bilinear": "bilinear", "random": "bicubic"}
OPENAI = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
UNUSED = re.compile(r"text\.transformer\.embeddings\.position_ids")  # older versions of transformers wrote them
AT_ONCE = 64  # prompts
NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


class ZeroShot(nn.Module):
    """The image tower with a linear layer on its normalised features: float32 [B, 3, H, W] → [B, K].

    Attributes:
        visual: the image tower.
        head: one row a class.
    """

    def __init__(self, visual: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.visual, self.head = visual, head

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores."""
        scores: Tensor = self.head(functional.normalize(self.visual(images).float(), dim=-1))
        return scores


def open_clip_model(text: str, runtime: Runtime) -> Classifier:
    """A FOLDER of open_clip, with prompts.csv or prompts.yaml in it, or FOLDER,prompts=FILE.

    A class with a negative prompt gets the difference of the two similarities as its logit, and the model is multi-label.
    Without negative prompts, the classes exclude each other, unless the model was trained with a sigmoid (SigLIP).

    Raises:
        PetechiaError: open_clip is not installed; or the folder is no model of it, has pickled weights, describes another
            network than its weights are of, or lies about sizes; or there are no prompts; or a tokenizer is not available.
    """
    place, option, file = (text, "", "") if expand_home(text).is_dir() else text.rpartition(",prompts=")
    folder = ModelFolder(expand_home(place if option else text), "a model of open_clip")
    if find_spec("open_clip") is None:
        raise PetechiaError(f"clip:{text} needs open_clip; install it with pip install 'petechia[clip]'.")
    config = folder.json(CONFIG)
    path = _prompts_of(folder, file)
    prompts = Prompts.read(path)
    weights = folder.weights(*WEIGHTS)
    with TemporaryDirectory() as private:
        settings = _settings(config, folder, Path(private))
        network, head = _towers(settings, prompts, weights, folder, Path(private))
    classifier = _classifier(text, folder, config, weights, ZeroShot(network, head), prompts, runtime, path)
    return replace(classifier, title=f"clip:{folder.path.resolve().name}" + (f",prompts={path.name}" if file else ""))


def _prompts_of(folder: ModelFolder, file: str) -> Path:
    if file:
        return expand_home(file)
    found = [name for name in PROMPTS if folder.has(name)]
    if not found:
        raise PetechiaError(
            f"{folder.path} has no {' or '.join(PROMPTS)}, which say what the classes are; write one, or give "
            f"clip:{folder.path},prompts=FILE."
        )
    return folder.file(found[0])


def _settings(config: Mapping[str, Any], folder: ModelFolder, private: Path) -> dict[str, Any]:
    """Return the settings of the network, without whatever would fetch or open something else."""
    path = folder.file(CONFIG)
    found = config.get("model_cfg")
    vision, text = (found.get(key) if isinstance(found, dict) else None for key in ("vision_cfg", "text_cfg"))
    if not isinstance(found, dict) or not isinstance(vision, dict) or not isinstance(text, dict):
        raise PetechiaError(f"{path} lacks model_cfg with vision_cfg and text_cfg; restore it.")
    if "multimodal_cfg" in found:
        raise PetechiaError(f"{path} describes a CoCa, which writes text; only models with two towers are opened.")
    name = vision.get("timm_model_name")
    if name is not None and not (isinstance(name, str) and ":" not in name and timm.is_model(name.partition(".")[0])):
        raise PetechiaError(f"{path} names {shown(name)}, which timm does not know; restore it.")
    given = text.get("tokenizer_kwargs") or {}
    if not isinstance(given, dict):
        raise PetechiaError(f"{path} has tokenizer_kwargs that are no object; restore it.")
    strange = sorted(given.keys() - TOKENIZER_SETTINGS)
    if strange:
        raise PetechiaError(f"{path} sets {listing(strange)} for the tokenizer, which is not read from strangers; remove it.")
    vision = {**vision, "timm_model_pretrained": False, "output_tokens": False}
    text = {**text, "output_tokens": False}
    if text.get("hf_model_name"):
        _write_text_config(str(text["hf_model_name"]), folder, private)
        text |= {"hf_model_name": str(private), "hf_model_pretrained": False}
    return {**found, "vision_cfg": vision, "text_cfg": text}


def _write_text_config(name: str, folder: ModelFolder, private: Path) -> None:
    """Write the configuration of a text tower of Hugging Face, without code, into a private folder."""
    if folder.has(TEXT_CONFIG):
        config = folder.json(TEXT_CONFIG)
    else:
        offline = f"put its config.json into {folder.path} as {TEXT_CONFIG}"
        config = ModelFolder(_of_hub(name, ("config.json",), "config.json", offline), "a text tower").json("config.json")
    if config.get("auto_map"):
        raise PetechiaError(f"The text tower {printable(name)} asks for code of its own, which is never run (auto_map).")
    (private / "config.json").write_text(json.dumps({key: one for key, one in config.items() if key != "auto_map"}))


def _of_hub(name: str, patterns: Sequence[str], needed: str, offline: str) -> Path:
    if not NAME.fullmatch(name) or ".." in name:
        raise PetechiaError(f"{shown(name)} is no name of a model of the Hugging Face hub; correct {CONFIG}.")
    return snapshot(name, "", patterns, needed, offline)


def _towers(
    settings: Mapping[str, Any], prompts: Prompts, weights: Weights, folder: ModelFolder, private: Path
) -> tuple[nn.Module, nn.Linear]:
    """Return the image tower, and the linear layer that the text tower makes of the prompts."""
    described = str(folder.file(CONFIG))
    hollow: Any = without_memory(lambda: _built(settings), weights, described)
    _refuse_other_weights(hollow.state_dict(), weights.shapes, folder.path)
    side = hollow.visual.image_size
    sides = side if isinstance(side, (tuple, list)) else (side, side)
    run_without_data(hollow.visual, torch.empty(1, 3, *sides, device="meta"), described)
    tokens = _tokens(settings["text_cfg"], prompts, folder, private)

    network: Any = _built(settings).eval()
    wanted = network.state_dict()
    stored = {name: one for name, one in weights.read().items() if not UNUSED.fullmatch(name)}
    network.load_state_dict({name: one.reshape(wanted[name].shape) for name, one in stored.items()})
    try:
        with torch.no_grad():
            texts = torch.cat([network.encode_text(some, normalize=True).float() for some in torch.split(tokens, AT_ONCE)])
            scale, bias = network.logit_scale.exp().float().squeeze(), getattr(network, "logit_bias", None)
            return network.visual, _head(texts, prompts, scale, None if bias is None else bias.float().squeeze())
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise PetechiaError(f"The text tower of {folder.path} cannot read the prompts ({first_line(error)}).") from None


def _built(settings: Mapping[str, Any]) -> nn.Module:
    from open_clip.model import CLIP, CustomTextCLIP

    own_tower = settings.get("custom_text") or settings["text_cfg"].get("hf_model_name")
    made: nn.Module = (CustomTextCLIP if own_tower else CLIP)(
        **{key: one for key, one in settings.items() if key != "custom_text"}
    )
    return made


def _refuse_other_weights(wanted: Mapping[str, Tensor], found: Shapes, path: Path) -> None:
    missing, more = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    other = [name for name in wanted.keys() & found.keys() if _solid(wanted[name].shape) != _solid(found[name])]
    more = [name for name in more if not UNUSED.fullmatch(name)]
    for names, what in ((missing, "they lack {}"), (more, "the network has no {}"), (sorted(other), "{} have other shapes")):
        if names:
            raise PetechiaError(f"The weights of {path} do not fit its {CONFIG}: {what.format(listing(names, 3))}.")


def _solid(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without sides of 1 at its end: a scale may be a number, or a list of one."""
    return () if tuple(shape) == (1,) else tuple(shape)


def _tokens(text: Mapping[str, Any], prompts: Prompts, folder: ModelFolder, private: Path) -> Tensor:
    """Return the tokens of all prompts, int64 [N, context]."""
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    every = list(_every(prompts))
    length = text.get("context_length", 77)
    if not isinstance(length, int) or length < 1:
        raise PetechiaError(f"{folder.file(CONFIG)} has the context_length {shown(length)}; restore it.")
    check("model_batch", length * len(every), f"{folder.path} has {length * len(every):,} tokens", "give fewer prompts")
    options = dict(text.get("tokenizer_kwargs") or {})
    if text.get("hf_tokenizer_name"):
        _copy_tokenizer(str(text["hf_tokenizer_name"]), folder, private)
    try:
        if text.get("hf_tokenizer_name"):
            made = HFTokenizer(str(private), length, tokenizer_mode=text.get("tokenizer_mode"), **options)
        else:
            made = SimpleTokenizer(context_length=length, **options)
        tokens: Tensor = made(every)
    except Exception as error:  # tokenizers raise many types for unsuitable files
        raise PetechiaError(
            f"The tokenizer of {folder.path} cannot be used ({first_line(error)}); restore its files."
        ) from None
    return tokens


def _copy_tokenizer(name: str, folder: ModelFolder, private: Path) -> None:
    """Copy the files of a tokenizer into a private folder, from the model's folder or the hub's cache, or download them."""
    source = folder
    if not any(folder.has(one) for one in VOCABULARIES):
        offline = f"put the files of its tokenizer ({TOKENIZER[0]}, tokenizer_config.json) into {folder.path}"
        source = ModelFolder(_of_hub(name, TOKENIZER, "*tok*", offline), "a tokenizer")
    if source.has("tokenizer_config.json") and source.json("tokenizer_config.json", of_network=False).get("auto_map"):
        raise PetechiaError(f"The tokenizer of {source.path} asks for code of its own, which is never run (auto_map).")
    for one in TOKENIZER:
        if source.has(one):
            (private / one).write_bytes(read_file(source.file(one), "list_bytes", "restore it"))


def _every(prompts: Prompts) -> Iterator[str]:
    for texts in (*prompts.positive, *prompts.negative):
        yield from texts


def _head(texts: Tensor, prompts: Prompts, scale: Tensor, bias: Tensor | None) -> nn.Linear:
    """Make the linear layer: several prompts of a class are averaged; a negative prompt is subtracted, and a bias with it."""
    groups = torch.split(texts, [len(one) for one in (*prompts.positive, *prompts.negative)])
    means = torch.stack([functional.normalize(one.mean(dim=0), dim=0) for one in groups])
    rows = means[: len(prompts.classes)]
    if prompts.negative:
        rows, bias = rows - means[len(prompts.classes) :], None
    head = nn.Linear(rows.shape[1], len(rows))
    head.weight.data = scale * rows
    head.bias.data = torch.zeros(len(rows)) if bias is None else bias.expand(len(rows)).clone()
    return head


def _classifier(
    text: str,
    folder: ModelFolder,
    config: Mapping[str, Any],
    weights: Weights,
    network: ZeroShot,
    prompts: Prompts,
    runtime: Runtime,
    asked: Path,
) -> Classifier:
    side: Any = network.visual.image_size
    height, width = side if isinstance(side, (tuple, list)) else (side, side)
    exclusive = not prompts.negative and not bool(network.head.bias.any())
    usual = {
        "classes": prompts.classes,
        "task": "multi-class" if exclusive else "multi-label",
        "outputs": "logits",
        **_preparation(config.get("preprocess_cfg") or {}, folder.file(CONFIG)),
    }
    card = Card.beside(folder.path).over(usual, folder.path)
    spec = InputSpec.of(folder.path, card, None, 3, height, width)
    classifier = classifier_of(folder.path, network.eval(), spec, card, runtime)
    others = [folder.file(one) for one in (CONFIG, TEXT_CONFIG, *TOKENIZER, CARD) if folder.has(one)]
    return replace(classifier, name=f"clip:{text}", digest=weights.digest(*others, asked))


def _preparation(stated: Any, path: Path) -> dict[str, Any]:
    """Return what preprocess_cfg says, as keys of a card, with open_clip's own defaults."""
    if not isinstance(stated, dict):
        raise PetechiaError(f"{path} has a preprocess_cfg that is no object; restore it.")
    mode, filter_name = stated.get("resize_mode") or "shortest", stated.get("interpolation") or "bicubic"
    if not isinstance(filter_name, str) or filter_name not in FILTERS or mode not in ("shortest", "longest", "squash"):
        raise PetechiaError(f"{path} has the resize_mode {shown(mode)} or interpolation {shown(filter_name)}; restore it.")
    if mode == "longest":
        LOGGER.warning("%s: images that are not square get a margin; Petechia squeezes them into a square instead.", path)
    geometry = {"resample": FILTERS[filter_name], "crop": "square" if mode == "shortest" else 1.0}
    return {"mean": stated.get("mean") or OPENAI["mean"], "std": stated.get("std") or OPENAI["std"], "preprocess": geometry}
