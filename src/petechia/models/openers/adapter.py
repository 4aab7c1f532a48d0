"""Adapts a model that is only known by its file: what input it takes, and what its scores mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.core.randomness import stream
from petechia.core.runtime import Runtime
from petechia.data.preprocess import Preprocess
from petechia.models.classifier import Classifier
from petechia.models.model import log_odds
from petechia.models.openers.card import Card, per_channel

Meaning = Literal["logits", "probabilities", "softmax"]  # softmax: outputs meant for a softmax
MOST_SIDE = 4096  # as in `Preprocess`
CERTAIN = 1e-6  # probabilities are kept this far from 0 and 1, so that logits stay finite


@dataclass(frozen=True)
class InputSpec:
    """The input that a model takes.

    Attributes:
        batch: number of images per call; None for any number.
        channels: 1 or 3.
        size: side of the images, in pixels; None for any size.
    """

    batch: int | None
    channels: int
    size: int | None

    @staticmethod
    def of(path: Path, card: Card, batch: int | None, channels: int | None, height: int | None, width: int | None) -> InputSpec:
        """Combine the file's own input shape with the card, which fills in what the file does not state.

        Raises:
            PetechiaError: the input is not square images of 1 or 3 channels.
        """
        channels = channels or card.channels
        if channels is None:
            raise PetechiaError(f"{path} does not state its number of channels; set channels in the JSON beside it.")
        if channels not in (1, 3) or card.channels not in (None, channels):
            raise PetechiaError(f"{path} takes images of {channels} channels; use 1 or 3, as in its JSON.")
        if height != width:
            raise PetechiaError(f"{path} takes images of {height} x {width} pixels; only square images are supported.")
        if height is not None and not 1 <= height <= MOST_SIDE:
            raise PetechiaError(f"{path} takes images of {height} pixels a side, but {MOST_SIDE} is the most; export it again.")
        return InputSpec(batch, channels, height)

    def geometry(self, card: Card, path: Path) -> Preprocess:
        """Return the model's geometry.

        Raises:
            PetechiaError: neither the file nor the card states the image size, or they contradict each other.
        """
        said = card.preprocess is not None and "size" in card.preprocess.model_fields_set
        if self.size is None and not said:
            raise PetechiaError(f"{path} takes images of any size; set preprocess.size in {path.with_suffix('.json').name}.")
        geometry = card.geometry(Preprocess(size=self.size or 64))
        if self.size not in (None, geometry.size):
            raise PetechiaError(
                f"{path} takes images of {self.size} pixels a side, but its JSON states preprocess.size {geometry.size}; "
                f"set it to {self.size}, or leave it out."
            )
        return geometry


class LogitAdapter(nn.Module):
    """Calls a model: images, float32 [B, C, H, W] in 0…1 → logits, float32 [B, K].

    Attributes:
        network: function that returns the model's own scores for as many images as it takes; a module unless it is a black
            box.
        input_spec: the input that the model takes.
        meaning: meaning of its scores.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Callable[[Tensor], Tensor], input_spec: InputSpec, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network, self.input_spec = network, input_spec
        self.meaning: Meaning = "logits"
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits for any number of images; grey images are repeated for a colour model."""
        scores = self.scores(images)
        if self.meaning == "probabilities":
            return scores.logit(eps=CERTAIN)
        return log_odds(scores) if self.meaning == "softmax" else scores

    def scores(self, images: Tensor) -> Tensor:
        """Return the model's own scores."""
        given = (images.float().expand(-1, self.input_spec.channels, -1, -1) - self.mean) / self.std
        parts = torch.split(given, self.input_spec.batch or max(1, len(given)))
        return torch.cat([self.network(self._filled(some)).float() for some in parts])[: len(given)]

    def _filled(self, images: Tensor) -> Tensor:
        """Pad a batch to the fixed batch size by repeating the last image."""
        missing = (self.input_spec.batch or 0) - len(images)
        return torch.cat([images, images[-1:].expand(missing, -1, -1, -1)]) if missing > 0 else images


def classifier_of(
    path: Path, network: Callable[[Tensor], Tensor], input_spec: InputSpec, card: Card, runtime: Runtime, beside: str = ""
) -> Classifier:
    """Make a classifier from the content of a file. Its scores for a few test images show what they mean.

    Args:
        path: path of the file, or a name.
        network: see `LogitAdapter`.
        input_spec: the input that the model takes.
        card: description of the model.
        runtime: device and precision.
        beside: source of the card, for messages; empty for the JSON file beside `path`.

    Raises:
        PetechiaError: the model does not return scores of classes, or the card does not match it.
    """
    geometry = input_spec.geometry(card, path)
    mean, std = (
        torch.tensor(per_channel(given, input_spec.channels, str(path))).view(-1, 1, 1)
        for given in (card.mean or (0.0,), card.std or (1.0,))
    )
    adapter = (
        LogitAdapter(network, input_spec, mean, std).to(runtime.device).eval()
    )  # the memory layout stays: the program may contain views that rely on it
    with torch.no_grad():
        seen = adapter.scores(_probes(geometry.size).to(runtime.device)).cpu()
    if seen.ndim != 2:
        raise PetechiaError(f"{path} returns scores of {seen.ndim} dimensions; a classifier returns [images, classes].")
    classes = card.names(seen.shape[1], path, beside)
    if _are_probabilities(seen, card, path):
        adapter.meaning = "probabilities"
    elif card.task == "multi-class":
        adapter.meaning = "softmax"
    looked_into = adapter if isinstance(network, nn.Module) else None
    return Classifier(str(path), classes, geometry, adapter, runtime, looked_into, colour=input_spec.channels == 3)


def _probes(size: int) -> Tensor:
    """Return test images that no model was trained on: black, grey, white and noise, float32 [8, 1, size, size]."""
    noise = stream(0, "probe").random((5, 1, size, size), np.float32)
    even = np.broadcast_to(np.array([0, 0.5, 1], np.float32).reshape(-1, 1, 1, 1), (3, 1, size, size))
    return torch.from_numpy(np.concatenate([even, noise]))


def _are_probabilities(seen: Tensor, card: Card, path: Path) -> bool:
    between = bool(((seen >= 0) & (seen <= 1)).all())
    if card.outputs == "probabilities" and not between and bool(seen.isfinite().all()):
        low, high = float(seen.min()), float(seen.max())
        raise PetechiaError(
            f"{path} gives scores from {low:.3g} to {high:.3g}, but its JSON states probabilities; set outputs to logits."
        )
    return between if card.outputs is None else card.outputs == "probabilities"
