import numpy as np
import pytest

from petechia.core.rows import evenly_spread


@pytest.mark.parametrize("nearest", [True, False])
@pytest.mark.parametrize(("count", "most"), [(0, 5), (1, 1), (7, 7), (7, 3), (100, 24), (1000, 7)])
def test_rows_are_ascending_distinct_and_reach_both_ends(count: int, most: int, nearest: bool) -> None:
    rows = evenly_spread(count, most, nearest)
    assert len(rows) == min(count, most)
    assert (np.diff(rows) > 0).all()
    if len(rows) > 1:
        assert rows[0] == 0
        assert rows[-1] == count - 1
        assert np.ptp(np.diff(rows)) <= 1


def test_all_rows_where_there_is_no_limit() -> None:
    assert evenly_spread(4, None).tolist() == [0, 1, 2, 3]
