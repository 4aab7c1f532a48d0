import polars as pl
import pytest

from petechia.data.formats.spelling import near, near_paths, one_spelling


@pytest.mark.parametrize(
    ("names", "same"),
    [
        (["1", "1.0", "01", "001.00", "1,0", "1."], ["1"] * 6),
        (["0", "00", "0.0"], ["0"] * 3),
        (["1", "1.000", "1,000", "2.0000"], ["1", "1.000", "1,000", "2.0000"]),
        (["10", "1.0", "100"], ["10", "1.0", "100"]),
        (["1.5", "1.50", "1e3", "-1", "a1", "a01"], ["1.5", "1.50", "1e3", "-1", "a1", "a01"]),
        (["1.2.840", "1.2.0840"], ["1.2.840", "1.2.0840"]),
        (["e\u0301", "\u00e9", "E\u0301"], ["\u00e9", "\u00e9", "E\u0301"]),
        (["007", "008"], ["007", "008"]),
    ],
)
def test_one_spelling(names: list[str], same: list[str]) -> None:
    assert one_spelling(pl.Series(names)).to_list() == same


@pytest.mark.parametrize(
    ("one", "other"),
    [("a.PNG", "a.png"), ("a.jpeg", "A.tif"), ("im_07.png", "im_7"), ("x/1.0", "X/01.dcm"), ("v.nii.gz", "v"), ("0.png", "00")],
)
def test_near_names(one: str, other: str) -> None:
    assert near(one) == near(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("a.png", "b.png"), ("im1", "im10"), ("1.2.3", "1.2"), ("x/a.png", "y/a.png"), ("1.5", "15"), ("a-1", "a1")],
)
def test_names_that_are_not_near(one: str, other: str) -> None:
    assert near(one) != near(other)


def test_a_name_without_a_folder_is_compared_with_the_file_name_alone() -> None:
    paths = ["one/a.PNG", "two/b.png"]
    assert near_paths(paths, ["a.png", "One/a.png", "b", "three/b.png"]) == {
        "a.png": ["one/a.PNG"],
        "One/a.png": ["one/a.PNG"],
        "b": ["two/b.png"],
    }
