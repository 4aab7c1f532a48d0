"""How much of a GPU a network gets."""

from typing import Any

import pytest

from petechia.study.config import make_config
from petechia.study.gpu_share import kind_of, share_of

GIB = 2**30


@pytest.mark.parametrize(
    ("used", "total", "share"),
    [
        (90 * GIB, 80 * GIB, 1),  # more than there is: the network says so itself
        (50 * GIB, 80 * GIB, 1),
        (20 * GIB, 80 * GIB, 0.3333),  # 1.15 times as much: not four
        (17 * GIB, 80 * GIB, 0.25),
        (1 * GIB, 80 * GIB, 0.125),
        (0, 80 * GIB, 0.125),
    ],
)
def test_as_many_as_fit_beside_each_other(used: int, total: int, share: float) -> None:
    assert share_of(used, total) == share
    assert share == 1 or round(1 / share) * share <= 1


def test_networks_of_one_kind_are_measured_once() -> None:
    def kind(**settings: Any) -> str:
        return kind_of(make_config(settings, "a test"))

    assert kind() == kind(train={"epochs": 9, "lr": 1e-4}, attack={"rate": 0.5}, seeds=(4, 5))
    kinds = {kind(), kind(train={"batch_size": 64}), kind(train={"flip": True}), kind(preprocess={"size": 96})}
    assert len(kinds | {kind(model={"arch": "resnet18"})}) == 5
