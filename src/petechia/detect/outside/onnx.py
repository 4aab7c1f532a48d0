"""ONNX models, as black boxes: onnxruntime runs them, nothing is known of their layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from petechia.compute import Machine
from petechia.data.preprocess import Preprocess
from petechia.detect.classifier import Classifier
from petechia.detect.outside.card import Card, first_line, per_channel
from petechia.errors import PetechiaError
from petechia.randomness import stream

NUMBERS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
CERTAIN = 1e-6  # a probability nearer to 0 or 1 is taken for this far from it: its logit must stay finite


@dataclass(frozen=True)
class OnnxInput:
    """What an ONNX model takes.

    Attributes:
        name: of the input.
        number: its type.
        batch: images at a time; None is any number.
        channels: 1 or 3.
        size: side of the images; None is any.
        channels_last: whether it takes [B, H, W, C].
    """

    name: str
    number: Any
    batch: int | None
    channels: int
    size: int | None
    channels_last: bool

    @staticmethod
    def of(session: Any, card: Card, path: Path) -> OnnxInput:
        """As the file says, and the card where the file does not.

        Raises:
            PetechiaError: it is not one batch of square images of 1 or 3 channels.
        """
        given = session.get_inputs()
        shape = given[0].shape if given else []
        if len(given) != 1 or len(shape) != 4 or given[0].type not in NUMBERS:
            what = ", ".join(f"{one.name}: {one.type} {one.shape}" for one in given) or "nothing"
            raise PetechiaError(f"{path} takes {what}; a classifier of images takes one batch of them, float [B, C, H, W].")
        batch, *sides = (side if isinstance(side, int) else None for side in shape)
        channels_last = sides[2] in (1, 3) and sides[0] not in (1, 3)
        height, width, channels = sides if channels_last else (*sides[1:], sides[0])
        channels = channels or card.channels
        if channels is None:
            raise PetechiaError(f"{path} does not say how many channels its images have; give channels in a JSON beside it.")
        if channels not in (1, 3) or card.channels not in (None, channels):
            raise PetechiaError(f"{path} takes images of {channels} channels; 1 or 3, as its JSON says, can be given.")
        if height != width:
            raise PetechiaError(f"{path} takes images of {height} x {width} pixels; only squares can be given.")
        return OnnxInput(given[0].name, NUMBERS[given[0].type], batch, channels, height, channels_last)

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


@dataclass(frozen=True)
class OnnxAnswer:
    """Asks an ONNX model: float32 [B, C, H, W] in 0…1 → logits, float32 [B, K]."""

    session: Any
    output: str
    takes: OnnxInput
    mean: Tensor
    std: Tensor
    probabilities: bool
    name: str

    def __call__(self, images: Tensor) -> Tensor:
        """Logits of any number of images; grey ones are repeated for a model of colour."""
        given = (images.float().cpu().expand(-1, self.takes.channels, -1, -1) - self.mean) / self.std
        scores = torch.cat([self._ask(some) for some in torch.split(given, self.takes.batch or max(1, len(given)))])[
            : len(given)
        ]
        return (scores.logit(eps=CERTAIN) if self.probabilities else scores).to(images.device)

    def _ask(self, images: Tensor) -> Tensor:
        """Raw scores; a fixed batch is filled up, so there may be more than images."""
        if self.takes.batch and len(images) < self.takes.batch:
            images = torch.cat([images, images[-1:].expand(self.takes.batch - len(images), -1, -1, -1)])
        arranged = images.permute(0, 2, 3, 1) if self.takes.channels_last else images
        feed = {self.takes.name: np.ascontiguousarray(arranged.numpy(), self.takes.number)}
        try:
            (scores,) = self.session.run([self.output], feed)
        except Exception as error:
            raise PetechiaError(f"{self.name} cannot be asked ({first_line(error)}).") from None
        return torch.from_numpy(np.asarray(scores, np.float32))


def of_onnx(path: Path, machine: Machine) -> Classifier:
    """A black box of the model in a file and, if it is there, the JSON beside it, see `Card`.

    Raises:
        PetechiaError: onnxruntime is not installed, or it is no model that scores images, or the JSON does not fit it.
    """
    card, session = Card.beside(path), _session(path)
    takes = OnnxInput.of(session, card, path)
    geometry = takes.geometry(card, path)
    mean, std = (
        torch.tensor(per_channel(given, takes.channels, str(path))).view(-1, 1, 1)
        for given in (card.mean or (0.0,), card.std or (1.0,))
    )
    raw = OnnxAnswer(session, _scores_of(session, path), takes, mean, std, False, str(path))
    seen = raw(_probes(geometry.size))
    if seen.ndim != 2:
        raise PetechiaError(f"{path} gives scores of {seen.ndim} dimensions; a classifier gives [images, classes].")
    classes = card.names(seen.shape[1], path)
    answer = replace(raw, probabilities=_are_probabilities(seen, card, path))
    return Classifier(str(path), classes, geometry, answer, machine, colour=takes.channels == 3)


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise PetechiaError(f"{path} needs onnxruntime; install it with pip install 'petechia[onnx]'.") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what goes wrong is raised
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise PetechiaError(f"{path} is not an ONNX model that can be run ({first_line(error)}).") from None


def _scores_of(session: Any, path: Path) -> str:
    """The name of the first output [images, classes]."""
    given = session.get_outputs()
    for one in given:
        if one.type in NUMBERS and len(one.shape) == 2:
            return str(one.name)
    what = ", ".join(f"{one.name}: {one.type} {one.shape}" for one in given)
    raise PetechiaError(f"{path} gives {what}; a classifier gives scores, float [images, classes].")


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
