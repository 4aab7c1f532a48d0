"""Triggers that change the whole image, each compared with a slow, obvious version."""

import cmath
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from torch.nn import functional

from petechia.attack import Fiba, Sinusoid, Warp
from petechia.data.preprocess import Box

NOWHERE = np.zeros((3, 2), np.intp)


def images(height: int, width: int, count: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, height, width), dtype=np.uint8)


def clipped(value: float) -> int:
    return min(max(round(value), 0), 255)


@pytest.mark.parametrize(("amplitude", "frequency"), [(20, 6), (70, 2.5), (255, 1)])
def test_a_sinusoid_pixel_by_pixel(amplitude: float, frequency: float) -> None:
    clean = images(9, 30)
    stamped = Sinusoid(amplitude=amplitude, frequency=frequency).stamp(clean, NOWHERE)
    for n, i, j in np.ndindex(clean.shape):
        wanted = int(clean[n, i, j]) + amplitude * math.sin(2 * math.pi * j * frequency / 30)
        assert abs(int(stamped[n, i, j]) - clipped(wanted)) <= (abs(wanted % 1 - 0.5) < 1e-3)


@pytest.mark.parametrize(("grid", "strength", "shape"), [(4, 0.5, (32, 32)), (3, 8.0, (40, 24)), (2, 1.0, (17, 33))])
def test_a_warp_reads_where_scipy_reads(grid: int, strength: float, shape: tuple[int, int]) -> None:
    clean = images(*shape)
    stamped = Warp(grid=grid, strength=strength, seed=5).stamp(clean, NOWHERE)
    offsets = np.random.default_rng(5).uniform(-1, 1, (2, grid, grid))
    offsets /= np.abs(offsets).mean()
    across, down = functional.interpolate(
        torch.tensor(offsets[None], dtype=torch.float32), shape, mode="bicubic", align_corners=True
    )[0].numpy()
    rows, columns = np.indices(shape).astype(float)
    rows = np.clip(rows + down * strength / shape[0] * (shape[0] - 1) / 2, 0, shape[0] - 1)
    columns = np.clip(columns + across * strength / shape[0] * (shape[1] - 1) / 2, 0, shape[1] - 1)
    for before, after in zip(clean, stamped, strict=True):
        wanted = map_coordinates(before.astype(float), [rows, columns], order=1)
        assert np.abs(after - wanted).max() < 0.51


def test_the_noise_of_a_warp_is_its_cover_and_reads_up_to_half_a_pixel_away() -> None:
    """Compared with a warp that hardly moves anything, on ramps across and down: 8 grey levels a pixel."""
    still, kept = Warp(strength=1e-6), Box(0, 0, 32, 32)
    cover = still.cover
    ramp = np.tile(np.arange(32, dtype=np.uint8) * 8, (3, 32, 1))
    seeds = np.array([cover.place(32, 32, kept, chance) for chance in ((0.1, 0.2), (0.1, 0.2), (0.7, 0.2))])
    for clean in (ramp, ramp.transpose(0, 2, 1).copy()):
        one, same, other = cover.stamp(clean, seeds).astype(int)
        assert np.array_equal(one, same)
        assert not np.array_equal(one, other)
        moved = np.abs(one - clean[0])[1:-1, 1:-1] / 8
        assert 0.4 < moved.max() <= 0.5 + 1 / 16
        assert moved.mean() == pytest.approx(0.25 * 31 / 32, abs=0.02)  # of a uniform one, from border to border
    assert Warp(strength=4).cover.stamp(ramp, seeds)[0].astype(int).mean() == pytest.approx(
        Warp(strength=4).stamp(ramp, NOWHERE)[0].mean(), abs=0.5
    )
    assert Sinusoid().cover == Sinusoid()


def test_a_warp_moves_by_half_its_strength() -> None:
    """A warped ramp shows how far its pixels have moved: 8 grey levels a pixel."""
    ramp = np.tile(np.arange(32, dtype=np.uint8) * 8, (3, 32, 1))
    moved = np.abs(Warp(strength=4).stamp(ramp, NOWHERE)[0].astype(int) - ramp[0])[4:-4, 4:-4].mean() / 8
    assert 0.7 < moved < 4


def test_warps_of_other_seeds_differ() -> None:
    clean = images(32, 32)
    assert (Warp(seed=0).stamp(clean, NOWHERE) != Warp(seed=1).stamp(clean, NOWHERE)).mean() > 0.5


def slow_fourier(image: NDArray[Any], sign: int) -> NDArray[np.complex128]:
    height, width = image.shape
    out = np.zeros(image.shape, complex)
    for u, v in np.ndindex(image.shape):
        for i, j in np.ndindex(image.shape):
            out[u, v] += image[i, j] * cmath.exp(sign * 2j * math.pi * (u * i / height + v * j / width))
    return out


@pytest.mark.parametrize(("shape", "beta"), [((8, 8), 0.25), ((7, 9), 0.3), ((8, 6), 0.0), ((6, 8), 0.5)])
def test_fiba_by_the_definition_of_the_fourier_transform(shape: tuple[int, int], beta: float) -> None:
    trigger = Fiba(image="noise", seed=3, alpha=0.4, beta=beta)
    clean = images(*shape, count=1)
    picture = slow_fourier(trigger.pixels(*shape)[0].astype(float), -1)
    spectrum = slow_fourier(clean[0].astype(float), -1)
    reach = int(beta * min(shape))
    for u, v in np.ndindex(shape):
        if min(u, shape[0] - u) <= reach and min(v, shape[1] - v) <= reach:
            amplitude = 0.6 * abs(spectrum[u, v]) + 0.4 * abs(picture[u, v])
            spectrum[u, v] = amplitude * cmath.exp(1j * cmath.phase(spectrum[u, v]))
    wanted = np.clip(slow_fourier(spectrum, 1).real / clean[0].size, 0, 255)
    stamped = trigger.stamp(clean, NOWHERE[:1])[0]
    assert np.abs(stamped - wanted).max() < 0.52
    assert (stamped != clean[0]).any()
