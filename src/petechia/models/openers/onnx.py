"""ONNX models as black boxes: onnxruntime runs them, and their layers are not accessible."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from petechia.core.errors import PetechiaError, first_line
from petechia.core.runtime import Runtime
from petechia.models.classifier import Classifier
from petechia.models.openers.adapter import InputSpec, classifier_of
from petechia.models.openers.card import Card

NUMBERS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


@dataclass(frozen=True)
class OnnxNetwork:
    """Runs an ONNX model: images, float32 [B, C, H, W] → the model's own scores, float32 [B, K].

    Attributes:
        session: onnxruntime session.
        input: name of the input.
        output: name of the output that holds the scores.
        number: NumPy type of the input.
        channels_last: whether the input is [B, H, W, C].
        path: path of the model file.
    """

    session: Any
    input: str
    output: str
    number: Any
    channels_last: bool
    path: Path

    def __call__(self, images: Tensor) -> Tensor:
        """Return the raw scores."""
        arranged = images.permute(0, 2, 3, 1) if self.channels_last else images
        feed = {self.input: np.ascontiguousarray(arranged.cpu().numpy(), self.number)}
        try:
            (scores,) = self.session.run([self.output], feed)
        except Exception as error:
            raise PetechiaError(f"{self.path} cannot be run on images ({first_line(error)}); export it again.") from None
        return torch.from_numpy(np.asarray(scores, np.float32)).to(images.device)


def of_onnx(path: Path, runtime: Runtime) -> Classifier:
    """Open an ONNX file as a black box, with the JSON file beside it if there is one; see `Card`.

    Raises:
        PetechiaError: onnxruntime is not installed, the file is not an image classifier, or the JSON does not match it.
    """
    card, session = Card.beside(path), _session(path)
    given = session.get_inputs()
    shape = given[0].shape if given else []
    if len(given) != 1 or len(shape) != 4 or given[0].type not in NUMBERS:
        what = ", ".join(f"{one.name}: {one.type} {one.shape}" for one in given) or "nothing"
        raise PetechiaError(f"{path} takes {what}; an image classifier takes one batch of images, float [B, C, H, W].")
    batch, *sides = (side if isinstance(side, int) else None for side in shape)
    channels_last = sides[2] in (1, 3) and sides[0] not in (1, 3)
    height, width, channels = sides if channels_last else (*sides[1:], sides[0])
    input_spec = InputSpec.of(path, card, batch, channels, height, width)
    network = OnnxNetwork(session, given[0].name, _scores_of(session, path), NUMBERS[given[0].type], channels_last, path)
    return classifier_of(path, network, input_spec, card, runtime)


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise PetechiaError(f"{path} needs onnxruntime; install it with pip install 'petechia[onnx]'.") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised, not logged
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise PetechiaError(f"{path} is not a valid ONNX model ({first_line(error)}); export it again.") from None


def _scores_of(session: Any, path: Path) -> str:
    """Return the name of the first output of shape [images, classes]."""
    given = session.get_outputs()
    for one in given:
        if one.type in NUMBERS and len(one.shape) == 2:
            return str(one.name)
    what = ", ".join(f"{one.name}: {one.type} {one.shape}" for one in given)
    raise PetechiaError(f"{path} returns {what}; a classifier returns scores, float [images, classes].")
