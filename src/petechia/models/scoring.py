"""The scores that a model gives images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from petechia.core.graphs import Piecewise, Replayed, keeps_tensors
from petechia.core.progress import SILENT, Progress
from petechia.core.runtime import Runtime
from petechia.data.dataset import Images
from petechia.models.feeding import Feed
from petechia.models.model import Model, images_at_once


class Predictor:
    """Scores images with one model, whose weights may change between calls.

    Attributes:
        model: a model on the runtime's device.
        runtime: device and precision.
    """

    def __init__(self, model: Model, runtime: Runtime) -> None:
        self.model = model
        self.runtime = runtime
        self.scores = Replayed(self._scores, runtime.recorder, "scoring", lambda: not keeps_tensors(model))
        self.pieces = Piecewise(self.scores)

    def __call__(self, images: Images | Feed, progress: Progress = SILENT) -> NDArray[np.float32]:
        """Return the predicted probabilities, float32 [N, K].

        Under several processes, the batches are divided among them. Every process must call this, and each gets all scores.

        Args:
            images: prepared images, uint8 [N, H, W] or [N, H, W, 3]; a feed, if they are scored more than once.
            progress: advanced by the number of images that all processes have finished.
        """
        feed = images if isinstance(images, Feed) else Feed(images, self.runtime, keep=False)
        size = images_at_once(self.runtime.device, feed.pixels)
        batches = list(self.runtime.batches(len(feed), size))
        found = torch.zeros(len(feed), len(self.model.description.classes), device=self.runtime.device)
        self.model.eval()
        with torch.inference_mode():
            given = feed.batches([rows for rows, _ in batches if len(rows)])
            for rows, together in batches:
                if len(rows):
                    found[int(rows[0]) : int(rows[-1]) + 1] = self.pieces(next(given))
                progress.advance(together)
        return self.runtime.sum(found.cpu()).numpy()

    def _scores(self, images: Tensor) -> Tensor:
        with self.runtime.autocast(cache=False):  # in here, or a graph would keep the weights that autocast has cast before
            logits: Tensor = self.model(self.runtime.tensor(images))
        return logits.sigmoid()


def predict(model: Model, images: Images, runtime: Runtime, progress: Progress = SILENT) -> NDArray[np.float32]:
    """Return the predicted probabilities of images, float32 [N, K], as `Predictor` does."""
    predictor = Predictor(model, runtime)
    return predictor(images, progress)
