"""What runs in the worker process in which a program of `torch.export` is tried. No timm is imported, which takes seconds."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from petechia.core.budget import limit
from petechia.models.openers.program import opened

IMAGES = 8  # as many as are used to find out what the scores mean


def rehearse(file: str, channels: int | None, size: int | None, threads: int) -> None:
    """Read a program, and run it forward and backward.

    Args:
        file: path of the program.
        channels: number of channels, for a program that does not state it.
        size: side of the images, for a program that does not state it. Without, or for absurd images, it is only read.
        threads: CPU threads that it may use.

    Raises:
        PetechiaError: the file is not a program that may run, or an operation fails.
    """
    torch.set_num_threads(threads)
    program = opened(Path(file))
    batch, *sides = program.shape
    shape = [batch or IMAGES, *(stated or given for stated, given in zip(sides, (channels, size, size), strict=True))]
    if not all(shape) or torch.Size([side or 0 for side in shape]).numel() > limit("model_batch"):
        return  # whoever opens it next says what is wrong
    images = torch.rand(*(side or 0 for side in shape), generator=torch.Generator().manual_seed(0)).requires_grad_()
    outputs: list[Tensor] = [one for one in program.every(images) if one is not None and one.requires_grad]
    if outputs:
        program.backward(images, torch.stack([one.float().sum() for one in outputs]).sum())
