"""ONNX models as black boxes: onnxruntime runs them in a worker process with limits, and their layers are not accessible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from petechia.core.budget import check_file, limit
from petechia.core.errors import PetechiaError, printable
from petechia.core.runtime import Runtime
from petechia.core.worker import Limits, Session
from petechia.models.classifier import Classifier
from petechia.models.onnx_worker import NUMBERS
from petechia.models.openers.adapter import InputSpec, classifier_of
from petechia.models.openers.card import Card
from petechia.models.openers.outputs import Graph, Output

HERE = "petechia.models.onnx_worker"
AT_ONCE = 64  # images a call, so that the time limit of a call does not stop a slow model


@dataclass
class OnnxNetwork:
    """Runs an ONNX model in its worker: images, float32 [B, C, H, W] → the model's own scores, float32 [B, K].

    Attributes:
        session: the worker in which the model is open.
        input: name of the input.
        names: names of the outputs.
        graph: how the outputs are computed.
        number: NumPy type of the input.
        channels_last: whether the input is [B, H, W, C].
        path: path of the model file.
        fixed: whether the model takes one number of images only.
        chosen: position of the output that contains the scores.
    """

    session: Session
    input: str
    names: list[str]
    graph: Graph
    number: Any
    channels_last: bool
    path: Path
    fixed: bool
    chosen: int = 0

    def __call__(self, images: Tensor) -> Tensor:
        """Return the raw scores.

        Raises:
            PetechiaError: the model cannot be run on these images, or takes too much time or memory.
        """
        parts = torch.split(images, len(images) if self.fixed else AT_ONCE)
        return torch.cat([self._scores(some) for some in parts]).to(images.device)

    def _scores(self, images: Tensor) -> Tensor:
        (scores,) = self._run(images, [self.names[self.chosen]])
        if scores is None or scores.ndim < 1 or len(scores) != len(images):
            raise PetechiaError(f"{self.path} returned no scores for {len(images)} images; export it again.")
        return scores.reshape(len(scores), -1)

    def every(self, images: Tensor) -> list[Tensor | None]:
        """Return all outputs; None for what is not a tensor of floating-point numbers."""
        return self._run(images, self.names)

    def outputs(self, values: Sequence[Tensor | None]) -> list[Output]:
        """Describe what `every` returned."""
        return [
            Output(name, None if found is None else found.numpy(), name) for name, found in zip(self.names, values, strict=True)
        ]

    def _run(self, images: Tensor, wanted: list[str]) -> list[Tensor | None]:
        arranged = images.permute(0, 2, 3, 1) if self.channels_last else images
        batch = np.ascontiguousarray(arranged.detach().cpu().numpy(), self.number)
        found = self.session.ask(f"{HERE}:run", str(self.path), self.input, batch, wanted)
        if not isinstance(found, list) or len(found) != len(wanted):
            raise PetechiaError(f"{self.path} made its process send a damaged answer; check the file.")
        return [torch.from_numpy(one) if isinstance(one, np.ndarray) else None for one in found]


def of_onnx(path: Path, runtime: Runtime) -> Classifier:
    """Open an ONNX file as a black box, with the JSON file beside it if there is one; see `Card`.

    Raises:
        PetechiaError: onnxruntime is not installed, the file is not an image classifier, or the JSON does not match it.
    """
    card, session = Card.beside(path), _session(path)
    given, returned = session.opened["inputs"], session.opened["outputs"]
    name, number, shape = given[0] if given else ("", "", [])
    if number == "tensor(bfloat16)":
        raise PetechiaError(f"{path} takes bfloat16 images, which NumPy cannot hold; export it in float32 or float16.")
    if len(given) != 1 or len(shape) != 4 or number not in NUMBERS:
        what = ", ".join(_said(*one) for one in given) or "nothing"
        raise PetechiaError(f"{path} takes {what}; an image classifier takes one batch of images, float [B, C, H, W].")
    batch, *sides = (side if isinstance(side, int) and side > 0 else None for side in shape)
    channels_last = sides[2] in (1, 3) and sides[0] not in (1, 3)
    height, width, channels = sides if channels_last else (*sides[1:], sides[0])
    input_spec = InputSpec.of(path, card, batch, channels, height, width)
    names = [output[0] for output in returned if output[1].startswith("tensor(")]
    if not names:
        what = ", ".join(_said(*one) for one in returned) or "nothing"
        raise PetechiaError(f"{path} returns {what}; a classifier returns scores, float [images, classes].")
    graph = Graph({value: (kind, tuple(taken)) for kind, taken, made in session.opened["graph"] for value in made})
    network = OnnxNetwork(session, name, names, graph, NUMBERS[number], channels_last, path, batch is not None)
    return classifier_of(path, network, input_spec, card, runtime)


def _said(name: str, number: str, shape: list[Any]) -> str:
    sides = ", ".join("?" if side is None else str(side) for side in shape[:8])
    return f"{printable(name)}: {printable(number)} [{sides}]"


def _session(path: Path) -> Session:
    missing = [package for package in ("onnx", "onnxruntime") if find_spec(package) is None]
    if missing:
        raise PetechiaError(f"{path} needs {' and '.join(missing)}; install it with pip install 'petechia[onnx]'.")
    check_file(path, "model_bytes", "check the path of the model")
    threads = torch.get_num_threads()
    limits = Limits(limit("model_memory"), limit("model_seconds"), threads=threads)
    return Session(str(path), limits, (HERE,), f"{HERE}:open_model", str(path.resolve()), threads)
