"""Three ways to repair a model: unlearning a known trigger, fine-pruning, and fine-tuning."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from petechia.core.errors import PetechiaError
from petechia.core.progress import SILENT, Progress
from petechia.core.rows import evenly_spread
from petechia.core.runtime import Runtime
from petechia.core.settings import Settings
from petechia.data.dataset import Selection
from petechia.detect.repair.clean import CleanSet
from petechia.detect.repair.known_trigger import Known, SometimesStamped
from petechia.measure import auroc
from petechia.models.model import Model, images_at_once
from petechia.models.scoring import predict
from petechia.models.training import Labelled, Trainer, Training

Method = Literal["unlearn", "fine-prune", "fine-tune"]
STEPS = 200  # of training where the number of epochs is not given
LEVELS = 50  # numbers of pruned channels that are tried


class Repairing(Settings):
    """How a model is repaired.

    Attributes:
        method: "unlearn" teaches the model to answer stamped images as it answers the same images without the stamp; no
            label is needed for that. It is unlearning with a recovered trigger (Neural Cleanse, Wang et al. 2019), but with
            the model's own answers instead of labels, which keeps what it has learned. "fine-prune" (Liu et al. 2018)
            removes the channels before the last layer that clean images activate least, then trains on the labels.
            "fine-tune" only trains on the labels.
        epochs: of training; null gives about 200 steps.
        lr: learning rate, the peak of a one-cycle schedule.
        batch_size: images a step.
        jitter: pixels, each way, by which a trigger at a fixed place is moved at random while it is unlearned, because a
            recovered place need not be exact.
        tolerance: how much AUROC pruning may cost, on the images that the model is repaired with.
    """

    method: Method = "unlearn"
    epochs: int | None = Field(None, ge=1)
    lr: float = Field(5e-4, gt=0)
    batch_size: int = Field(32, ge=2)
    jitter: int = Field(2, ge=0)
    tolerance: float = Field(0.01, ge=0, lt=1)

    def training(self, images: int) -> Training:
        """The settings of the training, for a number of images."""
        epochs = self.epochs or max(1, round(STEPS * self.batch_size / images))
        return Training(epochs=epochs, lr=self.lr, batch_size=self.batch_size)


class FrozenBatchNormModel(Model):
    """A model whose batch norms keep the statistics of its first training while it learns from other images.

    A few hundred images, half of them stamped, would move these statistics, and with them what the model makes of any image.
    """

    def train(self, mode: bool = True) -> FrozenBatchNormModel:
        """Training mode for all layers but the batch norms."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self


def repair(
    model: Model,
    clean: CleanSet,
    runtime: Runtime,
    how: Repairing | None = None,
    triggers: Sequence[Known] = (),
    seed: int = 0,
    progress: Progress = SILENT,
) -> Model:
    """Make a repaired copy of a model. Its provenance says that it was repaired, and how.

    Args:
        model: not changed.
        clean: images to repair with; not those to measure on.
        runtime: where to compute.
        how: the method and its settings.
        triggers: to unlearn.
        seed: of the order of images and of places.
        progress: told of phases and of trained images.

    Raises:
        PetechiaError: the method lacks a trigger or labels, or a trigger does not fit the model.
    """
    how = how or Repairing()
    check(model, how, triggers)
    description = model.description
    if how.method != "unlearn" and not (np.ptp(clean.labels, axis=0)[(clean.labels >= 0).any(axis=0)] > 0).any():
        raise PetechiaError(f"{how.method} learns from labels, and the clean images have none; give a labelled source.")
    repaired = runtime.to_device(FrozenBatchNormModel(copy.deepcopy(model.network), description))
    notes: dict[str, Any] = {}
    if how.method == "fine-prune":
        notes["pruned"] = prune(repaired, clean, how.tolerance, runtime)
    data = _unlearning(repaired, clean, triggers, how.jitter, runtime, seed) if how.method == "unlearn" else _labelled(clean)
    trainer = Trainer(repaired, data, how.training(len(data.images)), runtime, seed)
    progress.phase("training", len(data.images) * how.training(len(data.images)).epochs)
    while not trainer.finished:
        trainer.run_epoch(progress)
    repaired.eval()
    history = {**how.model_dump(), **notes, "images": len(clean.images), "seed": seed}
    provenance = {**description.provenance, "repaired": [*description.provenance.get("repaired", []), history]}
    repaired.description = description.model_copy(update={"provenance": provenance})
    return repaired


def check(model: Model, how: Repairing, triggers: Sequence[Known]) -> None:
    """Check what can be checked before any image is read.

    Raises:
        PetechiaError: a trigger is missing, or does not fit the model.
    """
    if how.method == "unlearn" and not triggers:
        raise PetechiaError("There is no trigger to unlearn; give that of an audit, or repair with fine-prune or fine-tune.")
    for trigger in triggers:
        trigger.check_fits(model.description.classes, model.description.preprocess.size)


def _labelled(clean: CleanSet) -> Labelled:
    return Labelled(clean.images, clean.labels)


def _unlearning(model: Model, clean: CleanSet, triggers: Sequence[Known], jitter: int, runtime: Runtime, seed: int) -> Labelled:
    """Every image without and with a trigger, both with the answer that the model gives without it."""
    answers = predict(model, clean.images, runtime)
    every = np.arange(len(answers))
    stamped = np.repeat([False, True], len(every))
    images = SometimesStamped(Selection(clean.images, np.tile(every, 2)), stamped, triggers, jitter, seed)
    wanted: Any = np.tile(answers, (2, 1))  # probabilities serve the loss as labels do
    return Labelled(images, wanted)


def prune(model: Model, clean: CleanSet, tolerance: float, runtime: Runtime) -> int:
    """Remove the channels before the last layer that clean images activate least, as many as can be spared.

    Fine-pruning (Liu et al. 2018): channels are removed in the order of their mean activation on clean images, the least
    active first, until the model gets worse. After global pooling, a channel is removed by zeros in the last layer. It stays
    removed: these weights are not trained any more.

    Args:
        model: changed in place.
        clean: images with labels.
        tolerance: how much the micro AUROC on them may fall.
        runtime: where to compute.

    Returns:
        How many channels were removed.

    Raises:
        PetechiaError: the network does not end in a linear layer.
    """
    last = model.network.get_classifier()  # type: ignore[operator]
    if not isinstance(last, nn.Linear):
        arch = model.description.architecture.arch
        raise PetechiaError(f"{arch} does not end in one linear layer, which fine-pruning needs; use another method.")
    active = _before_last(model, clean, runtime)
    weight, bias = last.weight.detach().cpu(), 0 if last.bias is None else last.bias.detach().cpu()
    order = active.mean(dim=0).argsort()

    def area(pruned: int) -> float:
        kept = weight.clone()
        kept[:, order[:pruned]] = 0
        return auroc(model.logits_of(active @ kept.T + bias).numpy(), clean.labels)

    least = area(0) - tolerance
    spared = 0
    for pruned in evenly_spread(len(order), LEVELS, nearest=False).tolist():
        if area(pruned) < least:
            break
        spared = pruned
    stays = torch.ones_like(last.weight)
    stays[:, order[:spared]] = 0
    with torch.no_grad():
        last.weight.mul_(stays)
    last.weight.register_hook(lambda gradient: gradient * stays)  # type: ignore[no-untyped-call]
    return spared


def _before_last(model: Model, clean: CleanSet, runtime: Runtime) -> Tensor:
    """The input of the last layer for each image, float32 [N, D]."""
    model.eval()
    network: Any = model.network
    found = []
    with torch.inference_mode(), runtime.autocast():
        step = images_at_once(runtime.device, int(np.prod(clean.images.shape[1:3])))
        for start in range(0, len(clean.images), step):
            rows: NDArray[np.intp] = np.arange(start, min(start + step, len(clean.images)))
            normal = (runtime.tensor(clean.images[rows]) - model.mean) / model.std
            found.append(network.forward_head(network.forward_features(normal), pre_logits=True).float().cpu())
    return torch.cat(found)
