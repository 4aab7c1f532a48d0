"""The victim's training loop, which knows nothing of any attack."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from petechia.compute import Machine
from petechia.data.dataset import Images
from petechia.errors import PetechiaError
from petechia.model import BATCH, Model
from petechia.randomness import stream
from petechia.settings import Settings

PATIENCE, FACTOR, FLOOR, STOP_AFTER = 3, 0.5, 1e-5, 10  # the paper's plateau schedule


class Training(Settings):
    """How the victim trains.

    Attributes:
        epochs: at most.
        batch_size: images a step; an epoch is cut into steps of nearly this size, none of them tiny.
        loss: "bce" is binary cross-entropy on logits; "sigmoid-cce" the categorical cross-entropy on sigmoid outputs
            that the paper's code uses: outputs divided by their sum, then -sum(y log p).
        optimizer: "adam".
        lr: learning rate; for one-cycle its peak.
        schedule: "plateau" halves the rate after 3 epochs without a better validation loss, down to 1e-5, and stops after
            10; "one-cycle" rises and falls once over all epochs.
        validation: share of the training patients held out for the plateau; null is 0.1 for plateau, 0 for one-cycle.
        flip: mirror half of the training images left to right.
        rotate: turn half of the training images by an angle up to this many degrees, either way.
    """

    epochs: int = Field(4, ge=1)
    batch_size: int = Field(32, ge=2)
    loss: Literal["bce", "sigmoid-cce"] = "bce"
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

    @property
    def held_out(self) -> float:
        """The share of training patients in the validation split."""
        if self.validation is None:
            return 0.1 if self.schedule == "plateau" else 0
        return self.validation


class Labelled(NamedTuple):
    """Images with their labels, int8 [N, K]: 1 present, 0 absent, -1 unknown."""

    images: Images
    labels: NDArray[np.int8]


class EpochLog(NamedTuple):
    """What an epoch did. `validation_loss` is None without a validation split."""

    epoch: int
    loss: float
    validation_loss: float | None
    images: int
    seconds: float


def multilabel_loss(logits: Tensor, labels: Tensor, kind: str) -> Tensor:
    """The mean loss of a batch; unknown labels (-1) do not count.

    Args:
        logits: float32 [B, K].
        labels: float32 [B, K].
        kind: "bce" or "sigmoid-cce", see `Training`.
    """
    known = labels >= 0
    if kind == "bce":
        each = functional.binary_cross_entropy_with_logits(logits, labels.clamp(min=0), reduction="none")
        return (each * known).sum() / known.sum().clamp(min=1)
    scores = logits.sigmoid() * known
    shares = scores / scores.sum(dim=1, keepdim=True).clamp(min=1e-7)
    return -(labels.clamp(min=0) * shares.clamp(min=1e-7, max=1 - 1e-7).log()).sum(dim=1).mean()


def augment(batch: Tensor, rng: np.random.Generator, flip: bool, rotate: float) -> Tensor:
    """Mirror and turn half of the images each, at random; what turns in from outside is black.

    Args:
        batch: float32 [B, C, H, W].
        rng: source of chance.
        flip: whether to mirror.
        rotate: largest angle in degrees.
    """
    if not flip and not rotate:
        return batch
    n = len(batch)
    mirror = np.where(rng.random(n) < 0.5, -1.0, 1.0) if flip else np.ones(n)
    angle = np.where(rng.random(n) < 0.5, np.radians(rng.uniform(-rotate, rotate, n)), 0.0)
    turn = np.zeros((n, 2, 3), np.float32)
    turn[:, 0, 0], turn[:, 0, 1] = mirror * np.cos(angle), -np.sin(angle)
    turn[:, 1, 0], turn[:, 1, 1] = mirror * np.sin(angle), np.cos(angle)
    grid = functional.affine_grid(torch.from_numpy(turn).to(batch.device), list(batch.shape), align_corners=False)
    turned = functional.grid_sample(batch, grid, padding_mode="zeros", align_corners=False)
    return turned.contiguous(memory_format=torch.channels_last)


class Trainer:
    """Trains a model epoch by epoch. What an epoch does depends on the seed, its number and the state alone."""

    def __init__(
        self,
        model: Model,
        data: Labelled,
        settings: Training,
        machine: Machine,
        seed: int,
        validation: Labelled | None = None,
    ) -> None:
        if len(data.images) < 2:
            raise PetechiaError(f"There are {len(data.images)} training images; training needs at least 2.")
        if settings.schedule == "plateau" and (validation is None or len(validation.images) == 0):
            raise PetechiaError(
                "train.schedule is plateau, but no image is held out; raise train.validation, or choose one-cycle."
            )
        self.model = machine.place(model)
        self.data = data
        self.settings = settings
        self.machine = machine
        self.seed = seed
        self.validation = validation
        self.epoch = 0
        self.best = float("inf")
        self.stale = 0
        self.steps = -(-len(data.images) // settings.batch_size)
        self.optimizer = torch.optim.Adam(model.parameters(), settings.lr, fused=True)
        self.schedule: OneCycleLR | ReduceLROnPlateau
        if settings.schedule == "one-cycle":
            self.schedule = OneCycleLR(self.optimizer, settings.lr, total_steps=settings.epochs * self.steps)
        else:
            self.schedule = ReduceLROnPlateau(self.optimizer, factor=FACTOR, patience=PATIENCE, min_lr=FLOOR)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the plateau has lasted too long."""
        return self.epoch >= self.settings.epochs or self.stale >= STOP_AFTER

    def run_epoch(self, progress: Callable[[int], None] | None = None) -> EpochLog:
        """Train one epoch; `progress` is told how many more images are done.

        Raises:
            PetechiaError: the loss is no longer a number.
        """
        started = time.perf_counter()
        self.epoch += 1
        rng = stream(self.seed, "order", self.epoch)
        torch.manual_seed(int(rng.integers(2**62)))  # for networks with dropout
        self.model.train()
        total = torch.zeros((), device=self.machine.device)
        for rows in np.array_split(rng.permutation(len(self.data.images)), self.steps):
            images = self.machine.tensor(self.data.images[rows])
            images = augment(images, rng, self.settings.flip, self.settings.rotate)
            total += self._step(images, self._labels(self.data, rows)) * len(rows)
            if progress:
                progress(len(rows))
        loss = float(total) / len(self.data.images)
        if not np.isfinite(loss):
            raise PetechiaError(f"The loss is {loss} in epoch {self.epoch}; lower train.lr.")
        return EpochLog(self.epoch, loss, self._validate(), len(self.data.images), time.perf_counter() - started)

    def _labels(self, data: Labelled, rows: NDArray[np.intp]) -> Tensor:
        return torch.from_numpy(data.labels[rows].astype(np.float32)).to(self.machine.device)

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        with self.machine.autocast():
            logits = self.model(images)
        loss = multilabel_loss(logits, labels, self.settings.loss)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if isinstance(self.schedule, OneCycleLR):
            self.schedule.step()
        return loss.detach()

    def _validate(self) -> float | None:
        if self.validation is None or len(self.validation.images) == 0:
            return None
        self.model.eval()
        total, count = 0.0, len(self.validation.images)
        with torch.inference_mode(), self.machine.autocast():
            for start in range(0, count, BATCH):
                rows = np.arange(start, min(start + BATCH, count))
                logits = self.model(self.machine.tensor(self.validation.images[rows]))
                total += float(multilabel_loss(logits, self._labels(self.validation, rows), self.settings.loss)) * len(rows)
        self.judge(total / count)
        return total / count

    def judge(self, validation_loss: float) -> None:
        """Let the schedule react to a validation loss."""
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(validation_loss)
            self.stale = 0 if validation_loss < self.best else self.stale + 1
            self.best = min(validation_loss, self.best)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything, beside the model's weights, that the next epoch depends on: tensors, and JSON."""
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
        """Go back to a state; the model's weights must be those of the same epoch."""
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            i, name = key.split(".")
            layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format  # that of the weights
            states.setdefault(int(i), {})[name] = value.contiguous(memory_format=layout)
        self.optimizer.load_state_dict({"state": states, "param_groups": plain["groups"]})
        self.schedule.load_state_dict(plain["schedule"])
        self.epoch, self.best, self.stale = plain["epoch"], plain["best"], plain["stale"]
