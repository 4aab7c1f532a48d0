"""Device and numeric precision for running networks."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, distributed, nn

from petechia.core.errors import PetechiaError, first_line
from petechia.core.graphs import CudaRecorder, Recorder
from petechia.core.memory import keep_freed_memory
from petechia.core.parallel import workers
from petechia.core.processes import ProcessInfo, join, replicate
from petechia.core.settings import Settings

M = TypeVar("M", bound=nn.Module)
S = TypeVar("S", bound=np.generic)
T = TypeVar("T")


Precision = Literal["auto", "bf16", "fp32"]
Graph = Literal["auto", "off"]
LOGGER = logging.getLogger(__name__)


class Compute(Settings):
    """The hardware part of a configuration. It affects speed, not what is computed.

    Under torchrun, the work is divided among the processes: each uses its own GPU, or a share of the CPU threads.

    Attributes:
        device: a torch device such as "cpu" or "cuda:1"; "auto" uses a GPU if there is one, and the CPU otherwise.
        precision: "auto" uses bf16 if the CPU or GPU supports fast bf16 multiplication, and fp32 otherwise. Weights and losses
            are always fp32.
        threads: number of CPU threads; 0 uses all that are available to this process.
        graph: "auto" records what a GPU does for a batch once and replays it, in training and in scoring; where that is not
            possible, and with "off", every kernel is launched anew. This has no effect on the CPU or with several processes.
        gpu_share: part of a GPU that a network of a study gets on a Ray cluster: with 0.2, five are trained side by side. Its
            process takes no more than that part of the memory. With "auto", as many share a GPU as fit, up to eight: one is
            tried first. Without Ray it bounds the memory only, and "auto" does not.
        deterministic: reject operations whose result can differ between runs. This has no effect on the CPU.
    """

    device: str = "auto"
    precision: Precision = "auto"
    threads: int = Field(0, ge=0, le=4096)
    graph: Graph = "auto"
    gpu_share: Literal["auto"] | Annotated[float, Field(gt=0, le=1)] = "auto"
    deterministic: bool = False

    def start(self) -> Runtime:
        """Set up this process and return its runtime. Under torchrun, wait for all processes.

        Raises:
            PetechiaError: the device does not exist, or the processes cannot share it.
        """
        place = ProcessInfo.of_this_process()
        torch.set_num_threads(self.threads or max(1, workers() // place.local_world_size))
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS
        torch.use_deterministic_algorithms(self.deterministic)
        device = self._device(place)
        join(place, device)
        fast = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else _fast_bf16_on_cpu()
        bf16 = self.precision == "bf16" or (self.precision == "auto" and fast)
        if device.type == "cpu":
            keep_freed_memory()
        elif device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0 if self.gpu_share == "auto" else float(self.gpu_share), device)
        recorded = self.graph == "auto" and device.type == "cuda" and place.world_size == 1
        recorder = CudaRecorder(device) if recorded else None
        runtime = Runtime(device, bf16, place.rank, place.world_size, recorder)
        runtime.barrier()
        LOGGER.info("computing on %s", runtime)
        return runtime

    def _device(self, place: ProcessInfo) -> torch.device:
        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if place.world_size > 1:
            name = self._own_device(name, place)
        try:
            device = torch.device(name)
            torch.empty(1, device=device)
            if device.type == "cuda":  # a number, and the current one: some of torch's functions ask for it
                device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
                torch.cuda.set_device(device)
        except (RuntimeError, AssertionError) as error:
            raise PetechiaError(
                f"compute.device is {self.device!r}, which cannot be used ({first_line(error)}); try auto or cpu."
            ) from None
        return device

    def _own_device(self, name: str, place: ProcessInfo) -> str:
        if name not in ("cpu", "cuda"):
            raise PetechiaError(
                f"compute.device is {self.device!r}, which {place.world_size} processes cannot share; choose auto, cuda or cpu."
            )
        if name == "cpu":
            return name
        if 0 < torch.cuda.device_count() < place.local_world_size:
            raise PetechiaError(
                f"{place.local_world_size} processes were started on {torch.cuda.device_count()} GPUs; start one per GPU."
            )
        return f"cuda:{place.local_rank}"


class Runtime:
    """A device and a precision, ready for use, and the rank of this process.

    Attributes:
        device: device on which networks run.
        bf16: whether networks multiply in bf16.
        rank: index of this process among all processes, from 0.
        world_size: number of processes.
        recorder: records work as a graph; None: nothing is recorded.
    """

    def __init__(
        self, device: torch.device, bf16: bool, rank: int = 0, world_size: int = 1, recorder: Recorder | None = None
    ) -> None:
        self.device = device
        self.bf16 = bf16
        self.rank = rank
        self.world_size = world_size
        self.recorder = recorder

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and the output for the user."""
        return self.rank == 0

    def to_device(self, module: M) -> M:
        """Move a network to the device, in the memory layout that is fastest for convolutions."""
        return module.to(self.device).to(memory_format=torch.channels_last)

    def replicate(self, module: nn.Module) -> nn.Module:
        """Wrap a network on this device for training; see `petechia.core.processes.replicate`."""
        return module if self.world_size == 1 else replicate(module, self.device)

    def autocast(self, cache: bool = True) -> torch.autocast:
        """Return the context manager in which to call a network; with or without keeping the weights that were cast."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=cache)

    def free_memory(self) -> int:
        """Return the memory of the GPU that this process may still take, in bytes; 0 on the CPU."""
        if self.device.type != "cuda":
            return 0
        free, total = torch.cuda.mem_get_info(self.device)
        allowed = int(torch.cuda.get_per_process_memory_fraction(self.device) * total)
        return max(0, min(free, allowed - torch.cuda.memory_reserved(self.device)))

    def tensor(self, images: NDArray[np.uint8] | Tensor) -> Tensor:
        """Convert uint8 images [B, H, W] or [B, H, W, 3] to a float32 tensor [B, C, H, W] in 0…1 on the device."""
        given = images if isinstance(images, Tensor) else torch.from_numpy(np.require(images, None, ["C", "W"]))
        batch = given.to(self.device)
        batch = batch.unsqueeze(1) if batch.ndim == 3 else batch.permute(0, 3, 1, 2)
        return batch.float().div_(255).contiguous(memory_format=torch.channels_last)

    def share(self, entries: NDArray[S]) -> NDArray[S]:
        """Return this process's share of a batch; the shares of all processes, in order of rank, make up the batch."""
        mine: NDArray[S] = np.array_split(entries, self.world_size)[self.rank]
        return mine

    def batches(self, count: int, size: int) -> Iterator[tuple[NDArray[np.intp], int]]:
        """Split the rows 0 … count-1 into batches and distribute them; the batches do not depend on the number of processes.

        Args:
            count: number of rows.
            size: maximum number of rows in a batch.

        Yields:
            The rows of this process's next batch, which is empty if the other processes take the last rows, and the number of
            rows that all processes take in this step.
        """
        for start in range(0, count, size * self.world_size):
            together = np.arange(start, min(start + size * self.world_size, count))
            yield together[size * self.rank : size * (self.rank + 1)], len(together)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes, all of which must call this. With one process, return the values unchanged."""
        if self.world_size == 1:
            return values
        total = values.detach().cpu().clone()
        distributed.all_reduce(total)
        return total

    def broadcast(self, value: T) -> T:
        """Return the first process's value in every process. All must call this; the values of the others are ignored."""
        if self.world_size == 1:
            return value
        box: list[Any] = [value]
        distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        given: T = box[0]
        return given

    def barrier(self) -> None:
        """Wait until every process has reached this call."""
        self.sum(torch.zeros(1))

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block in the first process, then in the others, which can use what the first left in a cache or a folder.

        Raises:
            PetechiaError: raised in the other processes if the block failed in the first.
        """
        if self.is_main:
            done = False
            try:
                yield
                done = True
            finally:
                self.broadcast(done)
        elif self.broadcast(False):
            yield
        else:
            raise PetechiaError("The first process failed; see its error message.")

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else f"{torch.get_num_threads()} threads"
        processes = f", {self.world_size} processes" if self.world_size > 1 else ""
        return f"{self.device} ({name}), {'bf16' if self.bf16 else 'fp32'}{processes}"


def _fast_bf16_on_cpu() -> bool:
    # Without these instructions bf16 is emulated, several times slower than fp32.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
