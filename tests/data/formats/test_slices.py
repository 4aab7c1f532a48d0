import pickle
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.data.formats.slices import SliceOptions, SliceReader
from petechia.data.sources.options import validated


@pytest.mark.parametrize(
    ("slices", "expected"),
    [
        ("all", [1, 2, 3, 4, 5, 6, 7]),
        ("middle", [4]),
        ("3", [3]),
        ("7", [7]),
        ("8", []),
        ("2-4", [2, 3, 4]),
        ("6-90", [6, 7]),
        ("9-90", []),
        ("every=3", [1, 4, 7]),
        ("every=100", [1]),
    ],
)
def test_which_slices_are_read(slices: str, expected: list[int]) -> None:
    assert (SliceOptions(slices=slices).chosen(7) + 1).tolist() == expected


def test_the_middle_of_one_and_of_two() -> None:
    assert SliceOptions(slices="middle").chosen(1).tolist() == [0]
    assert SliceOptions(slices="middle").chosen(2).tolist() == [1]


@pytest.mark.parametrize("slices", ["", "0", "-3", "4-2", "every=0", "every", "first", "1.5", "9" * 30, "1-2-3", "٣"])
def test_other_choices_are_refused(slices: str) -> None:
    with pytest.raises(PetechiaError, match="give all, middle, a number"):
        validated("x:y", {"slices": slices}, SliceOptions)
    with pytest.raises(PetechiaError, match="axial"):
        validated("x:y", {"axis": "oblique"}, SliceOptions)


class Slow:
    """A volume of three slices that is opened slowly; `opened` counts how often."""

    paths = ("v",)
    opened = 0

    def open(self, root: Path) -> "Slow":
        type(self).opened += 1
        time.sleep(0.05)
        return self

    def grey(self, number: int) -> NDArray[np.uint8]:
        return np.full((2, 2), number, np.uint8)

    uncut = grey


class Damaged(Slow):
    opened = 0

    def open(self, root: Path) -> Slow:
        super().open(root)
        raise PetechiaError("It is damaged.")


def test_threads_share_a_volume_that_is_opened_once(tmp_path: Path) -> None:
    reader = SliceReader(tmp_path, (Slow(),), np.zeros(3, np.intp), np.arange(3))
    found: dict[int, object] = {}

    def work(row: int) -> None:
        (found[row],) = reader.take(np.array([row])).read(np.array([0]))

    threads = [threading.Thread(target=work, args=(row,)) for row in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Slow.opened == 1
    assert all(np.array_equal(np.asarray(found[row]), np.full((2, 2), row)) for row in range(3))


def test_a_damaged_volume_is_read_once_and_each_slice_says_so(tmp_path: Path) -> None:
    reader = SliceReader(tmp_path, (Damaged(),), np.zeros(3, np.intp), np.arange(3))
    assert [str(one) for one in reader.read(np.arange(3))] == ["It is damaged."] * 3
    assert Damaged.opened == 1


def test_another_process_opens_the_volumes_itself(tmp_path: Path) -> None:
    reader = SliceReader(tmp_path, (Slow(),), np.zeros(3, np.intp), np.array([2, 0, 1]))
    list(reader.read(np.arange(3)))
    opened = Slow.opened
    sent = pickle.loads(pickle.dumps(reader.take(np.array([0, 2]))))  # noqa: S301
    assert [np.asarray(one).tolist() for one in sent.read(np.arange(2))] == [[[2, 2], [2, 2]], [[1, 1], [1, 1]]]
    assert Slow.opened == opened + 1


def test_the_fingerprint_says_which_slices_of_which_files(tmp_path: Path) -> None:
    (tmp_path / "v").write_text("x")
    reader = SliceReader(tmp_path, (Slow(),), np.zeros(3, np.intp), np.arange(3))
    before = reader.fingerprint()
    assert reader.fingerprint() == before
    assert reader.take(np.array([2, 1, 0])).fingerprint() != before
    (tmp_path / "v").write_text("xy")
    assert reader.fingerprint() != before
