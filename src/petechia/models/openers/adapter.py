"""Adapts a model that is only known by its file: what input it takes, and what its scores mean."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from petechia.core.budget import check
from petechia.core.errors import PetechiaError
from petechia.core.randomness import stream
from petechia.core.runtime import Runtime
from petechia.data.preprocess import Preprocess
from petechia.models.classifier import Classifier
from petechia.models.model import log_odds
from petechia.models.openers.card import Card, card_path, per_channel
from petechia.models.openers.outputs import Graph, Output, choose

LOGGER = logging.getLogger(__name__)
# "shares": probabilities that add up to 1; "softmax": what a softmax would make such of, logarithms of shares included.
Meaning = Literal["logits", "probabilities", "shares", "softmax"]
LEAST_SIDE, MOST_SIDE = 8, 4096  # as in `Preprocess`
LEAST, CERTAIN = 1e-12, 1e-6  # probabilities are kept this far from 0, and from 1, so that logits stay finite
SHARE, ROUNDED = 1e-2, 1e-3  # how far sums of shares may be from 1, and probabilities of quantised networks above 1


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
        if height is not None and not LEAST_SIDE <= height <= MOST_SIDE:
            raise PetechiaError(
                f"{path} takes images of {height} x {height} pixels, but sides have {LEAST_SIDE} to {MOST_SIDE:,} pixels; "
                f"export it for another size."
            )
        return InputSpec(batch, channels, height)

    def geometry(self, card: Card, path: Path) -> Preprocess:
        """Return the model's geometry.

        Raises:
            PetechiaError: neither the file nor the card states the image size, or they contradict each other.
        """
        said = card.preprocess is not None and "size" in card.preprocess.model_fields_set
        if self.size is None and not said:
            raise PetechiaError(f"{path} takes images of any size; set preprocess.size in {card_path(path).name}.")
        geometry = card.geometry(Preprocess(size=self.size or 64))
        if self.size not in (None, geometry.size):
            raise PetechiaError(
                f"{path} takes images of {self.size} pixels a side, but its JSON states preprocess.size {geometry.size}; "
                f"set it to {self.size}, or leave it out."
            )
        pixels = (self.batch or 1) * self.channels * geometry.size**2
        check("model_batch", pixels, f"{path} takes batches of {pixels:,} numbers", "export it for any number of images")
        return geometry


@runtime_checkable
class SeveralOutputs(Protocol):
    """A network that can return more than the scores. Called, it returns the output `chosen`.

    Attributes:
        chosen: position of the output that contains the scores.
    """

    chosen: int

    @property
    def graph(self) -> Graph:
        """How the outputs are computed."""
        ...

    def every(self, images: Tensor) -> Sequence[Tensor | None]:
        """Return all outputs; None for what is not a tensor of floating-point numbers."""
        ...

    def outputs(self, values: Sequence[Tensor | None]) -> list[Output]:
        """Describe what `every` returned, on the CPU."""
        ...


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
            return scores.clamp(min=LEAST).log() - (-scores.clamp(max=1 - CERTAIN)).log1p()
        if (
            self.meaning == "shares"
        ):  # the others' shares are exact where 1 - p is rounded to 0, so a sure network keeps its gradient
            return log_odds(scores.clamp(min=LEAST).log())
        return log_odds(scores) if self.meaning == "softmax" else scores

    def scores(self, images: Tensor) -> Tensor:
        """Return the model's own scores."""
        return torch.cat([self.network(some).float() for some in self._batches(images)])[: len(images)]

    def every_output(self, images: Tensor) -> list[Tensor | None]:
        """Return all outputs of a network with several, on the CPU; None for those that are not numbers for every image."""
        assert isinstance(self.network, SeveralOutputs)  # noqa: S101
        batches = list(self._batches(images))
        found = zip(*(self.network.every(some) for some in batches), strict=True)
        each = [[None if one is None else one.detach().float().cpu() for one in parts] for parts in found]
        return [_joined(parts, [len(some) for some in batches], len(images)) for parts in each]

    def _batches(self, images: Tensor) -> Sequence[Tensor]:
        """Normalise images and split them into batches that the model takes."""
        given = (images.float().expand(-1, self.input_spec.channels, -1, -1) - self.mean) / self.std
        return [self._filled(some) for some in torch.split(given, self.input_spec.batch or max(1, len(given)))]

    def _filled(self, images: Tensor) -> Tensor:
        """Pad a batch to the fixed batch size by repeating the last image."""
        missing = (self.input_spec.batch or 0) - len(images)
        return torch.cat([images, images[-1:].expand(missing, -1, -1, -1)]) if missing > 0 else images


def _joined(parts: Sequence[Tensor | None], lengths: Sequence[int], images: int) -> Tensor | None:
    """Join the parts of an output; one that does not have a row for each image stays as it came for the first batch."""
    first, *_ = parts
    whole = [one for one, length in zip(parts, lengths, strict=True) if one is not None and one.ndim and len(one) == length]
    return torch.cat(whole)[:images] if len(whole) == len(lengths) else first


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
    given = probes(geometry.size).to(runtime.device)
    with torch.no_grad():
        if isinstance(network, SeveralOutputs):
            found = network.outputs(adapter.every_output(given))
            choice = choose(found, len(given), network.graph, card, path, "output=" if beside else "")
            network.chosen = choice.number
            if choice.note:
                LOGGER.warning("%s: %s", path, choice.note)  # shown by every command
            seen = torch.from_numpy(found[choice.number].scores(len(given)))
        else:
            seen = adapter.scores(given).cpu()
    if seen.ndim != 2:
        raise PetechiaError(
            f"{path} returns scores of {seen.ndim} dimensions; a classifier returns two dimensions, images and classes."
        )
    classes = card.names(seen.shape[1], path, beside)
    adapter.meaning = _meaning(seen, card, path)
    looked_into = adapter if isinstance(network, nn.Module) else None
    return Classifier(str(path), classes, geometry, adapter, runtime, looked_into, colour=input_spec.channels == 3)


def probes(size: int) -> Tensor:
    """Return test images that no model was trained on: black, grey, white and noise, float32 [8, 1, size, size]."""
    noise = stream(0, "probe").random((5, 1, size, size), np.float32)
    even = np.broadcast_to(np.array([0, 0.5, 1], np.float32).reshape(-1, 1, 1, 1), (3, 1, size, size))
    return torch.from_numpy(np.concatenate([even, noise]))


def _meaning(seen: Tensor, card: Card, path: Path) -> Meaning:
    """Return what scores for test images mean."""
    several = seen.shape[1] > 1
    if several and bool((seen <= 0).all()) and _add_up(seen.exp()):
        LOGGER.warning("%s: the scores are logarithms of probabilities that add up to 1, and are read as such.", path)
        return "softmax"
    if _are_probabilities(seen, card, path):
        return "shares" if several and _add_up(seen) else "probabilities"
    return "softmax" if card.task == "multi-class" else "logits"


def _add_up(seen: Tensor) -> bool:
    return bool(((seen.sum(dim=1) - 1).abs() < SHARE).all())


def _are_probabilities(seen: Tensor, card: Card, path: Path) -> bool:
    """Return whether scores for test images are probabilities. The card decides; the user is told if it looks wrong."""
    between = bool(((seen >= 0) & (seen <= 1 + ROUNDED)).all())
    if card.outputs == "probabilities" and not between and bool(seen.isfinite().all()):
        low, high = float(seen.min()), float(seen.max())
        raise PetechiaError(
            f"{path} gives scores from {low:.3g} to {high:.3g}, but its JSON states probabilities; set outputs to logits."
        )
    if card.outputs == "logits" and between:
        whole = seen.shape[1] > 1 and _add_up(seen)
        what = "add up to 1 for each test image, as after a softmax" if whole else "lie in 0 to 1 for all test images"
        LOGGER.warning(
            "%s: the scores %s, but %s says logits; set outputs to probabilities if they are.", path, what, card_path(path).name
        )
    return between if card.outputs is None else card.outputs == "probabilities"
