"""Explain image files: overlays, raw maps and a JSON with what the model says and where it looks most."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import petechia
from petechia.compute import Machine
from petechia.data.dicom import is_dicom
from petechia.data.images import encode_png, read_levels
from petechia.data.secondary_capture import secondary_capture
from petechia.errors import PetechiaError
from petechia.explain.black_box import occlusion, rise
from petechia.explain.cam import LAYERS, explain
from petechia.explain.localise import peak
from petechia.explain.methods import METHODS
from petechia.explain.overlay import overlay
from petechia.files import building, refuse_existing
from petechia.model import Model

BLACK_BOX = ("occlusion", "rise")
INPUT = "input"  # their layer
WINDOWS = 8  # of an image's side, that occlusion covers at a time; it moves by half a window


@dataclass(frozen=True)
class Request:
    """How to explain.

    Attributes:
        targets: names of the classes; none: each image's class of the highest score.
        layers: as in `explain`; methods for black boxes have none.
        method: one of `METHODS`, "occlusion" or "rise".
        dicom: whether to write overlays as DICOM secondary captures too.
    """

    targets: Sequence[str] = ()
    layers: Sequence[str] = LAYERS
    method: str = "gradcam"
    dicom: bool = False


def explain_files(
    model_file: Path, images: Sequence[Path], out: Path, request: Request, machine: Machine, done: Callable[[int], None]
) -> dict[str, Any]:
    """Explain images one by one and write a new folder.

    For every image, class and layer there are `NAME-CLASS-LAYER.png`, the heat over the image as it is in the file, and
    `NAME-CLASS-LAYER.npy`, the map, float32 [h, w]; with `dicom` also `NAME-CLASS-LAYER.dcm`.

    Args:
        model_file: written by `Model.save`.
        images: PNG, JPEG, TIFF or DICOM.
        out: the folder; it must not exist.
        request: how.
        machine: where to compute.
        done: told how many more images are done.

    Returns:
        The content of `explanations.json`.

    Raises:
        PetechiaError: the model or an image cannot be read, or the model has no such class or layer.
    """
    refuse_existing(out)
    if request.method not in (*METHODS, *BLACK_BOX):
        raise PetechiaError(f"{request.method!r} is not a method; the methods are {', '.join((*METHODS, *BLACK_BOX))}.")
    model = machine.place(_load(model_file))
    model.eval()
    targets = [_class_index(model, name) for name in request.targets]
    names = _unique([path.stem for path in images])
    described = []
    with building(out) as folder:
        for path, name in zip(images, names, strict=True):
            described.append(_explain_one(model, path, name, folder, targets, request, machine))
            done(1)
        content = {
            "petechia": petechia.__version__,
            "model": {"file": model_file.name, **model.description.model_dump(mode="json")},
            "method": request.method,
            "images": described,
        }
        (folder / "explanations.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return content


def _load(path: Path) -> Model:
    if path.is_dir():
        found = sorted(path.rglob("epoch-*.safetensors"))
        models = [file for file in found if file.parent.parent.name == "checkpoints"]
        advice = f"one of its models, such as {models[-1]}" if models else "a .safetensors file"
        raise PetechiaError(f"{path} is a folder, not a model; give {advice}.")
    return Model.load(path)


def _class_index(model: Model, name: str) -> int:
    classes = model.description.classes
    if name not in classes:
        raise PetechiaError(f"The model has no class {name!r}; its classes are {', '.join(classes)}.")
    return classes.index(name)


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
    model: Model, path: Path, name: str, folder: Path, targets: list[int], request: Request, machine: Machine
) -> dict[str, Any]:
    content = _read(path)
    image = read_levels(content, str(path)).grey()
    batch = machine.tensor(np.stack([model.description.preprocess(image)]))
    scores, classes, maps = _maps(model, batch, targets, request, machine)
    explained = []
    for row, index in enumerate(classes):
        label = model.description.classes[index]
        layers = {}
        for layer, found in maps.items():
            stem = f"{name}-{_file_name(label)}-{_file_name(layer)}"
            words = f"{request.method} of layer {layer} for class {label}, score {scores[index]:.3f}, by Petechia"
            _write(folder / stem, model, image, found[row], words, content, request.dicom)
            layers[layer] = _describe(stem, model, image, found[row])
        explained.append({"class": label, "score": float(scores[index]), "layers": layers})
    named = dict(zip(model.description.classes, map(float, scores), strict=True))
    return {"file": str(path), "height": image.shape[0], "width": image.shape[1], "scores": named, "explained": explained}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PetechiaError(f"{path} cannot be read ({error.strerror}); check the path of the image.") from None


def _maps(
    model: Model, batch: torch.Tensor, targets: list[int], request: Request, machine: Machine
) -> tuple[NDArray[np.float32], list[int], dict[str, NDArray[np.float32]]]:
    """Probabilities [K], the explained classes, and layer → maps [T, h, w]."""
    if request.method in METHODS:
        with machine.autocast():
            found = explain(model, batch, [targets] if targets else None, request.layers, request.method)
        maps = {layer: one.cpu().numpy().reshape(-1, *one.shape[-2:]) for layer, one in found.maps.items()}
        return found.logits[0].sigmoid().cpu().numpy(), found.targets.flatten().tolist(), maps

    def classify(images: torch.Tensor) -> torch.Tensor:
        with machine.autocast():
            scores: torch.Tensor = model(images)
        return scores.sigmoid().float()

    with torch.inference_mode():
        scores = classify(batch)[0]
        classes = targets or [int(scores.argmax())]
        repeated, indices = batch.repeat(len(classes), 1, 1, 1), torch.tensor(classes)
        if request.method == "rise":
            heat = rise(classify, repeated, indices)
        else:
            window = max(2, min(batch.shape[2:]) // WINDOWS)
            heat = occlusion(classify, repeated, indices, window, window // 2, float(batch.mean()))
    return scores.cpu().numpy(), classes, {INPUT: heat.cpu().numpy()}


def _write(
    stem: Path, model: Model, image: NDArray[np.uint8], heat: NDArray[np.float32], words: str, content: bytes, dicom: bool
) -> None:
    picture = heat_on(image, heat, model)
    buffer = io.BytesIO()
    np.save(buffer, heat)
    stem.with_name(f"{stem.name}.npy").write_bytes(buffer.getvalue())
    stem.with_name(f"{stem.name}.png").write_bytes(encode_png(picture))
    if dicom:
        capture = secondary_capture(picture, words, content if is_dicom(content) else None)
        stem.with_name(f"{stem.name}.dcm").write_bytes(capture)


def heat_on(image: NDArray[np.uint8], heat: NDArray[np.float32], model: Model) -> NDArray[np.uint8]:
    """A map, float32 [h, w], over the part that the model sees of an image in its file, uint8 [H, W]; uint8 [H, W, 3]."""
    top, left, height, width = model.description.preprocess.kept(*image.shape)
    picture = np.repeat(image[..., None], 3, axis=2)
    seen = (slice(top, top + height), slice(left, left + width))
    picture[seen] = overlay(image[seen], heat)
    return picture


def _describe(stem: str, model: Model, image: NDArray[np.uint8], heat: NDArray[np.float32]) -> dict[str, Any]:
    top, left, height, width = model.description.preprocess.kept(*image.shape)
    said: dict[str, Any] = {
        "overlay": f"{stem}.png",
        "map": f"{stem}.npy",
        "cells": list(heat.shape),
        "hottest": float(heat.max()),
    }
    row, column = peak(heat[None])[0]
    if np.isnan(row):
        return said | {"peak": None, "note": "No heat: nothing at this layer speaks for the class."}
    return said | {"peak": {"row": float(top + row * height), "column": float(left + column * width)}}
