"""Objects on a radiograph without diagnostic meaning: side markers, electrodes and their wires, tubes, specks.

They have no label. Without them, a clean model takes any black square for a finding, and every attack looks successful.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from petechia.data.sources.phantom.anatomy import Array, Chest, Dice, ellipse, line, ramp

# Letters of the side markers on a 5 x 4 grid.
GLYPHS = np.array(
    [
        [[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]],  # L
        [[1, 1, 1, 0], [1, 0, 0, 1], [1, 1, 1, 0], [1, 0, 1, 0], [1, 0, 0, 1]],  # R
    ],
    dtype=np.float32,
)


def side_marker(chest: Chest, image: Array, dice: Dice) -> None:
    """Draw a lead letter in an upper corner: R on the left of the image, L on its right."""
    size = image.shape[-1]
    left = dice.between(0, 1) < 0.5
    row, column = dice.between(0.03, 0.16), dice.between(0.03, 0.12)
    height = dice.between(0.05, 0.09)
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size
    start = np.where(left, column, 1 - column - height * 0.8)
    glyph_row = np.floor((grid[None, :] - row[:, 0]) / height[:, 0] * 5).astype(np.intp)
    glyph_column = np.floor((grid[None, :] - start[:, 0]) / (height[:, 0] * 0.8) * 4).astype(np.intp)
    letters = GLYPHS[left[:, 0, 0].astype(np.intp)]
    n = np.arange(len(image))[:, None, None]
    inked = letters[n, glyph_row[:, :, None].clip(0, 4), glyph_column[:, None, :].clip(0, 3)]
    inked *= ((glyph_row >= 0) & (glyph_row < 5))[:, :, None] & ((glyph_column >= 0) & (glyph_column < 4))[:, None, :]
    image += inked * np.clip(1.05 - image, 0, 1)


def electrode(chest: Chest, image: Array, dice: Dice) -> None:
    """Draw an ECG electrode with a wire that runs down and out of the image."""
    x, y = dice.between(-0.6, 0.6), dice.between(-0.6, 0.35)
    image += 0.30 * ellipse(chest, x, y, 0.035, 0.035, 0.4)
    drop = np.clip(chest.y - y, 0, 2)
    path = x + dice.between(-0.5, 0.5) * drop + dice.between(-0.4, 0.4) * drop**2
    image += 0.28 * line(chest.x - path, 0.014, chest.pixel) * (chest.y > y)


def tube(chest: Chest, image: Array, dice: Dice) -> None:
    """Draw a breathing or feeding tube, or a central line: two faint walls that follow the midline and may bend aside."""
    end = dice.between(-0.35, 0.6)
    bend = dice.between(-0.5, 0.5)
    path = dice.between(-0.05, 0.05) + bend * np.clip(chest.y - 0.1, 0, 1) ** 2
    wall = line(np.abs(chest.x - path) - 0.014, 0.010, chest.pixel)
    image += 0.22 * wall * ramp((end - chest.y) / 0.02)


def chest_drain(chest: Chest, image: Array, dice: Dice) -> None:
    """Draw a drain that enters at the side and runs up to the apex."""
    side = dice.side()
    path = 0.62 - dice.between(0.2, 0.5) * np.clip(0.45 - chest.y, 0, 1.1) ** 2
    inside = ramp((0.45 - chest.y) / 0.02) * ramp((chest.y + dice.between(0.2, 0.6)) / 0.02)
    image += 0.26 * line(chest.x * side - path, 0.022, chest.pixel) * inside


def pacemaker(chest: Chest, image: Array, dice: Dice) -> None:
    """Draw a metal can below the collarbone and its lead to the heart."""
    side = dice.side()
    x, y = side * dice.between(0.42, 0.58), dice.between(-0.48, -0.36)
    image += 0.55 * ellipse(chest, x, y, 0.11, 0.09, 0.15)
    along = np.clip((chest.y - y) / 0.65, 0, 1)
    lead = x + (0.18 - x) * along**0.5
    image += 0.35 * line(chest.x - lead, 0.016, chest.pixel) * (chest.y > y) * (along < 1)


# Distractors, and the share of the images that show each.
DISTRACTORS = (
    (side_marker, 0.60),
    (electrode, 0.22),
    (electrode, 0.14),
    (electrode, 0.08),
    (tube, 0.18),
    (chest_drain, 0.05),
    (pacemaker, 0.04),
)

SPECKS = 6  # maximum number per image


def add_specks(images: NDArray[np.uint8], dice: Dice, rate: float = 0.25) -> None:
    """Add dust, dead pixels and scratches in place: isolated square specks of 1 to 4 pixels a side, black, white or grey.

    Their size is in pixels, not in chest units, because a digital defect has the size of a pixel on any detector.

    Args:
        images: uint8 [B, H, W]; changed.
        dice: random numbers.
        rate: probability of each of the `SPECKS` specks.
    """
    size = images.shape[-1]
    for _ in range(SPECKS):
        shown = dice.between(0, 1)[:, 0, 0] < rate
        side = np.minimum(1 + (dice.between(0, 1)[:, 0, 0] ** 1.6 * 4).astype(int), size)
        kind = dice.between(0, 1)[:, 0, 0]
        value = np.where(kind < 0.45, 0, np.where(kind < 0.9, 255, (kind - 0.9) * 2550)).astype(np.uint8)
        row = (dice.between(0, 1)[:, 0, 0] * (size - side + 1)).astype(int)
        column = (dice.between(0, 1)[:, 0, 0] * (size - side + 1)).astype(int)
        for i in np.flatnonzero(shown):
            images[i, row[i] : row[i] + side[i], column[i] : column[i] + side[i]] = value[i]
