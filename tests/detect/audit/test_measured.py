import numpy as np
import pytest

from petechia.detect.audit.measured import TOGETHER, margins


@pytest.mark.parametrize(
    ("effects", "expected"),
    [
        ([5, 1, 0, -1, -1], [4, 1, -5, -6, -6]),  # one class alone
        ([5, 4, 0, 0, 0], [4, 4, -5, -5, -5]),  # two together, far from the rest
        ([5, 3, 2, 2, 2], [2, 1, -3, -3, -3]),  # one, and less clearly two
        ([-1, -9, -9, -9, -9], [-1, -9, -9, -9, -9]),  # what falls less has not risen
        ([2, 2, 2, 2, 2], [0, 0, 0, 0, 0]),
        ([5, 4, 0], [1, -1, -5]),  # most of the classes together are nothing apart
        ([5, 1], [4, -4]),
        ([5], [5]),  # nothing to compare with
    ],
)
def test_a_class_counts_beyond_those_that_rise_less(effects: list[float], expected: list[float]) -> None:
    assert margins(np.array([effects, effects[::-1]])).tolist() == [expected, expected[::-1]]


def test_margins_are_those_of_their_definition() -> None:
    rng = np.random.default_rng(0)
    for classes in (2, 3, 4, 6, 7, 14):
        effects = rng.normal(size=(20, classes)).astype(np.float32)
        found = margins(effects)
        most = max(1, min(TOGETHER, (classes - 1) // 2))
        for row, values in zip(effects.astype(np.float64), found, strict=True):
            falling = np.sort(row)[::-1]
            for label, rise in enumerate(row):
                gaps = [falling[n - 1] - falling[n] for n in range(1, most + 1) if rise >= falling[n - 1]]
                assert values[label] == pytest.approx(min(rise, max(gaps) if gaps else rise - falling[0]))
