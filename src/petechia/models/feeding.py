"""Images on their way to the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from petechia.core.runtime import Runtime
from petechia.data.dataset import Images

SHARE = 4  # images that take at most this part of a GPU's free memory, a quarter, are kept there
CHUNK = 4096  # images copied at a time
AHEAD = 2  # batches that are read before they are needed


class Feed:
    """Images that are wanted batch by batch, uint8 [B, H, W] or [B, H, W, 3] on the device.

    On the CPU, images are read when they are wanted. On a GPU, a collection that fits is copied there once; of a larger one, a
    thread reads the next batches into pinned memory, from where they are copied beside the computation.
    """

    def __init__(self, images: Images, runtime: Runtime, keep: bool = True, among: int = 1) -> None:
        """Prepare the images; copies them to a GPU where they fit.

        Args:
            images: prepared images.
            runtime: device.
            keep: whether they will be wanted more than once.
            among: number of collections that share the quarter of the memory.
        """
        self.images = images
        self.runtime = runtime
        self.kept: Tensor | None = None
        if keep and len(images) and int(np.prod(images.shape)) <= runtime.free_memory() // SHARE // among:
            self.kept = self._copied()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def pixels(self) -> int:
        """Of an image."""
        return int(np.prod(self.images.shape[1:3]))

    def batches(self, parts: Sequence[NDArray[np.intp]]) -> Iterator[Tensor]:
        """Yield the images of each part, in order."""
        if self.kept is not None:
            together = torch.from_numpy(np.concatenate(parts)).to(self.kept.device)
            for rows in torch.split(together, [len(part) for part in parts]):
                yield self.kept[rows]
        elif self.runtime.device.type == "cuda":
            yield from self._read_ahead(parts)
        else:
            yield from map(self._read, parts)

    def _read(self, rows: NDArray[np.intp]) -> Tensor:
        return torch.from_numpy(np.require(self.images[rows], None, ["C", "W"]))

    def _copied(self) -> Tensor:
        found = torch.empty(self.images.shape, dtype=torch.uint8, device=self.runtime.device)
        for start in range(0, len(found), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(found)))
            found[start : start + len(rows)] = self._read(rows)
        return found

    def _read_ahead(self, parts: Sequence[NDArray[np.intp]]) -> Iterator[Tensor]:
        copying = torch.cuda.Stream(self.runtime.device)  # type: ignore[no-untyped-call]
        with ThreadPoolExecutor(1) as reader:
            pending = deque(reader.submit(self._read_pinned, rows) for rows in parts[:AHEAD])
            for following in [*parts[AHEAD:], *[None] * len(pending)]:
                host = pending.popleft().result()
                if following is not None:
                    pending.append(reader.submit(self._read_pinned, following))
                yield self._sent(host, copying)

    def _read_pinned(self, rows: NDArray[np.intp]) -> Tensor:
        return self._read(rows).pin_memory()

    def _sent(self, host: Tensor, copying: torch.cuda.Stream) -> Tensor:
        with torch.cuda.stream(copying):
            batch = host.to(self.runtime.device, non_blocking=True)
        computing = torch.cuda.current_stream(self.runtime.device)
        computing.wait_stream(copying)
        batch.record_stream(computing)  # its memory must not be given away while it is read there
        return batch
