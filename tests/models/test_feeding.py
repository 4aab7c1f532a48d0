import numpy as np
import pytest
import torch

from petechia.core.runtime import Runtime
from petechia.models.feeding import Feed

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (5000, 4, 6), dtype=np.uint8)
PARTS = [np.array([7, 3, 4999]), np.arange(4000), np.array([3], dtype=np.intp)]


class WithRoom(Runtime):
    """A device with free memory, in bytes."""

    def __init__(self, room: int, device: torch.device = CPU) -> None:
        super().__init__(device, bf16=False)
        self.room = room

    def free_memory(self) -> int:
        return self.room


@pytest.mark.parametrize("room", [0, 4 * IMAGES.size - 1, 4 * IMAGES.size])
def test_batches_are_the_images_of_their_rows_kept_or_not(room: int) -> None:
    feed = Feed(IMAGES, WithRoom(room))
    assert (feed.kept is not None) == (room == 4 * IMAGES.size)
    assert len(feed) == 5000
    for rows, batch in zip(PARTS, feed.batches(PARTS), strict=True):
        assert batch.dtype == torch.uint8
        assert np.array_equal(batch.numpy(), IMAGES[rows])


def test_what_is_wanted_once_is_not_kept() -> None:
    assert Feed(IMAGES, WithRoom(10**9), keep=False).kept is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("room", [0, 10**9])
def test_a_gpu_gets_the_same_batches(room: int) -> None:
    feed = Feed(IMAGES, WithRoom(room, torch.device("cuda")))
    many = PARTS * 5
    for rows, batch in zip(many, feed.batches(many), strict=True):
        assert np.array_equal(batch.cpu().numpy(), IMAGES[rows])
