"""The victim's training loop. It knows nothing about the attack."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from petechia.core.errors import PetechiaError
from petechia.core.graphs import Replayed
from petechia.core.progress import SILENT, Progress
from petechia.core.randomness import stream
from petechia.core.runtime import Runtime
from petechia.core.settings import Settings
from petechia.core.task import Task
from petechia.data.dataset import Images
from petechia.models.feeding import Feed
from petechia.models.model import Model

Loss = Literal["bce", "sigmoid-cce", "cross-entropy"]
VALIDATED = 256  # images at a time; where labels are unknown, the loss depends on it
PATIENCE, FACTOR, FLOOR, STOP_AFTER = 3, 0.5, 1e-5, 10  # the paper's plateau schedule


class Training(Settings):
    """How the victim trains.

    Attributes:
        epochs: maximum number of epochs.
        batch_size: images per step. An epoch is split into steps of nearly this size; no step is tiny.
        loss: "bce" is binary cross-entropy on logits. "sigmoid-cce" is the loss of the paper's code, categorical cross-entropy
            on sigmoid outputs: outputs divided by their sum, then -sum(y log p). "cross-entropy" is that of a softmax, for
            classes that exclude each other. null selects "cross-entropy" for a multi-class task and "bce" for any other; the
            configuration of a run states which one was used.
        class_weights: "none", or "frequency" as in the paper's code; see `frequency_weights`.
        optimizer: "adam".
        lr: learning rate; the peak rate for one-cycle.
        schedule: "plateau" halves the rate after 3 epochs without a better validation loss, down to 1e-5, and stops after
            10; "one-cycle" raises and lowers the rate once over all epochs.
        validation: share of the training patients held out for the plateau schedule; null is 0.1 for plateau, 0 for one-cycle.
        flip: mirror half of the training images left to right.
        rotate: rotate half of the training images by up to this many degrees in either direction.
    """

    epochs: int = Field(4, ge=1)
    batch_size: int = Field(32, ge=2)
    loss: Loss | None = None
    class_weights: Literal["none", "frequency"] = "none"
    optimizer: Literal["adam"] = "adam"
    lr: float = Field(2e-3, gt=0)
    schedule: Literal["plateau", "one-cycle"] = "one-cycle"
    validation: float | None = Field(None, ge=0, lt=1)
    flip: bool = False
    rotate: float = Field(0, ge=0, le=180)

    @model_validator(mode="after")
    def _plateau_needs_validation(self) -> Training:
        if self.schedule == "plateau" and self.held_out == 0:
            raise ValueError("the plateau schedule needs train.validation above 0")
        return self

    def loss_for(self, task: Task, classes: int) -> Loss:
        """Return the loss; if none is set, the default of the task.

        Args:
            task: task of the data.
            classes: number of classes.

        Raises:
            PetechiaError: the loss does not suit the task.
        """
        loss = self.loss or ("cross-entropy" if task == "multi-class" else "bce")
        if loss == "cross-entropy" and task != "multi-class":
            raise PetechiaError(
                "train.loss is cross-entropy, which needs one class per image, but the data are multi-label; use bce."
            )
        if loss == "sigmoid-cce" and classes == 1:
            raise PetechiaError(
                "train.loss is sigmoid-cce, which divides every score by the sum of all, which is always 1 for a single class; "
                "use bce."
            )
        return loss

    @property
    def held_out(self) -> float:
        """Share of the training patients in the validation split."""
        if self.validation is None:
            return 0.1 if self.schedule == "plateau" else 0
        return self.validation


class Labelled(NamedTuple):
    """Images with their labels, int8 [N, K]: 1 present, 0 absent, -1 unknown."""

    images: Images
    labels: NDArray[np.int8]


class EpochLog(NamedTuple):
    """The record of an epoch. `validation_loss` is None without a validation split."""

    epoch: int
    loss: float
    validation_loss: float | None
    images: int
    seconds: float


def frequency_weights(labels: NDArray[np.int8]) -> NDArray[np.float32]:
    """Weights that give the positives and the negatives of a class the same total weight, as in CheXNet (2017).

    A positive has the share of images without the class as its weight, a negative the share with it. Unknown labels do not
    count. The negatives of a class that no image shows have weight 0, because such a class teaches nothing.

    Args:
        labels: int8 [N, K], see `Labelled`.

    Returns:
        float32 [2, K]: weights of the negatives and of the positives.
    """
    shown = (labels == 1).sum(axis=0) / np.maximum((labels >= 0).sum(axis=0), 1)
    return np.stack([shown, 1 - shown]).astype(np.float32)


def mean_loss(logits: Tensor, labels: Tensor, kind: Loss, weights: Tensor | None = None) -> Tensor:
    """Return the mean loss of a batch. Unknown labels (-1) do not count.

    Args:
        logits: float32 [B, K], as returned by `Model`; in a multi-class model, log-odds of each class against all others.
        labels: float32 [B, K].
        kind: see `Training`. "cross-entropy" is averaged over the images whose class is known.
        weights: float32 [2, K], factors of the negative and the positive terms. "sigmoid-cce" and "cross-entropy" only have
            positive terms. The mean is over the number of terms, regardless of their weights.
    """
    known = labels >= 0
    if kind == "bce":
        each = functional.binary_cross_entropy_with_logits(logits, labels.clamp(min=0), reduction="none")
        if weights is not None:
            each = each * torch.where(labels > 0, weights[1], weights[0])
        return (each * known).sum() / known.sum().clamp(min=1)
    positives = labels.clamp(min=0) if weights is None else labels.clamp(min=0) * weights[1]
    if kind == "cross-entropy":  # the sigmoid of these logits is the softmax
        return -(positives * functional.logsigmoid(logits)).sum() / (labels > 0).any(dim=1).sum().clamp(min=1)
    scores = logits.sigmoid() * known
    shares = scores / scores.sum(dim=1, keepdim=True).clamp(min=1e-7)
    return -(positives * shares.clamp(min=1e-7, max=1 - 1e-7).log()).sum(dim=1).mean()


def _terms(labels: NDArray[np.int8], kind: Loss) -> int:
    """Return the number of terms that `mean_loss` averages over."""
    if kind == "cross-entropy":
        return int((labels > 0).any(axis=1).sum())
    return int((labels >= 0).sum()) if kind == "bce" else len(labels)


def draw_turns(count: int, rng: np.random.Generator, flip: bool, rotate: float) -> NDArray[np.float32]:
    """Draw random reflections and rotations, each for half of the images.

    Args:
        count: number of images.
        rng: random number generator.
        flip: whether to mirror.
        rotate: largest angle, in degrees.

    Returns:
        Affine matrices, float32 [count, 2, 3].
    """
    mirror = np.where(rng.random(count) < 0.5, -1.0, 1.0) if flip else np.ones(count)
    angle = np.where(rng.random(count) < 0.5, np.radians(rng.uniform(-rotate, rotate, count)), 0.0)
    turns = np.zeros((count, 2, 3), np.float32)
    turns[:, 0, 0], turns[:, 0, 1] = mirror * np.cos(angle), -np.sin(angle)
    turns[:, 1, 0], turns[:, 1, 1] = mirror * np.sin(angle), np.cos(angle)
    return turns


def turn(batch: Tensor, turns: Tensor) -> Tensor:
    """Mirror and rotate images, float32 [B, C, H, W], each by its own matrix, [B, 2, 3]; pixels from outside are black."""
    grid = functional.affine_grid(turns, list(batch.shape), align_corners=False)
    turned = functional.grid_sample(batch, grid, padding_mode="zeros", align_corners=False)
    return turned.contiguous(memory_format=torch.channels_last)


class Trainer:
    """Trains a model epoch by epoch. An epoch depends only on the seed, its number and the trainer's state.

    Several processes can train one model, each on its share of every batch. Order, augmentation, gradients and batch
    statistics equal those of a single process, so results agree up to rounding (networks with dropout draw other masks).
    Every process must create the trainer, run its epochs and restore it in the same way.
    """

    def __init__(
        self,
        model: Model,
        data: Labelled,
        settings: Training,
        runtime: Runtime,
        seed: int,
        validation: Labelled | None = None,
    ) -> None:
        if len(data.images) < 2:
            raise PetechiaError(f"There are {len(data.images)} training images; training needs at least 2.")
        if settings.schedule == "plateau" and (validation is None or len(validation.images) == 0):
            raise PetechiaError(
                "train.schedule is plateau, but no image is held out; raise train.validation, or choose one-cycle."
            )
        self.steps = -(-len(data.images) // settings.batch_size)
        if (smallest := len(data.images) // self.steps) < runtime.world_size:
            raise PetechiaError(
                f"Batches of {smallest} images cannot be shared among {runtime.world_size} processes; "
                f"raise train.batch_size, or start fewer processes."
            )
        self.model = runtime.to_device(model)
        self.replica = runtime.replicate(self.model)
        self.data = data
        self.feed = Feed(data.images, runtime)
        self.settings = settings
        self.kind = settings.loss_for(model.description.task, len(model.description.classes))
        self.runtime = runtime
        self.seed = seed
        self.validation = validation
        self.epoch = 0
        self.best = float("inf")
        self.stale = 0
        self.weights: Tensor | None = None
        if settings.class_weights == "frequency":
            self.weights = torch.from_numpy(frequency_weights(data.labels)).to(runtime.device)
        self.trained = [one for one in self.replica.parameters() if one.requires_grad]
        self.gradients = Replayed(self._gradients, runtime.recorder, "training")
        self.optimizer = torch.optim.Adam(model.parameters(), settings.lr, fused=True)
        self.schedule: OneCycleLR | ReduceLROnPlateau
        if settings.schedule == "one-cycle":
            self.schedule = OneCycleLR(self.optimizer, settings.lr, total_steps=settings.epochs * self.steps)
        else:
            self.schedule = ReduceLROnPlateau(self.optimizer, factor=FACTOR, patience=PATIENCE, min_lr=FLOOR)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the plateau schedule has stopped."""
        return self.epoch >= self.settings.epochs or self.stale >= STOP_AFTER

    def run_epoch(self, progress: Progress = SILENT) -> EpochLog:
        """Train one epoch.

        Args:
            progress: advanced by the number of images that all processes have finished.

        Raises:
            PetechiaError: the loss is NaN or infinite.
        """
        started = time.perf_counter()
        self.epoch += 1
        rng = stream(self.seed, "order", self.epoch)
        torch.manual_seed(int(rng.integers(2**62)) + self.runtime.rank)  # for networks with dropout
        self.replica.train()
        total = torch.zeros((), device=self.runtime.device)
        batches = np.array_split(rng.permutation(len(self.data.images)), self.steps)
        for rows, inputs in zip(batches, self._inputs(batches, rng), strict=True):
            total += self._step(*inputs) * len(rows)
            progress.advance(len(rows))
        loss = float(self.runtime.sum(total)) / len(self.data.images)
        if not np.isfinite(loss):
            raise PetechiaError(f"The loss is {loss} in epoch {self.epoch}; lower train.lr.")
        return EpochLog(self.epoch, loss, self._validate(), len(self.data.images), time.perf_counter() - started)

    def _inputs(self, batches: Sequence[NDArray[np.intp]], rng: np.random.Generator) -> Iterator[tuple[Tensor, ...]]:
        """This process's part of each batch, on the device: images, labels, its share of the loss, and turns, if there are any.

        All but the images go to the device at once: a copy for each batch would wait for the batch before it.
        """
        mine = [self.runtime.share(rows) for rows in batches]
        sizes = [len(rows) for rows in mine]
        counts = [[_terms(self.data.labels[rows], self.kind) for rows in some] for some in (mine, batches)]
        shares = torch.tensor([own / max(1, every) for own, every in zip(*counts, strict=True)], device=self.runtime.device)
        labels = torch.split(self._labels(self.data, np.concatenate(mine)), sizes)
        inputs: list[Iterable[Tensor]] = [self.feed.batches(mine), labels, shares]
        if self.settings.flip or self.settings.rotate:
            turns = [draw_turns(len(rows), rng, self.settings.flip, self.settings.rotate) for rows in batches]
            drawn = torch.from_numpy(np.concatenate([self.runtime.share(one) for one in turns]))
            inputs.append(torch.split(drawn.to(self.runtime.device), sizes))
        return zip(*inputs, strict=True)

    def _step(self, *inputs: Tensor) -> Tensor:
        """Train on a batch and return this process's contribution to its loss."""
        try:
            loss, gradients = self.gradients(*inputs)
        except torch.OutOfMemoryError:
            raise PetechiaError(
                f"The GPU has no memory for a batch of {len(inputs[0])} images; lower train.batch_size or preprocess.size, or "
                f"free some of it."
            ) from None
        for parameter, gradient in zip(self.trained, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad()  # gradients of a graph lie in its memory
        if isinstance(self.schedule, OneCycleLR):
            self.schedule.step()
        return loss

    def _gradients(
        self, images: Tensor, labels: Tensor, share: Tensor, turns: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The loss of a batch, and its gradients: all that a GPU does between the images and the optimiser's step."""
        batch = self.runtime.tensor(images)
        if turns is not None:
            batch = turn(batch, turns)  # not in half precision
        with self.runtime.autocast():
            logits = self.replica(batch)
        loss = mean_loss(logits, labels, self.kind, self.weights) * share
        self.optimizer.zero_grad()
        (loss * self.runtime.world_size).backward()  # type: ignore[no-untyped-call]  # gradients are averaged over processes
        return loss.detach(), [one.grad for one in self.trained]

    def _labels(self, data: Labelled, rows: NDArray[np.intp]) -> Tensor:
        return torch.from_numpy(data.labels[rows].astype(np.float32)).to(self.runtime.device)

    def _validate(self) -> float | None:
        if self.validation is None or len(self.validation.images) == 0:
            return None
        self.model.eval()
        total, count = 0.0, len(self.validation.images)
        with torch.inference_mode(), self.runtime.autocast():
            for rows, _ in self.runtime.batches(count, VALIDATED):
                if len(rows):
                    logits = self.model(self.runtime.tensor(self.validation.images[rows]))
                    labels = self._labels(self.validation, rows)
                    total += float(mean_loss(logits, labels, self.kind, self.weights)) * len(rows)
        loss = float(self.runtime.sum(torch.tensor(total, dtype=torch.float64))) / count
        self.judge(loss)
        return loss

    def judge(self, validation_loss: float) -> None:
        """Update the schedule with a validation loss."""
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(validation_loss)
            self.stale = 0 if validation_loss < self.best else self.stale + 1
            self.best = min(validation_loss, self.best)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what the next epoch depends on besides the model's weights: tensors, and JSON-serialisable values."""
        optimizer = self.optimizer.state_dict()
        tensors = {f"{i}.{name}": value for i, state in optimizer["state"].items() for name, value in state.items()}
        plain = {
            "epoch": self.epoch,
            "best": self.best,
            "stale": self.stale,
            "groups": optimizer["param_groups"],
            "schedule": self.schedule.state_dict(),
        }
        return tensors, plain

    def restore(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Restore a state. The model's weights must be those of the same epoch."""
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            i, name = key.split(".")
            layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format  # the layout of the weights
            states.setdefault(int(i), {})[name] = value.contiguous(memory_format=layout)
        self.optimizer.load_state_dict({"state": states, "param_groups": plain["groups"]})
        self.schedule.load_state_dict(plain["schedule"])
        self.epoch, self.best, self.stale = plain["epoch"], plain["best"], plain["stale"]
