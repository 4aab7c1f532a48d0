import numpy as np
import pytest
import torch

from petechia.compute import Compute
from petechia.errors import PetechiaError


def test_images_become_tensors() -> None:
    machine = Compute(device="cpu").open()
    grey = np.random.default_rng(0).integers(0, 256, (2, 4, 5), dtype=np.uint8)
    colour = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    assert machine.tensor(grey).shape == (2, 1, 4, 5)
    assert machine.tensor(colour).shape == (2, 3, 4, 5)
    assert float(machine.tensor(colour)[1, 2, 3, 4]) == pytest.approx(colour[1, 3, 4, 2] / 255)


def test_threads_and_precision_are_set() -> None:
    before = torch.get_num_threads()
    assert not Compute(threads=1, precision="fp32", device="cpu").open().bf16
    assert torch.get_num_threads() == 1
    assert Compute(threads=before, precision="bf16", device="cpu").open().bf16
    assert torch.get_num_threads() == before


def test_a_device_that_is_not_there_is_an_error() -> None:
    for name in ("cuda:77", "quantum"):
        with pytest.raises(PetechiaError, match=f"compute.device is '{name}'"):
            Compute(device=name).open()
