"""How a model that is only known by its file is asked: what it takes, and what its scores mean."""

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

Meaning = Literal["logits", "probabilities", "softmax"]  # softmax: outputs that are meant for one
MOST_SIDE = 4096  # as of `Preprocess`
CERTAIN = 1e-6  # a probability nearer to 0 or 1 is taken for this far from it: its logit must stay finite


@dataclass(frozen=True)
class InputSpec:
    """What a model takes.

    Attributes:
        batch: images at a time; None is any number.
        channels: 1 or 3.
        size: side of the images; None is any.
    """

    batch: int | None
    channels: int
    size: int | None

    @staticmethod
    def of(path: Path, card: Card, batch: int | None, channels: int | None, height: int | None, width: int | None) -> InputSpec:
        """As the file says, and the card where the file does not.

        Raises:
            PetechiaError: it is not square images of 1 or 3 channels.
        """
        channels = channels or card.channels
        if channels is None:
            raise PetechiaError(f"{path} does not say how many channels its images have; give channels in a JSON beside it.")
        if channels not in (1, 3) or card.channels not in (None, channels):
            raise PetechiaError(f"{path} takes images of {channels} channels; 1 or 3, as its JSON says, can be given.")
        if height != width:
            raise PetechiaError(f"{path} takes images of {height} x {width} pixels; only squares can be given.")
        if height is not None and not 1 <= height <= MOST_SIDE:
            raise PetechiaError(f"{path} takes images of {height} pixels a side, and {MOST_SIDE} is the most; export it anew.")
        return InputSpec(batch, channels, height)

    def geometry(self, card: Card, path: Path) -> Preprocess:
        """The model's geometry.

        Raises:
            PetechiaError: nothing says how large images are, or the card contradicts the file.
        """
        said = card.preprocess is not None and "size" in card.preprocess.model_fields_set
        if self.size is None and not said:
            raise PetechiaError(f"{path} takes images of any size; give preprocess.size in {path.with_suffix('.json').name}.")
        geometry = card.geometry(Preprocess(size=self.size or 64))
        if self.size not in (None, geometry.size):
            raise PetechiaError(
                f"{path} takes images of {self.size} pixels a side, but its JSON says preprocess.size is {geometry.size}; "
                f"say {self.size}, or leave it out."
            )
        return geometry


class LogitAdapter(nn.Module):
    """Asks a model: float32 [B, C, H, W] in 0…1 → logits, float32 [B, K].

    Attributes:
        network: gives its own scores for as many images as it takes; a module where it can be looked into.
        input_spec: what that is.
        meaning: of its scores.
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
        """Logits of any number of images; grey ones are repeated for a model of colour."""
        scores = self.scores(images)
        if self.meaning == "probabilities":
            return scores.logit(eps=CERTAIN)
        return log_odds(scores) if self.meaning == "softmax" else scores

    def scores(self, images: Tensor) -> Tensor:
        """Its own scores."""
        given = (images.float().expand(-1, self.input_spec.channels, -1, -1) - self.mean) / self.std
        parts = torch.split(given, self.input_spec.batch or max(1, len(given)))
        return torch.cat([self.network(self._filled(some)).float() for some in parts])[: len(given)]

    def _filled(self, images: Tensor) -> Tensor:
        """A fixed batch is filled up."""
        missing = (self.input_spec.batch or 0) - len(images)
        return torch.cat([images, images[-1:].expand(missing, -1, -1, -1)]) if missing > 0 else images


def classifier_of(
    path: Path, network: Callable[[Tensor], Tensor], input_spec: InputSpec, card: Card, runtime: Runtime, beside: str = ""
) -> Classifier:
    """A classifier of what a file holds. It is asked about a few images, and what it says tells what its scores are.

    Args:
        path: of the file, or a name.
        network: see `LogitAdapter`.
        input_spec: what it takes.
        card: what is said of it.
        runtime: where to compute.
        beside: where the card was given, for messages; else the JSON file of that name.

    Raises:
        PetechiaError: it gives no scores of classes, or the card does not fit it.
    """
    geometry = input_spec.geometry(card, path)
    mean, std = (
        torch.tensor(per_channel(given, input_spec.channels, str(path))).view(-1, 1, 1)
        for given in (card.mean or (0.0,), card.std or (1.0,))
    )
    adapter = (
        LogitAdapter(network, input_spec, mean, std).to(runtime.device).eval()
    )  # in its own memory layout, which a view may count on
    with torch.no_grad():
        seen = adapter.scores(_probes(geometry.size).to(runtime.device)).cpu()
    if seen.ndim != 2:
        raise PetechiaError(f"{path} gives scores of {seen.ndim} dimensions; a classifier gives [images, classes].")
    classes = card.names(seen.shape[1], path, beside)
    if _are_probabilities(seen, card, path):
        adapter.meaning = "probabilities"
    elif card.task == "multi-class":
        adapter.meaning = "softmax"
    looked_into = adapter if isinstance(network, nn.Module) else None
    return Classifier(str(path), classes, geometry, adapter, runtime, looked_into, colour=input_spec.channels == 3)


def _probes(size: int) -> Tensor:
    """Images that no model was trained on: black, grey, white and noise, float32 [8, 1, size, size]."""
    noise = stream(0, "probe").random((5, 1, size, size), np.float32)
    even = np.broadcast_to(np.array([0, 0.5, 1], np.float32).reshape(-1, 1, 1, 1), (3, 1, size, size))
    return torch.from_numpy(np.concatenate([even, noise]))


def _are_probabilities(seen: Tensor, card: Card, path: Path) -> bool:
    between = bool(((seen >= 0) & (seen <= 1)).all())
    if card.outputs == "probabilities" and not between and bool(seen.isfinite().all()):
        low, high = float(seen.min()), float(seen.max())
        raise PetechiaError(
            f"{path} gives scores from {low:.3g} to {high:.3g}, but its JSON says that they are probabilities; say logits."
        )
    return between if card.outputs is None else card.outputs == "probabilities"
