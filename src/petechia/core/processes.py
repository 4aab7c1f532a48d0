"""Distributed training: the rank of this process, and networks that train on the images of all processes."""

from __future__ import annotations

import atexit
import os
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

# The other processes wait while the first one decodes a dataset. If it dies, torchrun ends them, so the timeout can be long.
TIMEOUT = timedelta(days=2)


class ProcessInfo(NamedTuple):
    """Rank of this process among the processes that torchrun started.

    Attributes:
        rank: index among all processes, from 0.
        world_size: number of processes.
        local_rank: index among the processes on this computer, from 0.
        local_world_size: number of processes on this computer.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and the output for the user."""
        return self.rank == 0

    @staticmethod
    def of_this_process() -> ProcessInfo:
        """Read torchrun's environment variables; without them, this is the only process."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        if not os.environ.keys() >= {*names, "MASTER_ADDR", "MASTER_PORT"}:
            return ProcessInfo()
        return ProcessInfo(*(int(os.environ[name]) for name in names))


def join(place: ProcessInfo, device: torch.device) -> None:
    """Join the process group, once. CPU tensors are exchanged through gloo, GPU tensors through NCCL."""
    if place.world_size == 1 or distributed.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, rank=place.rank, world_size=place.world_size, timeout=TIMEOUT)
    atexit.register(distributed.destroy_process_group)


def replicate(module: nn.Module, device: torch.device) -> nn.Module:
    """Wrap a network for training in several processes, each of which calls it with its share of a batch.

    The weights are copied from the first process. The backward pass averages gradients over all processes, and batch norm
    computes its statistics over the images of all processes; its layers are replaced in the network, under the same names.
    """
    if device.type == "cuda":
        convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(module, device_ids=[device])
    _convert_batch_norms(module)
    return DistributedDataParallel(module)


def _convert_batch_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, ProcessorBatchNorm(child))
        else:
            _convert_batch_norms(child)


class ProcessorBatchNorm(_BatchNorm):
    """Batch norm over the images of all processes on the CPU, where torch's SyncBatchNorm does not run.

    Parameters, statistics, dropout and activation are taken from the layer that it replaces.
    """

    def __init__(self, replaced: _BatchNorm) -> None:
        super().__init__(replaced.num_features, replaced.eps, replaced.momentum, replaced.affine, replaced.track_running_stats)
        self.weight, self.bias = replaced.weight, replaced.bias
        for name, buffer in replaced.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        # timm's layers include the dropout and activation that follow the norm.
        self.drop = getattr(replaced, "drop", nn.Identity())
        self.act = getattr(replaced, "act", nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, C, …]; in evaluation mode, with the running statistics."""
        if self.training:
            precise = x.to(torch.promote_types(x.dtype, torch.float32))  # bf16 is too imprecise for sums
            normalised = self._normalise(precise).to(x.dtype)
        else:
            normalised = super().forward(x)
        activated: Tensor = self.act(self.drop(normalised))
        return activated

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 (torch's name)
        pass  # any number of dimensions: this class replaces BatchNorm1d, 2d and 3d

    def _normalise(self, x: Tensor) -> Tensor:
        axes = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)
        count = _sum_over_processes(x.new_tensor(float(x.numel() // x.shape[1])))
        mean = _sum_over_processes(x.sum(axes)) / count
        centred = x - mean.view(shape)
        variance = _sum_over_processes(centred.square().sum(axes)) / count  # a second pass, for precision
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        scale = (variance + self.eps).rsqrt()
        if not self.affine:
            return centred * scale.view(shape)
        return centred * (scale * self.weight).view(shape) + self.bias.view(shape)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.num_batches_tracked is None or self.running_mean is None or self.running_var is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class _Sum(torch.autograd.Function):
    # Every process uses the sum, so the gradient of a summand is the sum of the gradients over all processes.

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        return _sum_over_processes(gradients[0])


def _sum_over_processes(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)
    return total
