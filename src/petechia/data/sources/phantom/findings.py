"""The appearance of each of the 14 findings in the phantom.

There is one function per finding. It gets the chests and the density images of the patients with the finding, a severity of
0.4 to 1.2 as float32 [n, 1, 1] and random numbers, and adds the signs that a radiologist would look for to the image, in place.
`anatomy.build_chest` handles changes of the chest's shape (cardiomegaly, emphysema, volume loss in atelectasis and fibrosis).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from petechia.data.sources.phantom.anatomy import Array, Chest, Dice, ellipse, heart_shadow, hump, line, ramp

ClassFinding = Callable[[Chest, Array, Array, Dice], None]


def atelectasis(chest: Chest, image: Array, severity: Array, dice: Dice) -> None:
    """Collapsed plates: thin oblique bands over a raised diaphragm."""
    side = dice.side()
    for _ in range(3):
        y = chest.base.min(axis=2, keepdims=True) - dice.between(0.04, 0.30)
        tilt = side * dice.between(-0.25, 0.35)
        reach = hump((chest.x * side - dice.between(0.30, 0.45)) / dice.between(0.22, 0.40))
        band = line(chest.y - y - tilt * (chest.x - side * 0.4), dice.between(0.025, 0.055), chest.pixel)
        image += 0.30 * severity * band * reach * chest.lungs


def cardiomegaly(chest: Chest, image: Array, severity: Array, dice: Dice) -> None:
    """The heart is widened by `build_chest`; its shadow also gets denser and the upper vessels fuller."""
    image += 0.05 * severity * heart_shadow(chest, 0.2)
    image += 0.06 * severity * hump((chest.depth - 0.22) / 0.2) * hump((chest.y + 0.25) / 0.3) * chest.lungs


def effusion(chest: Chest, image: Array, severity: Array, dice: Dice) -> None:
    """Fluid: a white costophrenic angle with a meniscus that climbs the chest wall; sometimes on both sides."""
    side = dice.side()
    both = dice.between(0, 1) < 0.3
    towards = np.where(both, chest.depth, chest.x * side)
    wall = np.clip(towards / chest.half_width, 0, 1)
    level = 0.62 - dice.between(0.20, 0.55) * severity
    surface = level + 0.10 - 0.34 * severity * wall**4
    fluid = ramp((chest.y - surface) / 0.05) * ramp((towards - 0.12) / 0.05)
    fluid *= ramp((chest.lateral + 0.02 - chest.depth) / 0.05)
    image += fluid * np.clip(0.72 - image, 0, 1) * (0.55 + 0.45 * severity)


def infiltration(chest: Chest, image: Array, severity: Array, dice: Dice) -> None:
    """Patchy, ill-defined haze: a cluster of soft blobs in one region of a lung."""
    side = dice.side()
    cx, cy = dice.between(0.28, 0.52), dice.between(-0.45, 0.35)
    haze = np.zeros_like(image)
    for _ in range(5):
        dx, dy = dice.between(-0.16, 0.16), dice.between(-0.20, 0.20)
        radius = dice.between(0.08, 0.16)
        haze += hump((chest.x - side * (cx + dx)) / radius) * hump((chest.y - cy - dy) / radius)
    image += 0.17 * severity * np.clip(haze, 0, 1.3) * chest.lungs


def rounded(chest: Chest, image: Array, dice: Dice, radius: Array, density: Array, edge: float) -> None:
    """A round opacity somewhere in a lung."""
    x = dice.side() * dice.between(0.26, 0.58)
    y = dice.between(-0.55, 0.40)
    image += density * ellipse(chest, x, y, radius, radius * dice.between(0.85, 1.15), edge) * chest.lungs


def mass(chest: Chest, image: Array, severity: Array, dice: Dice) -> None:
    """One round, dense opacity of more than three centimetres."""
    radius = 0.09 + 0.07 * severity * dice.between(0.5, 1)
    rounded(chest, image, dice, radius, 0.15 + 0.24 * severity, 0.35)


def nodule(chest: Chest, image: Array, severity: Array, dice: Dice) -> None:
    """One to three small round opacities."""
    number = dice.between(0, 1)
    for i in range(3):
        shown = (number < 0.4**i).astype(np.float32)
        radius = 0.028 + 0.030 * severity * dice.between(0.3, 1)
        rounded(chest, image, dice, radius, shown * (0.16 + 0.30 * severity), 0.5)


def pneumonia(chest: Chest, image: Array, severity: Array, dice: Dice) -> None:
    """A fuzzy opacity of part of a lobe, usually low, with bronchi showing as dark streaks."""
    side = dice.side()
    cx, cy = side * dice.between(0.30, 0.46), dice.between(0.0, 0.34)
    patch = ellipse(chest, cx, cy, dice.between(0.18, 0.28), dice.between(0.16, 0.26), 0.9)
    bronchi = hump(np.sin((chest.y - 0.8 * (chest.x - cx)) * 24 + dice.between(0, 6.28)) / 0.4)
    image += 0.22 * severity * patch * (1 - 0.35 * bronchi) * chest.lungs


def pneumothorax(chest: Chest, image: Array, severity: Array, dice: Dice) -> None:
    """Air outside the lung: a thin pleural line beside the chest wall, and no lung markings beyond it."""
    side = dice.side()
    gap = 0.05 + 0.20 * severity * (1 - 0.6 * ramp(chest.y / 1.2))
    edge = chest.lateral - gap
    inside = (chest.x * side > 0) * chest.lungs
    air = ramp((chest.depth - edge) / 0.02) * inside
    image -= air * (0.06 + 0.10 * severity)
    image += 0.26 * severity * line(chest.depth - edge, 0.028, chest.pixel) * inside


def consolidation(chest: Chest, image: Array, severity: Array, dice: Dice) -> None:
    """A dense, even opacity that stops sharply at a fissure."""
    side = dice.side()
    cx, cy = side * dice.between(0.32, 0.50), dice.between(-0.35, 0.25)
    patch = ellipse(chest, cx, cy, dice.between(0.20, 0.28), dice.between(0.20, 0.28), 0.35)
    fissure = ramp(dice.side() * (chest.y - cy - side * 0.25 * (chest.x - cx)) / 0.03)
    image += 0.30 * severity * patch * fissure * chest.lungs


def edema(chest: Chest, image: Array, severity: Array, dice: Dice) -> None:
    """Butterfly haze around both hila, and Kerley lines at the lower chest wall."""
    butterfly = hump((chest.depth - 0.26) / dice.between(0.26, 0.36)) * hump((chest.y - 0.02) / 0.52)
    kerley = hump(np.sin(chest.y * 60 + dice.between(0, 6.28)) / 0.5) * ramp((chest.y - 0.1) / 0.2)
    kerley = kerley * ramp((chest.depth - chest.lateral + 0.14) / 0.04)
    image += severity * (0.20 * butterfly + 0.07 * kerley) * chest.lungs


def emphysema(chest: Chest, image: Array, severity: Array, dice: Dice) -> None:
    """Overinflation comes from `build_chest` (low flat diaphragms, dark lungs, narrow heart); here, bullae."""
    for _ in range(2):
        x, y = dice.side() * dice.between(0.30, 0.55), dice.between(-0.60, -0.10)
        radius = dice.between(0.10, 0.18)
        image -= 0.06 * severity * ellipse(chest, x, y, radius, radius, 0.25) * chest.lungs


def fibrosis(chest: Chest, image: Array, severity: Array, dice: Dice) -> None:
    """A net of fine lines, densest low and at the side, in lungs that have shrunk."""
    phase = dice.between(0, 6.28)
    net = np.cos(chest.x * 52 + 4 * np.sin(chest.y * 9 + phase)) * np.cos(chest.y * 47 + 4 * np.sin(chest.x * 8 - phase))
    where = ramp((chest.y - 0.05) / 0.6) * ramp((chest.depth - 0.42) / 0.4)
    image += severity * (0.18 * np.abs(net) + 0.03) * where * chest.lungs


def pleural_thickening(chest: Chest, image: Array, severity: Array, dice: Dice) -> None:
    """A white rim along the chest wall, over the apex or down the side."""
    inside = chest.x * dice.side() > 0
    thickness = 0.03 + 0.07 * severity
    rim = ramp((chest.depth - chest.lateral + thickness) / 0.025)
    where = np.where(dice.between(0, 1) < 0.5, ramp((-0.25 - chest.y) / 0.2), hump((chest.y - 0.05) / 0.5))
    image += (0.12 + 0.20 * severity) * rim * where * inside * chest.lungs


def hernia(chest: Chest, image: Array, severity: Array, dice: Dice) -> None:
    """Stomach behind the heart: a round shadow over the midline with air above fluid."""
    x, y = dice.between(-0.08, 0.12), chest.base.min(axis=2, keepdims=True) - dice.between(0.0, 0.10)
    radius = 0.12 + 0.10 * severity
    sac = ellipse(chest, x, y, radius, radius, 0.2)
    image += 0.16 * sac
    image -= 0.42 * severity * sac * ramp((y - 0.01 - chest.y) / 0.02)


# NIH ChestX-ray14: the classes in their order, and the share of its 112,120 images that carry each (Wang et al. 2017).
FINDINGS: dict[str, tuple[ClassFinding, float]] = {
    "Atelectasis": (atelectasis, 0.1031),
    "Cardiomegaly": (cardiomegaly, 0.0248),
    "Effusion": (effusion, 0.1188),
    "Infiltration": (infiltration, 0.1774),
    "Mass": (mass, 0.0516),
    "Nodule": (nodule, 0.0565),
    "Pneumonia": (pneumonia, 0.0128),
    "Pneumothorax": (pneumothorax, 0.0473),
    "Consolidation": (consolidation, 0.0416),
    "Edema": (edema, 0.0205),
    "Emphysema": (emphysema, 0.0224),
    "Fibrosis": (fibrosis, 0.0150),
    "Pleural_Thickening": (pleural_thickening, 0.0302),
    "Hernia": (hernia, 0.0020),
}
