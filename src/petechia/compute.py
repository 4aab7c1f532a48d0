"""Where and how precisely networks run."""

from __future__ import annotations

import os
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from petechia.data.prepare import workers
from petechia.errors import PetechiaError
from petechia.settings import Settings

M = TypeVar("M", bound=nn.Module)


class Compute(Settings):
    """The machine's part of a configuration; it changes speed, not meaning.

    Attributes:
        device: "auto" is a GPU where there is one; else a torch device such as "cpu" or "cuda:1".
        precision: "auto" is bf16 where the processor or GPU multiplies it fast, else fp32. Weights and losses stay fp32.
        threads: of the processor; 0 is all that this process may use.
        deterministic: refuse operations whose result can differ from run to run. On the processor nothing changes.
    """

    device: str = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    threads: int = Field(0, ge=0)
    deterministic: bool = False

    def open(self) -> Machine:
        """Set the process up and say what it will use.

        Raises:
            PetechiaError: there is no such device.
        """
        torch.set_num_threads(self.threads or workers())
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS refuses
        torch.use_deterministic_algorithms(self.deterministic)
        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(name)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise PetechiaError(
                f"compute.device is {self.device!r}, which cannot be used ({reason}); try auto or cpu."
            ) from None
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else _fast_bf16_on_cpu()
        return Machine(device, bf16=self.precision == "bf16" or (self.precision == "auto" and fast))


class Machine:
    """A device and a precision, ready for use."""

    def __init__(self, device: torch.device, bf16: bool) -> None:
        self.device = device
        self.bf16 = bf16

    def place(self, module: M) -> M:
        """Move a network here, in the memory layout that convolutions like."""
        return module.to(self.device).to(memory_format=torch.channels_last)

    def autocast(self) -> torch.autocast:
        """The context in which to call a network."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def tensor(self, images: NDArray[np.uint8]) -> Tensor:
        """A batch of uint8 images [B, H, W] or [B, H, W, 3] as float32 [B, C, H, W] in 0…1."""
        batch = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        batch = batch.unsqueeze(1) if batch.ndim == 3 else batch.permute(0, 3, 1, 2)
        return batch.float().div_(255).contiguous(memory_format=torch.channels_last)

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else f"{torch.get_num_threads()} threads"
        return f"{self.device} ({name}), {'bf16' if self.bf16 else 'fp32'}"


def _fast_bf16_on_cpu() -> bool:
    # Without these instructions bf16 is emulated, several times slower than fp32.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
