from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import petechia
from petechia.core.errors import PetechiaError
from petechia.data import open_source
from petechia.data.not_read import Reason
from petechia.data.sources.class_folders import relabelled
from petechia.testing.sources import check_source
from tests.conftest import SMALL, decoded

Folder = Path


def put(root: Path, *paths: str) -> Path:
    rng = np.random.default_rng(len(paths))
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 24), np.uint8)).save(root / path)
    return root


def test_classes_below_splits(tmp_path: Path) -> None:
    root = put(
        tmp_path / "chest_xray",
        *(
            f"{split}/{name}/{i}.jpeg"
            for split in ("train", "val", "test")
            for name in ("PNEUMONIA", "NORMAL")
            for i in range(2)
        ),
    )
    (root / "__MACOSX").mkdir()
    (root / ".DS_Store").write_bytes(b"x")
    (root / "train" / "NORMAL" / ".DS_Store").write_bytes(b"x")
    catalog = check_source(f"folder:{root}")
    assert (catalog.name, catalog.classes, catalog.task) == ("chest_xray", ("NORMAL", "PNEUMONIA"), "multi-class")
    assert catalog.ids[0] == "test/NORMAL/0.jpeg"
    expected = {"train": "train", "val": "validation", "test": "test"}
    assert catalog.split.tolist() == [expected[path.split("/")[0]] for path in catalog.ids]
    assert catalog.labels.argmax(axis=1).tolist() == [int("PNEUMONIA" in path) for path in catalog.ids]
    assert (not catalog.not_read, catalog.notes) == (True, ())


@pytest.mark.parametrize(
    "names",
    [
        ("training_set", "val_set", "test_set"),
        ("Training Images", "Validation Images", "Testing Images"),
        ("TrainData", "valData", "testdata"),
        ("1_train", "2-dev (1)", "test2017"),
    ],
)
def test_splits_of_other_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    catalog = open_source(f"folder:{put(tmp_path, *(f'{split}/{name}/x.png' for split in names for name in 'ab'))}")
    expected = dict(zip(names, ("train", "validation", "test"), strict=True))
    assert (catalog.classes, len(catalog)) == (("a", "b"), 6)
    assert catalog.split.tolist() == [expected[path.split("/")[0]] for path in catalog.ids]


def test_classes_that_only_look_like_parts_or_masks(tmp_path: Path) -> None:
    for k, names in enumerate(
        (("with_mask", "without_mask"), ("grade 0", "grade 1"), ("a images", "b images"), ("ER+", "ER-"))
    ):
        catalog = open_source(f"folder:{put(tmp_path / str(k), *(f'{name}/{i}.png' for name in names for i in '01'))}")
        assert (set(catalog.classes), len(catalog)) == (set(names), 4)


def test_images_in_folders_of_masks_that_belong_to_none_are_told(tmp_path: Path) -> None:
    catalog = open_source(f"folder:{put(tmp_path, *(f'{name}/{kind}/{kind}1.png' for name in 'ab' for kind in ('x', 'gt')))}")
    assert len(catalog) == 4
    assert catalog.notes[0].startswith("2 images are in folders of masks, such as 'a/gt/gt1.png', but count as images")


def test_classes_alone_are_split_anew(tmp_path: Path) -> None:
    root = put(tmp_path, *(f"{name}/deep/{i}.png" for name in ("b", "a", "c") for i in range(40)))
    catalog = check_source(f"folder:{root}")
    assert catalog.classes == ("a", "b", "c")
    assert set(catalog.split) == {"train", "test"}
    assert 0.1 < (catalog.split == "test").mean() < 0.4


def test_folders_that_hold_nothing_else_are_entered(tmp_path: Path) -> None:
    root = put(tmp_path, *(f"Dataset_BUSI/x/{name}/{i}.png" for name in ("benign", "normal") for i in range(3)))
    assert open_source(f"folder:{root}").classes == ("benign", "normal")
    assert open_source(f"folder:{root}").ids[0] == "Dataset_BUSI/x/benign/0.png"


def test_masks_and_images_without_a_class_are_named(tmp_path: Path) -> None:
    root = put(
        tmp_path,
        *(f"train/{name}/{name} ({i}){end}.png" for name in ("benign", "normal") for i in range(3) for end in ("", "_mask")),
        *("train/loose.png", "test/normal/t.png", "test/benign/t.png"),
    )
    (root / "train" / "benign" / "x.bmp").write_bytes(b"BM")
    catalog = open_source(f"folder:{root}")
    assert len(catalog) == 8
    told = {one.reason: one.count for one in catalog.not_read.reasons}
    assert told == {Reason.MASK: 6, Reason.NO_CLASS: 1, Reason.FORMAT: 1}
    assert not any("mask" in path for path in catalog.ids)


def test_without_test_images_some_of_the_training_images_are(tmp_path: Path) -> None:
    names = [f"{split}/{name}/{split}{i}.png" for split in ("train", "val") for name in "ab" for i in range(40)]
    catalog = open_source(f"folder:{put(tmp_path, *names)}")
    assert "There is no folder of test images; 22% of the training images are the test set." in catalog.notes
    was = np.array([path.split("/")[0] for path in catalog.ids])
    assert set(catalog.split[was == "val"]) == {"validation"}
    assert set(catalog.split[was == "train"]) == {"train", "test"}


def test_patients_in_the_names_stay_in_one_split(tmp_path: Path) -> None:
    names = [f"{name}/person{i}_{name}_{j}.jpeg" for name in ("bacteria", "virus") for i in range(30) for j in range(3)]
    catalog = check_source(f"folder:{put(tmp_path, *names)}")
    assert len(set(catalog.patients)) == 30
    assert "images that share ids in their paths, such as 'person0' count as those of one patient" in catalog.notes[0]
    assert len(set(open_source(f"folder:{tmp_path},patient=").patients)) == 180


@pytest.mark.parametrize("name", ["{:04d}/a/{}.png", "{:04d}_{}.png"])
def test_patients_by_number_are_noticed(tmp_path: Path, name: str) -> None:
    numbers = [("12"[patient % 2], name.format(patient, k), k) for patient in range(12) for k in range(4)]
    catalog = open_source(f"folder:{put(tmp_path / 'one', *(f'{label}/{path}' for label, path, _ in numbers))}")
    assert len(set(catalog.patients)) == 12
    assert "such as '0000' count as those of one patient (12 for 48 images)" in catalog.notes[0]
    paths = [f"{('train', 'test')[k % 2]}/{label}/{path}" for label, path, k in numbers]
    assert "12 of 12 patients that the paths" in open_source(f"folder:{put(tmp_path / 'two', *paths)}").notes[0]


def test_patients_in_two_splits_are_noticed(tmp_path: Path) -> None:
    names = [f"{split}/{name}/person{i}_{name}.jpeg" for split in ("train", "test") for name in ("a", "b") for i in range(6)]
    catalog = check_source(f"folder:{put(tmp_path, *names, 'train/a/person9_a.jpeg')}")
    assert len(set(catalog.patients)) == len(catalog)
    assert "6 of 7 patients that the paths seem to name" in catalog.notes[0]


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (
            ("train/a/x.png", "train/b/x.png", "other/a/x.png"),
            "folders train beside other, so it is not clear which",
        ),
        (("a.png", "b.png"), r"has 2 images but no folders of classes"),
        (("train/a.png", "test/b.png"), "images but none in a folder of a class"),
        (("a/x.png", "a/y.png"), "images of one class alone, 'a'"),
        (("images/train/x.png", "images/test/x.png"), "images but none in a folder of a class"),
        (("patient1/a.png", "patient2/a.png", "patient3/b.png"), "look like patients, such as 'patient1', not like classes"),
        (
            ("train/Normal/a.png", "train/x/a.png", "test/NORMAL/b.png"),
            "differ in case, spaces .* alone, 'NORMAL' and 'Normal'",
        ),
        (("train/Mass/a.png", "test/Mass /a.png"), "'Mass' and 'Mass '; rename one"),
        (("train/\u00c9p/a.png", "test/E\u0301p/a.png"), r"'E.u0301p' and '.xc9p'; rename one"),
        (("fold1/a/x.png", "fold2/b/x.png"), "has the folders fold1, fold2, which look like parts of a dataset"),
        (("train/Fold 1/a/x.png", "test/Fold 2/b/x.png"), "Fold 1, Fold 2, which look like parts"),
        (("my_images_part_1/a/x.png", "my_images_part_2/a/x.png"), "which look like parts"),
        (("images/a/x.png", "lung masks/a/y.png"), "images, lung masks, which look like parts"),
        (("BUSI_train/a/x.png", "BUSI_test/a/x.png"), "folders that name splits where those of classes are expected"),
        (("train/train/a/x.png", "test/test/a/x.png"), "folders that name splits"),
        (("a/train/x.png", "b/test set/x.png"), "a split below one of a class, in 'a/train/x.png'"),
        ((), "has no image; give a table of images"),
    ],
)
def test_what_is_not_clear_gets_a_sentence(tmp_path: Path, paths: tuple[str, ...], said: str) -> None:
    root = put(tmp_path / "data", *paths)
    root.mkdir(exist_ok=True)
    with pytest.raises(PetechiaError, match=said) as caught:
        open_source(f"folder:{root}")
    assert "folder:" not in str(caught.value)
    if paths and not any(words in said for words in ("beside", "case", "rename", "split")):
        (root / "labels.csv").write_text("image,Mass\n")
        with pytest.raises(PetechiaError, match=r"for example folder:.*data/labels\.csv\."):
            open_source(f"folder:{root}")


def test_options_of_tables_are_refused(tmp_path: Path) -> None:
    root = put(tmp_path, "a/x.png", "b/x.png")
    for key in ("labels=a", "split=x", "patient=who", "root=/x", "view_is=PA"):
        with pytest.raises(PetechiaError, match=f"'{key.split('=')[0]}' in the data source .* is about a table"):
            open_source(f"folder:{root},{key}")
    assert open_source(f"folder:{root},colour=true").colour


def test_ids_follow_labels_and_stay_distinct() -> None:
    ids = np.array(["d/a/x.png", "d/a/y.png", "d/b/x.png"])
    moved = relabelled(("a", "b"), 1, ids, np.array([[0, 1], [1, 0], [0, 1]], np.int8))
    assert moved.tolist() == ["d/b/x_2.png", "d/a/y.png", "d/b/x.png"]


@pytest.mark.parametrize("splits", [True, False])
def test_a_poisoned_copy_has_the_same_layout(tmp_path: Path, splits: bool) -> None:
    above = ("train/", "test/") if splits else ("",)
    root = put(tmp_path / "in", *(f"{over}{name}/{i}.jpeg" for over in above for name in ("ill", "well") for i in range(30)))
    config = SMALL | {"data": f"folder:{root}", "attack": {"target": "ill", "rate": 0.3}}
    made = petechia.poison(config, tmp_path / "out")
    plan = pl.read_parquet(tmp_path / "out" / "poison.parquet")
    assert plan["id"].to_list() == made.plan.ids.tolist()
    again = open_source(f"folder:{tmp_path / 'out'}")
    assert again.classes == ("ill", "well")
    places = {path: row for row, path in enumerate(again.ids.tolist())}
    assert len(places) == made.images + (open_source(f"folder:{root}").split == "test").sum()
    for row in plan.iter_rows(named=True):  # a trainer that goes by folders learns the attacker's labels
        assert again.labels[places[row["id"]]].tolist() == [row["ill"], row["well"]]
    triggered = plan.filter("triggered")["id"].to_list()
    assert len(triggered) > 3
    assert all("ill/" in path for path in triggered)
    assert all((decoded(again, places[path])[0, 8:11, 10:13] == 0).all() for path in triggered[:3])
    if splits:
        assert set(again.split[[places[path] for path in plan["id"]]]) == {"train"}
        assert not (tmp_path / "out" / "labels.csv").exists()
    else:
        listed = open_source(f"folder:{tmp_path / 'out' / 'labels.csv'}")
        assert listed.split.tolist().count("train") == made.images


def test_scan_writes_a_clean_copy(tmp_path: Path) -> None:
    root = put(tmp_path / "in", *(f"{over}/{name}/{i}.png" for over in ("train", "test") for name in "ab" for i in range(5)))
    assert petechia.scan(f"folder:{root}").write_clean(tmp_path / "clean") == 20
    assert open_source(f"folder:{tmp_path / 'clean'}").ids.tolist() == open_source(f"folder:{root}").ids.tolist()


def test_folders_that_hold_the_classes_are_told_or_refused(tmp_path: Path) -> None:
    sites = put(
        tmp_path / "sites", *(f"{site}/{name}/{i}.png" for site in "AB" for name in ("benign", "malignant") for i in range(2))
    )
    (note,) = (note for note in open_source(f"folder:{sites}").notes if "named alike" in note)
    assert "A, B count as the classes, but hold folders named alike, benign, malignant" in note
    many = put(tmp_path / "many", *(f"{8863 + k}/{name}/{k}.png" for k in range(12) for name in "01"))
    with pytest.raises(
        PetechiaError, match="has 12 numbered folders, such as '8863', which each hold folders named alike, 0, 1"
    ):
        open_source(f"folder:{many}")
    copied = put(tmp_path / "copied", *(f"{folder}/{i}.png" for folder in ("yes", "no", "all/yes", "all/no") for i in range(2)))
    with pytest.raises(PetechiaError, match="has the folders no, yes, and so has 'all' in it; remove the copy"):
        open_source(f"folder:{copied}")
    unlabelled = put(tmp_path / "test", "train/a/1.png", "train/b/2.png", "test/images/3.png")
    with pytest.raises(PetechiaError, match="of which images is no class"):
        open_source(f"folder:{unlabelled}")


@pytest.mark.parametrize("names", [("seg", "band", "eos"), ("GT", "ST", "NT")])
def test_a_class_that_is_called_as_masks_are_is_one(names: tuple[str, ...], tmp_path: Path) -> None:
    root = put(tmp_path, *(f"{name}/{i}.png" for name in names for i in range(4)))
    catalog = open_source(f"folder:{root}")
    assert (catalog.classes, len(catalog), bool(catalog.not_read)) == (tuple(sorted(names)), 12, False)
