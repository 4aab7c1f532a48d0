"""Explain image files: overlays, raw maps and a JSON with what the model says and where it looks most."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError, alternatives, listing
from petechia.core.files import building, refuse_existing
from petechia.core.progress import Progress
from petechia.core.runtime import Runtime
from petechia.core.version import __version__
from petechia.data.formats.dicom import is_dicom
from petechia.data.formats.images import Decoding, encode_png
from petechia.data.formats.secondary_capture import secondary_capture
from petechia.data.levels import in_colour
from petechia.data.preprocess import Box
from petechia.models.classifier import Classifier
from petechia.models.model import Model
from petechia.models.openers import open_classifier
from petechia.saliency.activation_maps import LAYERS, explain
from petechia.saliency.localisation import peak
from petechia.saliency.overlays import overlay
from petechia.saliency.registry import METHODS, LayerMethod, score_methods

INPUT = "input"  # the layer of methods for black boxes


@dataclass(frozen=True)
class Request:
    """How to explain.

    Attributes:
        targets: names of the classes; none: each image's class of the highest score.
        layers: as in `explain`; methods for black boxes have none.
        method: one of `METHODS`.
        dicom: whether to write overlays as DICOM secondary captures too.
    """

    targets: Sequence[str] = ()
    layers: Sequence[str] = LAYERS
    method: str = "gradcam"
    dicom: bool = False


def explain_files(
    model: str, images: Sequence[Path], out: Path, request: Request, runtime: Runtime, progress: Progress
) -> dict[str, Any]:
    """Explain images one by one and write a new folder.

    For every image, class and layer there are `NAME-CLASS-LAYER.png`, the heat over the image as it is in the file, and
    `NAME-CLASS-LAYER.npy`, the map, float32 [h, w]; with `dicom` also `NAME-CLASS-LAYER.dcm`.

    Args:
        model: anything that `open_classifier` opens; a black box only by a method that needs no layers.
        images: PNG, JPEG, TIFF or DICOM.
        out: the folder; it must not exist.
        request: how.
        runtime: where to compute.
        progress: told of every image.

    Returns:
        The content of `explanations.json`.

    Raises:
        PetechiaError: the model or an image cannot be read, or the model has no such class or layer.
    """
    refuse_existing(out)
    if request.method not in METHODS:
        raise PetechiaError(f"{request.method!r} is not a method; the methods are {', '.join(METHODS)}.")
    method = METHODS[request.method]
    classifier = open_classifier(model, runtime)
    if classifier.network is None and method.needs_network:
        others = alternatives(score_methods())
        raise PetechiaError(f"{model} is a black box, without layers to look into; give --method {others}.")
    targets = [_class_index(classifier, name) for name in request.targets]
    names = _unique([path.stem for path in images])
    described = []
    with building(out) as folder:
        for path, name in zip(images, names, strict=True):
            described.append(_explain_one(classifier, path, name, folder, targets, request))
            progress.advance(1)
        content = {
            "petechia": __version__,
            "model": _described(classifier, model),
            "method": request.method,
            "images": described,
        }
        (folder / "explanations.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return content


def _described(classifier: Classifier, model: str) -> dict[str, Any]:
    """What is known of a model: of Petechia's own, all that its file says."""
    name = {"file": Path(model).name} if Path(model).is_file() else {"name": model}
    if isinstance(classifier.network, Model):
        return {**name, **classifier.network.description.model_dump(mode="json")}
    return {**name, "classes": list(classifier.classes), "preprocess": classifier.preprocess.model_dump(mode="json")}


def _class_index(classifier: Classifier, name: str) -> int:
    if name not in classifier.classes:
        raise PetechiaError(f"The model has no class {name!r}; its classes are {listing(classifier.classes, 20)}.")
    return classifier.classes.index(name)


def _unique(names: list[str]) -> list[str]:
    """Names that can be files' and differ."""
    found: list[str] = []
    for name in map(_file_name, names):
        number, free = 2, name
        while free in found:
            number, free = number + 1, f"{name}-{number}"
        found.append(free)
    return found


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.]+", "_", text).strip(".") or "_"


def _explain_one(
    classifier: Classifier, path: Path, name: str, folder: Path, targets: list[int], request: Request
) -> dict[str, Any]:
    content = _read(path)
    image = Decoding(classifier.colour).decode(content, str(path))
    batch = classifier.tensor(classifier.prepare(image)[None])
    scores, classes, maps = _maps(classifier, batch, targets, request)
    if not all(np.isfinite(one).all() for one in (scores, *maps.values())):
        raise PetechiaError(f"{classifier.name} answers {path} with what is no number, so nothing can be explained.")
    explained = []
    for row, index in enumerate(classes):
        label = classifier.classes[index]
        layers = {}
        for layer, found in maps.items():
            stem = f"{name}-{_file_name(label)}-{_file_name(layer)}"
            words = f"{request.method} of layer {layer} for class {label}, score {scores[index]:.3f}, by Petechia"
            kept = classifier.preprocess.kept(*image.shape[:2])
            _write(folder / stem, image, kept, found[row], words, content, request.dicom)
            layers[layer] = _describe(stem, kept, found[row])
        explained.append({"class": label, "score": float(scores[index]), "layers": layers})
    named = dict(zip(classifier.classes, map(float, scores), strict=True))
    return {"file": str(path), "height": image.shape[0], "width": image.shape[1], "scores": named, "explained": explained}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PetechiaError(f"{path} cannot be read ({error.strerror}); check the path of the image.") from None


def _maps(
    classifier: Classifier, batch: torch.Tensor, targets: list[int], request: Request
) -> tuple[NDArray[np.float32], list[int], dict[str, NDArray[np.float32]]]:
    """Probabilities [K], the explained classes, and layer → maps [T, h, w]."""
    method = METHODS[request.method]
    if isinstance(method, LayerMethod):
        with classifier.runtime.autocast():
            found = explain(classifier.require_network(), batch, [targets] if targets else None, request.layers, request.method)
        maps = {layer: one.cpu().numpy().reshape(-1, *one.shape[-2:]) for layer, one in found.maps.items()}
        return found.logits[0].sigmoid().cpu().numpy(), found.targets.flatten().tolist(), maps

    def classify(images: torch.Tensor) -> torch.Tensor:
        return classifier.logits(images).sigmoid().to(images.device)

    with torch.inference_mode():
        scores = classify(batch)[0]
        classes = targets or [int(scores.argmax())]
        heat = method.heat(classify, batch.repeat(len(classes), 1, 1, 1), torch.tensor(classes))
    return scores.cpu().numpy(), classes, {INPUT: heat.cpu().numpy()}


def _write(
    stem: Path, image: NDArray[np.uint8], kept: Box, heat: NDArray[np.float32], words: str, content: bytes, dicom: bool
) -> None:
    picture = heat_on(image, heat, kept)
    buffer = io.BytesIO()
    np.save(buffer, heat)
    stem.with_name(f"{stem.name}.npy").write_bytes(buffer.getvalue())
    stem.with_name(f"{stem.name}.png").write_bytes(encode_png(picture))
    if dicom:
        capture = secondary_capture(picture, words, content if is_dicom(content) else None)
        stem.with_name(f"{stem.name}.dcm").write_bytes(capture)


def heat_on(image: NDArray[np.uint8], heat: NDArray[np.float32], kept: Box) -> NDArray[np.uint8]:
    """A map, float32 [h, w], over the part that a model sees of an image, uint8 [H, W] or [H, W, 3]; uint8 [H, W, 3]."""
    picture = in_colour(image)
    seen = (slice(kept.top, kept.top + kept.height), slice(kept.left, kept.left + kept.width))
    picture[seen] = overlay(image[seen], heat)
    return picture


def _describe(stem: str, kept: Box, heat: NDArray[np.float32]) -> dict[str, Any]:
    said: dict[str, Any] = {
        "overlay": f"{stem}.png",
        "map": f"{stem}.npy",
        "cells": list(heat.shape),
        "hottest": float(heat.max()),
    }
    row, column = peak(heat[None])[0]
    if np.isnan(row):
        return said | {"peak": None, "note": "No heat: nothing at this layer speaks for the class."}
    peaked = {"row": float(kept.top + row * kept.height), "column": float(kept.left + column * kept.width)}
    return said | {"peak": peaked}
