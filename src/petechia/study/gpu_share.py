"""How many networks of a study are trained side by side on one GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from petechia.core.graphs import REHEARSALS
from petechia.core.runtime import Runtime
from petechia.models.model import create, images_at_once
from petechia.models.scoring import Predictor
from petechia.models.training import Labelled, Trainer
from petechia.study.config import Config
from petechia.study.grid import NetworkTask
from petechia.study.progress import StudyProgress
from petechia.study.run_data import load_run_data

MOST = 8  # networks on a GPU
CONTEXT = 2**30  # bytes that CUDA and its libraries take for every process, about
RESERVE = 1.15  # for what memory is broken into, and for a last batch of another size
STEPS = REHEARSALS + 2  # of training and of scoring: afterwards they are recorded
DIGITS = 10**4  # Ray counts parts of a GPU to so many


def kind_of(config: Config) -> str:
    """What networks have in common that need the same memory."""
    kept: Any = {"data": True, "preprocess": True, "model": True, "train": {"batch_size", "flip", "rotate"}, "compute": True}
    return config.model_dump_json(include=kept)


def measured_share(task: NetworkTask) -> float:
    """The part of this process's GPU that the network of a task gets, from the memory that a few steps and scores take.

    Where there is no GPU, the smallest part. Images of the study that do not fit beside the network are read ahead from the
    host instead.

    Raises:
        PetechiaError: the data cannot be read, or there is no memory for a batch.
    """
    runtime = task.config.compute.start()
    if runtime.device.type != "cuda":
        return share_of(0, 1)
    _train_and_score(task, runtime)
    total = torch.cuda.mem_get_info(runtime.device)[1]
    return share_of(torch.cuda.max_memory_reserved(runtime.device) + CONTEXT, total)


def share_of(used: int, total: int) -> float:
    """The part of a GPU for one of as many networks as fit: 1, 1/2, 1/3 …, down to 1/8, rounded down to what Ray counts.

    Args:
        used: bytes that one network takes.
        total: bytes of the GPU.
    """
    fit = int(total // (RESERVE * used)) if used else MOST
    return DIGITS // min(max(1, fit), MOST) / DIGITS


def _train_and_score(task: NetworkTask, runtime: Runtime) -> None:
    config = task.config
    run_data = load_run_data(config, StudyProgress())
    every = run_data.training_set(task.arm, task.seed)
    rows = np.arange(min(len(every.images), STEPS * config.train.batch_size))
    settings = config.train.model_copy(update={"epochs": 1, "schedule": "one-cycle", "validation": 0})
    model = create(config.model, run_data.dataset.classes, config.preprocess, task.seed, run_data.dataset.task)
    trainer = Trainer(model, Labelled(every.images[rows], every.labels[rows]), settings, runtime, task.seed)
    trainer.run_epoch()
    predictor = Predictor(model, runtime)
    for _ in range(STEPS):
        predictor(every.images[rows[: images_at_once(runtime.device, config.preprocess.size**2)]])
