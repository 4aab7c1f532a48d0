"""Where and how precisely networks run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, distributed, nn

from petechia.core.errors import PetechiaError, first_line
from petechia.core.parallel import workers
from petechia.core.processes import ProcessInfo, join, replicate
from petechia.core.settings import Settings

M = TypeVar("M", bound=nn.Module)
S = TypeVar("S", bound=np.generic)
T = TypeVar("T")


Precision = Literal["auto", "bf16", "fp32"]
LOGGER = logging.getLogger(__name__)


class Compute(Settings):
    """The machine's part of a configuration; it changes speed, not meaning.

    Under torchrun every process takes a part of the work: on GPUs each its own, on the processor a share of the threads.

    Attributes:
        device: "auto" is a GPU where there is one; else a torch device such as "cpu" or "cuda:1".
        precision: "auto" is bf16 where the processor or GPU multiplies it fast, else fp32. Weights and losses stay fp32.
        threads: CPU threads; 0 uses all that this process may use.
        deterministic: refuse operations whose result can differ from run to run. On the processor nothing changes.
    """

    device: str = "auto"
    precision: Precision = "auto"
    threads: int = Field(0, ge=0)
    deterministic: bool = False

    def start(self) -> Runtime:
        """Set the process up and say what it will use. Under torchrun this waits until every process is here.

        Raises:
            PetechiaError: there is no such device, or it cannot be shared among processes.
        """
        place = ProcessInfo.of_this_process()
        torch.set_num_threads(self.threads or max(1, workers() // place.local_world_size))
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS refuses
        torch.use_deterministic_algorithms(self.deterministic)
        device = self._device(place)
        join(place, device)
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else _fast_bf16_on_cpu()
        bf16 = self.precision == "bf16" or (self.precision == "auto" and fast)
        runtime = Runtime(device, bf16, place.rank, place.world_size)
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
                f"{place.local_world_size} processes were started on {torch.cuda.device_count()} GPUs; start one a GPU."
            )
        return f"cuda:{place.local_rank}"


class Runtime:
    """A device and a precision, ready for use, and the part that this process has in the work.

    Attributes:
        device: where networks run.
        bf16: whether they multiply in bf16.
        rank: of this process among those that work together, from 0.
        world_size: how many do.
    """

    def __init__(self, device: torch.device, bf16: bool, rank: int = 0, world_size: int = 1) -> None:
        self.device = device
        self.bf16 = bf16
        self.rank = rank
        self.world_size = world_size

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files and talks to people."""
        return self.rank == 0

    def to_device(self, module: M) -> M:
        """Move a network here, in the memory layout that convolutions like."""
        return module.to(self.device).to(memory_format=torch.channels_last)

    def replicate(self, module: nn.Module) -> nn.Module:
        """What to call in training in place of a network that is here, see `petechia.core.processes.replicate`."""
        return module if self.world_size == 1 else replicate(module, self.device)

    def autocast(self) -> torch.autocast:
        """The context in which to call a network."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def tensor(self, images: NDArray[np.uint8]) -> Tensor:
        """A batch of uint8 images [B, H, W] or [B, H, W, 3] as float32 [B, C, H, W] in 0…1."""
        batch = torch.from_numpy(np.require(images, None, ["C", "W"])).to(self.device)
        batch = batch.unsqueeze(1) if batch.ndim == 3 else batch.permute(0, 3, 1, 2)
        return batch.float().div_(255).contiguous(memory_format=torch.channels_last)

    def share(self, entries: NDArray[S]) -> NDArray[S]:
        """The entries of a batch that this process takes: those of all processes, one after the other, are the batch."""
        mine: NDArray[S] = np.array_split(entries, self.world_size)[self.rank]
        return mine

    def batches(self, count: int, size: int) -> Iterator[tuple[NDArray[np.intp], int]]:
        """Cut the rows 0 … count-1 into batches and deal them out; the batches are the same for any number of processes.

        Args:
            count: of the rows.
            size: of a batch, at most.

        Yields:
            The rows of the next batch of this process, none where the others take the last ones, and how many rows all
            processes take meanwhile.
        """
        for start in range(0, count, size * self.world_size):
            together = np.arange(start, min(start + size * self.world_size, count))
            yield together[size * self.rank : size * (self.rank + 1)], len(together)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, all of which must call this. Of one process, the values themselves."""
        if self.world_size == 1:
            return values
        total = values.detach().cpu().clone()
        distributed.all_reduce(total)
        return total

    def broadcast(self, value: T) -> T:
        """What the first process gives, in every process. All must call this; the others may give anything."""
        if self.world_size == 1:
            return value
        box: list[Any] = [value]
        distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        given: T = box[0]
        return given

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.sum(torch.zeros(1))

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The first process runs the block, then the others do: they find what it left in a cache or a folder.

        Raises:
            PetechiaError: in the other processes, the block failed in the first.
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
            raise PetechiaError("The first process failed; it says why.")

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else f"{torch.get_num_threads()} threads"
        processes = f", {self.world_size} processes" if self.world_size > 1 else ""
        return f"{self.device} ({name}), {'bf16' if self.bf16 else 'fp32'}{processes}"


def _fast_bf16_on_cpu() -> bool:
    # Without these instructions bf16 is emulated, several times slower than fp32.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
