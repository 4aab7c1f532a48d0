"""The normal chest of the phantom: body, lungs, heart, ribs, spine, vessels.

Everything is drawn for a whole batch at once. Coordinates run from -1 to 1 over the image, x to the right (the patient's
left) and y downwards, so that a picture looks the same at any size. Densities are additive and dimensionless: 0 is air,
1 is dense bone; `expose` turns them into grey levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]  # float32 throughout

CARDIOMEGALY, EMPHYSEMA, ATELECTASIS, FIBROSIS = "Cardiomegaly", "Emphysema", "Atelectasis", "Fibrosis"


class Dice:
    """Uniform random numbers for a batch, one row per image, used column by column."""

    def __init__(self, table: Array) -> None:
        self.table = table
        self.column = 0

    def between(self, low: float, high: float) -> Array:
        """Return one number per image in [low, high), as float32 [B, 1, 1]."""
        values = low + (high - low) * self.table[:, self.column]
        self.column += 1
        return values.astype(np.float32)[:, None, None]

    def side(self) -> Array:
        """Return -1 (left in the image, the patient's right) or 1 at random, as float32 [B, 1, 1]."""
        return np.where(self.between(0, 1) < 0.5, np.float32(-1), np.float32(1))


@dataclass(frozen=True)
class Chest:
    """The geometry of a batch of chests; every array broadcasts to [B, H, W]."""

    x: Array  # distance to the right of the midline
    y: Array
    pixel: float  # width of one pixel
    half_width: Array  # half the width of the rib cage
    apex: Array  # y of the top of the lungs
    base: Array  # y of the top of each diaphragm, by column
    dome: Array
    heart_x: Array
    heart_y: Array
    heart_rx: Array
    heart_ry: Array
    lateral: Array  # distance from the midline to the chest wall, by row
    medial: Array  # distance from the midline to the mediastinum, by row
    diaphragm: Array  # y of the diaphragm, by column
    lungs: Array  # coverage 0..1
    aeration: Array  # 1 is normal, lower is darker (overinflated)

    def of(self, rows: NDArray[np.intp]) -> Chest:
        """Return the geometry of some images of the batch."""
        picked = {
            name: value[rows] if isinstance(value, np.ndarray) and len(value) == len(self.lungs) else value
            for name, value in vars(self).items()
        }
        return Chest(**picked)  # type: ignore[arg-type]

    @property
    def depth(self) -> Array:
        """The distance from the midline, on either side."""
        return np.abs(self.x)


def ramp(z: Array) -> Array:
    """Return a soft step from 0 to 1, one unit wide, centred on 0."""
    step: Array = np.clip(z + np.float32(0.5), 0, 1)
    return step


def above(a: Array, b: Array | float, edge: float) -> Array:
    """Return `ramp((a - b) / edge)` for a and b that broadcast; faster, because they are scaled before broadcasting."""
    return np.clip((a / edge + np.float32(0.5)) - b / np.float32(edge), 0, 1)


def ellipse(
    chest: Chest, cx: Array | float, cy: Array | float, rx: Array | float, ry: Array | float, edge: float, tilt: float = 0
) -> Array:
    """Return the coverage of an ellipse.

    `edge` is the width of its rim relative to the radius, `tilt` the slope of its long axis.
    """
    dx, dy = chest.x - cx, chest.y - cy
    along, across = dx / rx, dy / ry
    if tilt:
        along, across = along + tilt * dy / rx, across - tilt * dx / ry
    distance = along * along + across * across
    np.sqrt(distance, out=distance)
    distance *= np.float32(-1 / edge)
    distance += np.float32(1 / edge + 0.5)
    np.clip(distance, 0, 1, out=distance)
    return distance


def heart_shadow(chest: Chest, edge: float) -> Array:
    """Return the coverage of the heart, with its apex to the patient's left."""
    return ellipse(chest, chest.heart_x, chest.heart_y, chest.heart_rx, chest.heart_ry, edge, tilt=0.45)


def line(distance: Array, width: Array | float, pixel: float) -> Array:
    """Return the coverage of a line from the distance to its axis and its width; a line thinner than a pixel gets fainter."""
    half = np.float32(0.5) * width
    covered: Array = np.clip((half - np.abs(distance)) / pixel + np.float32(0.5), 0, np.minimum(1, width / pixel))
    return covered


def hump(z: Array) -> Array:
    """Return a smooth bump of height 1 on |z| < 1, zero outside; cheaper than a Gaussian and with bounded support."""
    bump = np.maximum(1 - z * z, np.float32(0))
    return bump * bump


def coordinates(size: int) -> Array:
    """Return the pixel centres on [-1, 1], float32 [size]."""
    return ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1).astype(np.float32)


def build_chest(size: int, patient: Dice, visit: Dice, severity: dict[str, Array]) -> Chest:
    """Lay out the chests of a batch; `severity` maps a finding to float32 [B, 1, 1], 0 if it is absent."""
    grid = coordinates(size)
    enlarged, hyperinflated = severity[CARDIOMEGALY], severity[EMPHYSEMA]
    x = grid[None, None, :] - patient.between(-0.04, 0.04) - visit.between(-0.04, 0.04)
    y = grid[None, :, None] + visit.between(-0.05, 0.05)
    left = ramp(x / 0.5)  # the patient's left: 0 on the left of the image, 1 on its right

    half_width = patient.between(0.70, 0.82) + 0.05 * hyperinflated
    apex = patient.between(-0.82, -0.70) - 0.04 * hyperinflated
    inspiration = visit.between(-0.08, 0.06)
    base = patient.between(0.34, 0.44) + inspiration + 0.06 * left + 0.16 * hyperinflated - 0.06 * severity[FIBROSIS]
    collapsed = np.where(visit.side() > 0, left, 1 - left) * severity[ATELECTASIS]
    base = (base - 0.12 * collapsed).astype(np.float32)
    dome = patient.between(0.11, 0.18) * (1 - 0.75 * hyperinflated)

    heart_rx = patient.between(0.33, 0.40) * (1 - 0.2 * hyperinflated) + 0.17 * enlarged
    heart_ry = patient.between(0.27, 0.32) + 0.06 * enlarged
    heart_x = patient.between(0.09, 0.14) + 0.05 * enlarged
    heart_y = (patient.between(0.20, 0.26) + inspiration + 0.10 * hyperinflated).astype(np.float32)

    height = np.clip((y - apex) / (0.75 - apex), 0, 1)
    lateral = (half_width * (0.42 + 0.58 * np.sqrt(1 - (1 - height) ** 2.6))).astype(np.float32)
    medial = patient.between(0.10, 0.14) + np.float32(0.04) * hump((y + 0.42) / 0.2)
    depth = np.abs(x)
    fall = (depth - 0.36) / np.where(depth > 0.36, np.float32(0.36), np.float32(0.7))
    diaphragm = (base + dome * fall * fall).astype(np.float32)

    edge = 0.035
    lungs = above(lateral, depth, edge)
    lungs *= above(depth, medial, edge)
    lungs *= above(diaphragm, y, edge)
    lungs *= above(y - apex, 0.5 * (depth - 0.30) ** 2, edge)
    return Chest(
        x=x, y=y, pixel=2 / size, half_width=half_width, apex=apex, base=base, dome=dome,
        heart_x=heart_x, heart_y=heart_y, heart_rx=heart_rx, heart_ry=heart_ry,
        lateral=lateral, medial=medial, diaphragm=diaphragm, lungs=lungs,
        aeration=(1 - 0.45 * hyperinflated).astype(np.float32),
    )  # fmt: skip


def texture(noise: Array, size: int) -> Array:
    """Interpolate a coarse grid of noise [B, g, g] to a smooth texture [B, size, size]."""
    cells = noise.shape[-1]
    where = np.linspace(0, cells - 1, size, dtype=np.float32)
    weights = hump((where[:, None] - np.arange(cells, dtype=np.float32)[None, :]) / 1.8)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights @ noise @ weights.T


def draw_chest(chest: Chest, patient: Dice, visit: Dice, coarse: Array, fine: Array) -> Array:
    """Return the densities of normal chests, float32 [B, H, W]; `coarse` and `fine` are noise for soft tissue and lungs."""
    x, y, depth, lungs = chest.x, chest.y, chest.depth, chest.lungs
    size = lungs.shape[-1]
    shoulder = 0.36 + 0.74 * np.clip((y + 1.05) / 0.62, 0, 1) ** 0.8 - 0.09 * np.clip(y + 0.2, 0, 1)
    body = above(shoulder * patient.between(0.92, 1.04), depth, 0.06)
    tissue = patient.between(0.50, 0.60)

    # Soft tissue with fat planes.
    image = texture(coarse, size)
    image *= np.float32(0.06)
    image += tissue
    image *= body

    # Lungs contain air, so most of the tissue density is removed there. Their vessels are a mottle that is dense at the hila
    # and thins out towards the chest wall.
    hila_x, hila_y = hump((depth - 0.20) / 0.42), hump((y + 0.02) / 0.55)
    mottle = np.maximum(texture(fine, size), np.float32(-0.35))
    mottle *= 0.06 + 0.20 * hila_y * hila_x
    mottle += 0.07 * hila_y * (hila_x * hump((depth - 0.17) / 0.16))
    mottle *= chest.aeration
    mottle += tissue * (0.36 * chest.aeration - 1)
    mottle *= lungs
    image += mottle

    # Mediastinum, spine with its discs, air in the trachea.
    vertebrae = 0.04 * np.cos(y * patient.between(34, 42)) * hump(x / 0.09)
    vertebrae += 0.26 - 0.12 * ramp((y - chest.base) / 0.2)
    vertebrae *= above(chest.medial + 0.02, depth, 0.14)
    vertebrae *= ramp((y + 0.90) / 0.4)
    image += vertebrae
    trachea = hump((x - patient.between(-0.03, 0.02)) / 0.055)
    image -= (0.17 * ramp((-0.20 - y) / 0.12) * ramp((y + 1.0) / 0.1)) * trachea

    heart = heart_shadow(chest, 0.16)
    heart *= np.float32(0.36)
    heart += 0.14 * ellipse(chest, 0.13, -0.30, 0.085, 0.10, 0.4)
    heart *= 0.30 + 0.70 * lungs
    image += heart

    # Abdomen below the diaphragm, often with air in the stomach on the patient's left.
    below = above(y, chest.diaphragm, 0.04)
    below *= body
    below *= ramp((y - 0.1) / 0.1)
    gas = np.clip(patient.between(-0.15, 0.16), 0, 1)
    stomach_y = chest.base.max(axis=2, keepdims=True) + 0.18
    bubble = ellipse(chest, patient.between(0.34, 0.46), stomach_y, 0.15, 0.09, 0.35)
    bubble *= gas
    image += below * (np.float32(0.20) - bubble)

    # Ribs: a fan of bright arcs that slope down towards the side; collarbones above.
    spacing = patient.between(26, 31)
    rib = np.cos(y * spacing + ((0.55 * depth * depth - 0.30 * depth) * spacing + patient.between(0, 6.28)))
    rib -= np.float32(0.15)
    np.maximum(rib, 0, out=rib)
    rib *= above(chest.lateral + 0.05, depth, 0.06)
    rib *= patient.between(0.06, 0.11) * ramp((y - chest.apex + 0.06) / 0.1) * ramp((0.62 - y) / 0.3)
    rib *= ramp((depth - 0.09) / 0.1)
    image += rib
    collar = hump((y - patient.between(-0.70, -0.60)) / 0.045 + visit.between(0.10, 0.30) / 0.045 * (depth - 0.3))
    collar *= 0.11 * ramp((depth - 0.12) / 0.05) * ramp((0.72 - depth) / 0.1)
    image += collar
    return image


def expose(density: Array, visit: Dice, grain: Array) -> NDArray[np.uint8]:
    """Turn densities [B, H, W] into grey levels, uint8: exposure and contrast vary, `grain` [B, H, W] is unit noise."""
    level = visit.between(-0.05, 0.06)
    contrast = visit.between(0.85, 1.10)
    noise = visit.between(0.008, 0.020)
    grey = (density - 0.5) * contrast
    grey += 0.5 + level
    grain *= noise
    grey += grain
    grey *= 235
    grey += 4
    np.clip(grey, 0, 255, out=grey)
    return np.rint(grey).astype(np.uint8)
