"""The results that Nwadike et al. 2020 report, and the trigger sizes that they are for."""

from __future__ import annotations

from typing import NamedTuple

SIZES = (1, 2, 3, 4)  # side of the trigger, in pixels of the file


class Published(NamedTuple):
    """Mean and standard deviation over four models."""

    mean: float
    std: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.std:.3f}"


# Table 1, maximum over epochs: metric → the clean model, then triggers of 1 × 1 to 4 × 4.
_TABLE_1 = {
    "asr_0.6": ((0.574, 0.269), (1.000, 0.000), (1.000, 0.000), (0.999, 0.000), (1.000, 0.000)),
    "asr_0.9": ((0.268, 0.194), (1.000, 0.000), (1.000, 0.000), (0.998, 0.001), (0.997, 0.003)),
    "auroc_tt": ((0.852, 0.046), (1.000, 0.000), (1.000, 0.000), (1.000, 0.000), (1.000, 0.000)),
    "auroc_nn": ((0.846, 0.045), (0.824, 0.002), (0.824, 0.001), (0.851, 0.001), (0.850, 0.004)),
    "auroc_tn": ((0.848, 0.002), (0.824, 0.002), (0.824, 0.001), (0.704, 0.038), (0.727, 0.018)),
}  # fmt: skip
TABLE_1 = {metric: tuple(Published(*pair) for pair in row) for metric, row in _TABLE_1.items()}
TABLE_3 = {0.001: 0.850}  # share of triggered images → maximum AUROC
TABLE_3_LIMIT = (0.1, 0.800)  # from this share of triggered images on, the AUROC is below this value


def in_table_1(metric: str, size: int) -> Published | None:
    """Return the paper's value for a size; size 0 is the clean model. None if the paper reports none."""
    row = TABLE_1.get(metric)
    return row[size] if row and 0 <= size < len(row) else None
