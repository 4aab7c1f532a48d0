"""Image classifiers of Hugging Face: a folder with config.json and safetensors, or a model of the hub by its name.

The network is always one of the classes of the library transformers itself. No code from a folder or from the hub is run, and
nothing is unpickled.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petechia.core.errors import PetechiaError, alternatives, first_line, listing, printable, shown
from petechia.core.files import expand_home
from petechia.core.runtime import Runtime
from petechia.models.classifier import Classifier
from petechia.models.openers.adapter import InputSpec, classifier_of
from petechia.models.openers.card import CARD, Card, distinguished
from petechia.models.openers.claims import run_without_data, without_memory
from petechia.models.openers.folder import ModelFolder, Weights
from petechia.models.openers.hub import snapshot
from petechia.models.openers.networks import of_timm_folder
from petechia.models.openers.processor import Processor

LOGGER = logging.getLogger(__name__)
CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
FILES = (CONFIG, PROCESSOR, WEIGHTS, f"{WEIGHTS}.index.json", "model-*-of-*.safetensors")
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# What a configuration may not ask for, with what it is.
REFUSED = {
    "auto_map": "code of its own, which is never run",
    "custom_pipelines": "code of its own, which is never run",
    "quantization_config": "quantised weights; save it with 16- or 32-bit weights",
    "use_timm_backbone": "a network inside the network; export the model to ONNX",
    "backbone": "a network inside the network; export the model to ONNX",
    "backbone_config": "a network inside the network; export the model to ONNX",
}
# Settings that are Petechia's to choose, or say how the network was once run.
LEFT_OUT = re.compile(
    r"_.*|attn_implementation|(torch_)?dtype|torchscript|transformers_version|(use_)?return_dict|output_(attentions|hidden_states)"
)
OTHER_INPUT = ("imagegpt", "siglip2", "shieldgemma2")  # take tokens, or pieces of images, and no images
TASKS = {"single_label_classification": "multi-class", "multi_label_classification": "multi-label"}


class Scores(nn.Module):
    """A network of transformers that returns its scores alone: float32 [B, C, H, W] → [B, K].

    Attributes:
        network: the network.
        reversed_channels: whether it takes blue first.
    """

    def __init__(self, network: nn.Module, reversed_channels: bool) -> None:
        super().__init__()
        self.network, self.reversed_channels = network, reversed_channels

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores."""
        given = images.flip(1) if self.reversed_channels else images
        scores: Tensor = self.network(pixel_values=given).logits
        return scores


def open_huggingface(text: str, runtime: Runtime) -> Classifier:
    """An image classifier in a FOLDER, or one of the hub: ORG/NAME, or ORG/NAME@REVISION.

    Raises:
        PetechiaError: as `of_folder`; or the model is neither in the cache of the hub nor can it be downloaded.
    """
    folder = expand_home(text)
    if text and folder.is_dir():
        return replace(of_folder(folder, runtime, f"hf:{text}"), title=f"hf:{folder.resolve().name}")
    name, _, revision = text.partition("@")
    if not NAME.fullmatch(name) or ".." in name:
        raise PetechiaError(
            f"There is no folder {printable(text, 200)!r}; give hf:FOLDER, or hf:ORG/NAME for a model of the hub."
        )
    _require_transformers(f"hf:{text}")
    offline = f"give hf:FOLDER, a folder with the files of https://huggingface.co/{name}"
    return of_folder(snapshot(name, revision, FILES, "*.safetensors", offline), runtime, f"hf:{text}")


def of_folder(path: Path, runtime: Runtime, name: str) -> Classifier:
    """Open a folder that `save_pretrained` of transformers has written, or that timm has pushed to the hub.

    Args:
        path: the folder, with config.json, model.safetensors (or its index and parts) and, usually, preprocessor_config.json;
            petechia.json corrects what these say, see `Card`.
        runtime: device and precision.
        name: display name.

    Raises:
        PetechiaError: transformers is not installed; or the folder is no image classifier of it, asks for code of its own, has
            pickled weights, describes another network than its weights are of, or lies about sizes.
    """
    folder = ModelFolder(path, "an image classifier of Hugging Face")
    config = folder.json(CONFIG)
    _refuse_code(config, folder.file(CONFIG))
    weights = folder.weights(WEIGHTS)
    if isinstance(config.get("architecture"), str):
        return of_timm_folder(folder, config, weights, runtime, name)
    _require_transformers(name)
    return _classifier(folder, config, weights, runtime, name)


def _classifier(folder: ModelFolder, config: Mapping[str, Any], weights: Weights, runtime: Runtime, name: str) -> Classifier:
    described = folder.file(CONFIG)
    kind, settings = _network_class(config, described), _settings(config, described)
    processor = _processor(folder)
    card = Card.beside(folder.path).over(_usual_card(settings, processor, described), folder.path)
    channels = _channels(settings, described)
    spec = InputSpec.of(folder.path, card, None, channels, *_image_size(settings, processor, described))
    size = spec.geometry(card, folder.path).size

    hollow = without_memory(lambda: kind._from_config(settings, attn_implementation="eager"), weights, str(described))
    found = run_without_data(Scores(hollow, False), torch.empty(1, channels, size, size, device="meta"), str(described))
    _refuse_other_scores(found, card, described)
    network = Scores(_with_weights(kind, settings, weights, folder.path), processor.reversed_channels)
    classifier = classifier_of(folder.path, network, spec, card, runtime)
    others = [folder.file(one) for one in (CONFIG, PROCESSOR, CARD) if folder.has(one)]
    return replace(classifier, name=name, digest=weights.digest(*others))


def _refuse_code(config: Mapping[str, Any], path: Path) -> None:
    for key, what in REFUSED.items():
        if any(one.get(key) for one in (config, *_parts(config))):
            raise PetechiaError(f"{path} asks for {what} ({key}).")


def _parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the configurations inside a configuration."""
    for value in config.values():
        if isinstance(value, dict):
            yield value
            yield from _parts(value)


def _network_class(config: Mapping[str, Any], path: Path) -> Any:
    """Return the class of transformers that a configuration names, which must be one of its image classifiers."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as KNOWN

    kind, asked = config.get("model_type"), config.get("architectures")
    names = KNOWN.get(kind, ()) if isinstance(kind, str) and kind not in OTHER_INPUT else ()
    names = (names,) if isinstance(names, str) else tuple(names)
    wanted = asked[0] if isinstance(asked, list) and asked else None
    if not names or (wanted is not None and wanted not in names):
        raise PetechiaError(
            f"{path} describes {shown(wanted or kind)}, which is no image classifier that Petechia opens; give one of "
            f"transformers' networks ForImageClassification."
        )
    try:
        return getattr(transformers, names[0] if wanted is None else str(wanted))
    except (AttributeError, ImportError) as error:
        raise PetechiaError(
            f"{path} needs a part of transformers that is not there ({first_line(error)}); update it."
        ) from None


def _settings(config: Mapping[str, Any], path: Path) -> Any:
    """Return the configuration as transformers' own object."""
    from transformers import AutoConfig

    kept = _without_settings_of_ours(config)
    kind = kept.pop("model_type")
    try:
        settings = AutoConfig.for_model(kind, **kept)
    except Exception as error:  # settings of a stranger
        raise PetechiaError(f"{path} cannot be used ({first_line(error)}); restore it.") from None
    return settings


def _without_settings_of_ours(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: one for key, one in config.items() if not LEFT_OUT.fullmatch(key)}
    return {key: _without_settings_of_ours(one) if isinstance(one, dict) else one for key, one in kept.items()}


def _channels(settings: Any, path: Path) -> int:
    found = getattr(settings, "num_channels", None) or getattr(_vision(settings), "num_channels", 3)
    if found not in (1, 3):
        raise PetechiaError(f"{path} has the num_channels {shown(found)}; only images of 1 or 3 channels are supported.")
    return int(found)


def _vision(settings: Any) -> Any:
    """Return the part of a configuration that is about images."""
    return getattr(settings, "vision_config", None) or settings


def _processor(folder: ModelFolder) -> Processor:
    if folder.has(PROCESSOR):
        return Processor.of(folder.json(PROCESSOR), folder.file(PROCESSOR))
    said = Card.beside(folder.path)
    if not said.mean or not said.std:
        LOGGER.warning(
            "%s has no %s: images are scaled to 0…1 and not normalised; set mean and std in petechia.json if that is wrong.",
            folder.path,
            PROCESSOR,
        )
    return Processor()


def _image_size(settings: Any, processor: Processor, path: Path) -> tuple[int | None, int | None]:
    """Return height and width of the images: those of the preprocessing, or else of the network; None for any."""
    if (size := processor.preprocess.get("size")) is not None:
        return size, size
    found = getattr(_vision(settings), "image_size", None)
    sides = found if isinstance(found, (list, tuple)) else (found, found)
    if len(sides) != 2 or not all(one is None or isinstance(one, int) for one in sides):
        raise PetechiaError(f"{path} has the image_size {shown(found)}; give one number.")
    return sides[0], sides[1]


def _usual_card(settings: Any, processor: Processor, path: Path) -> dict[str, Any]:
    """Return what the files of the folder say, as keys of a card."""
    classes = _classes(settings, path)
    problem = getattr(settings, "problem_type", None)
    if problem is not None and not (isinstance(problem, str) and problem in TASKS):
        raise PetechiaError(f"{path} has the problem_type {shown(problem)}; only {alternatives(TASKS)} are classifiers.")
    task = TASKS[problem] if problem else "multi-class" if len(classes) > 1 else "multi-label"
    usual = {"classes": classes, "task": task, "outputs": "logits", "mean": processor.mean, "std": processor.std}
    return usual | ({"preprocess": processor.preprocess} if processor.preprocess else {})


def _classes(settings: Any, path: Path) -> tuple[str, ...]:
    """Return the names of the classes; those that share one, as the two cranes of ImageNet do, get their number."""
    given = settings.id2label or {}
    try:
        names = [str(given[number]) for number in range(len(given))]
    except KeyError:
        raise PetechiaError(f"{path} does not number its classes from 0 in id2label; correct it.") from None
    return distinguished(names)


def _refuse_other_scores(found: Any, card: Card, path: Path) -> None:
    if not isinstance(found, Tensor) or found.ndim != 2 or found.shape[1] != len(card.classes):
        shape = list(found.shape) if isinstance(found, Tensor) else "no scores"
        raise PetechiaError(
            f"{path} names {len(card.classes)} classes, but its network returns {shape} for an image; correct it."
        )


def _with_weights(kind: Any, settings: Any, weights: Weights, path: Path) -> nn.Module:
    """Build the network for real, with the weights of the folder.

    Raises:
        PetechiaError: weights are missing, or have other shapes.
    """
    with _quiet():
        try:
            network, told = kind.from_pretrained(
                None,
                config=settings,
                state_dict={name: one.float() if one.is_floating_point() else one for name, one in weights.read().items()},
                attn_implementation="eager",
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # they are named below
                output_loading_info=True,
            )
        except PetechiaError:
            raise
        except Exception as error:  # transformers raises many types for unsuitable weights
            raise PetechiaError(f"The weights of {path} do not fit its {CONFIG} ({first_line(error)}).") from None
    wrong = sorted(str(one[0] if isinstance(one, tuple) else one) for one in told["mismatched_keys"])
    if missing := sorted(told["missing_keys"]):
        raise PetechiaError(f"The weights of {path} do not fit its {CONFIG}: they lack {listing(missing, 3)}.")
    if wrong:
        raise PetechiaError(f"The weights of {path} do not fit its {CONFIG}: {listing(wrong, 3)} have other shapes.")
    if more := sorted(told["unexpected_keys"]):
        LOGGER.warning("%s: %s is not part of the network and was left out.", path, listing(more, 4))
    made: nn.Module = network
    return made.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from printing progress and its report of the weights: `_with_weights` says what is wrong."""
    from transformers.utils import logging as module

    theirs: Any = module
    level, shows = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity(theirs.CRITICAL)
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        if shows:
            theirs.enable_progress_bar()


def _require_transformers(name: str) -> None:
    if find_spec("transformers") is None:
        raise PetechiaError(f"{name} needs transformers; install it with pip install 'petechia[hf]'.")
