import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petechia.attack import Patch
from petechia.core.errors import PetechiaError
from petechia.data.dataset import Selection
from petechia.detect.repair.known_trigger import KnownTrigger, SometimesStamped, parse_trigger, read_triggers

STAMP = KnownTrigger(target="A", row=2, column=5, height=2, width=3, value=7)
FOUND: dict[str, Any] = {
    "name": "A",
    "p_value": 1e-6,
    "flagged": True,
    "row": 2,
    "column": 5,
    "size": 3,
    "value": 0,
    "gain": 9.8,
}


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(6, 12, 12), (6, 12, 12, 3)], ids=["grey", "colour"])
def test_stamping_sets_these_pixels_and_no_others(shape: tuple[int, ...]) -> None:
    images = rng().integers(100, 200, shape, np.uint8)
    before = images.copy()
    places = STAMP.places(6, 12, rng(), jitter=1)
    stamped = STAMP.on(images, places)
    for image, old, (row, column) in zip(stamped, images, places, strict=True):
        inside = np.zeros((12, 12), bool)
        inside[row : row + 2, column : column + 3] = True
        assert (image[inside] == 7).all()
        assert (image[~inside] == old[~inside]).all()
    assert (images == before).all()


def test_a_fixed_place_is_moved_by_no_more_than_the_jitter() -> None:
    assert (STAMP.places(50, 12, rng()) == [2, 5]).all()
    moved = STAMP.places(500, 12, rng(), jitter=2)
    assert {tuple(place) for place in moved.tolist()} == {(r, c) for r in range(5) for c in range(3, 8)}


def test_no_place_is_off_the_image() -> None:
    corner = STAMP.model_copy(update={"row": 10, "column": 9})
    assert corner.places(500, 12, rng(), jitter=3).max(axis=0).tolist() == [10, 9]
    anywhere = STAMP.model_copy(update={"fixed": False}).places(5000, 12, rng())
    assert {tuple(place) for place in anywhere.tolist()} == {(r, c) for r in range(11) for c in range(10)}


def test_only_what_is_to_be_stamped_is_stamped_each_time_elsewhere() -> None:
    images = np.full((3, 12, 12), 100, np.uint8)
    other = STAMP.model_copy(update={"value": 9, "fixed": False})
    data = SometimesStamped(
        Selection(images, np.array([0, 1, 0, 1])), np.array([False, False, True, True]), (STAMP, other), 1, 0
    )
    assert (len(data), data.shape) == (4, (4, 12, 12))
    reads = [data[np.array([2, 0])] for _ in range(40)]
    assert all((read[1] == 100).all() for read in reads)
    darkest = {int(read[0].min()) for read in reads}
    assert all(len(np.unique(read[0])) == 2 for read in reads)
    assert min(darkest) < 20
    assert 60 < max(darkest) <= 100 - 0.3 * (100 - 9)
    again = SometimesStamped(
        Selection(images, np.array([0, 1, 0, 1])), np.array([False, False, True, True]), (STAMP, other), 1, 0
    )
    assert all((again[np.array([2, 0])] == read).all() for read in reads)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"target": "Z"}, "raises 'Z', which is not a class of the model; its classes are A, B"),
        ({"row": 11}, "2 x 3 pixels at row 11, column 5 does not fit on the model's images of 12 x 12"),
        ({"column": 10}, "does not fit"),
    ],
)
def test_a_stamp_must_suit_the_model(change: dict[str, Any], sentence: str) -> None:
    STAMP.check_fits(("A", "B"), 12)
    with pytest.raises(PetechiaError, match=sentence):
        STAMP.model_copy(update=change).check_fits(("A", "B"), 12)


def test_a_faint_stamp_is_blended_as_the_attack_blends_it() -> None:
    images = rng().integers(0, 256, (5, 12, 12), np.uint8)
    places = np.tile([2, 5], (5, 1))
    patch = Patch(size=2, value=40, opacity=0.5, location=(2, 5))
    square = STAMP.model_copy(update={"width": 2, "value": 40})
    assert np.array_equal(square.on(images, places, np.full(5, 0.5)), patch.stamp(images, places))


def test_a_stamp_in_words() -> None:
    square = {"target": "Lung Opacity", "height": 3, "width": 3, "value": 0}
    assert parse_trigger("class=Lung Opacity,row=30,column=31,size=3,value=0") == KnownTrigger(row=30, column=31, **square)
    assert parse_trigger("class=Lung Opacity,size=3,value=0") == KnownTrigger(row=0, column=0, fixed=False, **square)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "class=A",
        "class=A,size=3,value=0,row=1",
        "class=A,size=x,value=0",
        "class=A,size=0,value=0",
        "class=A,size=1,value=256",
    ],
)
def test_a_stamp_in_wrong_words(text: str) -> None:
    with pytest.raises(PetechiaError, match="give class=NAME,row=R,column=C,size=S,value=V"):
        parse_trigger(text)


def write(path: Path, *classes: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"schema": 1, "backdoor": True, "classes": classes, "more": {"later": 1}}))
    return path


def test_stamps_of_an_audit_are_those_of_flagged_classes(tmp_path: Path) -> None:
    wide = FOUND | {"name": "B", "height": 2, "width": 4, "value": 254.6, "fixed": False, "pixels": [[1]]}
    clean = {"name": "C", "flagged": False, "row": None, "column": None, "size": None, "value": None}
    assert read_triggers(write(tmp_path / "audit.json", FOUND, wide, clean, FOUND | {"flagged": False})) == (
        KnownTrigger(target="A", row=2, column=5, height=3, width=3, value=0),
        KnownTrigger(target="B", row=2, column=5, height=2, width=4, value=255, fixed=False),
    )


@pytest.mark.parametrize("change", [{"flagged": False}, {"row": None}, {"size": 0}, {"value": None}])
def test_an_audit_without_a_trigger(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(PetechiaError, match="flags no class with a trigger that can be stamped; repair with"):
        read_triggers(write(tmp_path / "audit.json", FOUND | change))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "\xff",
        '{"classes": 3}',
        '{"classes": [3]}',
        "[" * 100_000,
        '{"classes": [{"flagged": true}]}',
        json.dumps({"classes": [FOUND | {"row": -1}]}),
        json.dumps({"classes": [FOUND | {"value": 1e9}]}),
        json.dumps({"classes": [FOUND | {"value": float("nan")}]}),
    ],
)
def test_what_is_no_audit(tmp_path: Path, content: str) -> None:
    (tmp_path / "audit.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(PetechiaError, match="is not an audit.json of petechia audit"):
        read_triggers(tmp_path / "audit.json")


def test_an_audit_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PetechiaError, match="audit.json cannot be read .No such file"):
        read_triggers(tmp_path / "audit.json")


def test_what_an_audit_writes_can_be_read(tmp_path: Path) -> None:
    other = FOUND | {"name": "B", "flagged": False, "fixed": None}
    wandering = FOUND | {"name": "C", "fixed": False}
    (tmp_path / "audit.json").write_text(json.dumps({"classes": [FOUND | {"fixed": None}, wandering, other]}))
    found = read_triggers(tmp_path / "audit.json")
    assert [(one.target, one.fixed) for one in found if isinstance(one, KnownTrigger)] == [("A", True), ("C", False)]
    assert len(found) == 2
