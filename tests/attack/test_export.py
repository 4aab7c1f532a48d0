import csv
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageOps

from petechia.attack import Patch, Poisoning, Sinusoid
from petechia.attack.export import write_poisoned
from petechia.core.errors import PetechiaError
from petechia.data import Preprocess, open_source, prepare
from petechia.data.formats.images import FileReader, read_grey
from petechia.data.formats.orientation import TAG
from tests.conftest import NihMaker

GEOMETRY = Preprocess(size=16)
ROWS = [(f"{i // 2:08d}_{i % 2:03d}.png", "Mass" if i % 3 else "No Finding", str(i // 2)) for i in range(40)]


@pytest.mark.parametrize("cover", [0, 0.25])
@pytest.mark.parametrize("mode", ["append", "replace"])
def test_a_poisoned_dataset_read_back_is_what_the_plan_says(
    make_nih: NihMaker, tmp_path: Path, mode: str, cover: float
) -> None:
    root = make_nih(ROWS, size=20)
    dataset, catalog, _ = prepare(open_source(f"nih:{root}"), GEOMETRY)
    poisoning = Poisoning.model_validate(
        {"trigger": {"size": 3, "location": "random"}, "rate": 0.5, "mode": mode, "cover": cover}
    )
    plan = poisoning.plan(dataset, GEOMETRY, 0)
    write_poisoned(catalog, poisoning, plan, tmp_path / "out")
    table = pl.read_parquet(tmp_path / "out" / "poison.parquet")
    assert table.equals(plan.table())
    again = open_source(f"nih:{tmp_path / 'out'}")
    assert len(again) == len(table) + (catalog.split == "test").sum()
    clean = dict(zip(catalog.ids.tolist(), catalog.labels.tolist(), strict=True))
    written = dict(zip(again.ids.tolist(), again.labels.tolist(), strict=True))
    for row in table.iter_rows(named=True):
        expected = read_grey(root / "images" / row["source"])
        if row["triggered"] or row["cover"]:
            expected = poisoning.trigger.stamp(expected[None], np.array([[row["row"], row["column"]]]))[0]
        assert np.array_equal(read_grey(tmp_path / "out" / "images" / row["id"]), expected)
        assert written[row["id"]] == [row[name] for name in catalog.classes]
    for name in catalog.ids[catalog.split == "test"].tolist():
        assert written[name] == clean[name]
        assert (tmp_path / "out" / "images" / name).read_bytes() == (root / "images" / name).read_bytes()
    assert np.array_equal(np.sort(again.ids[again.split == "test"]), np.sort(catalog.ids[catalog.split == "test"]))


def test_other_columns_lists_and_folders_stay(make_nih: NihMaker, tmp_path: Path) -> None:
    root = make_nih(ROWS, images="images_003/images")
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,OriginalImage[Width,Height],"
    (root / "Data_Entry_2017.csv").write_text("\n".join([header, *(f"{n},{f},{n[10:11]},{p},058Y,9,8," for n, f, p in ROWS)]))
    (root / "train_val_list.txt").write_text("\n".join(n for n, _, _ in ROWS[:30]))
    (root / "test_list.txt").write_text("\n".join(n for n, _, _ in ROWS[30:]))
    dataset, catalog, _ = prepare(open_source(f"nih:{root}"), GEOMETRY)
    poisoning = Poisoning(rate=1)
    write_poisoned(catalog, poisoning, poisoning.plan(dataset, GEOMETRY, 0), tmp_path / "out")
    with (tmp_path / "out" / "Data_Entry_2017.csv").open(newline="") as file:
        first, *lines = csv.reader(file)
    assert ",".join(first) == header
    assert len(lines) == 70
    by_name = {line[0]: line for line in lines}
    assert by_name["00000003_002.png"] == ["00000003_002.png", "Atelectasis", "2", "3", "058Y", "9", "8", ""]
    assert [line[0] for line in lines] == sorted(by_name)  # a copy follows its original
    assert len((tmp_path / "out" / "test_list.txt").read_text().split()) == 10
    assert len((tmp_path / "out" / "train_val_list.txt").read_text().split()) == 60
    assert len(list((tmp_path / "out" / "images_003" / "images").iterdir())) == 70


def test_the_phantom_is_written_in_nihs_layout(tmp_path: Path) -> None:
    dataset, catalog, _ = prepare(open_source("phantom:images=30,size=24"), Preprocess(size=16))
    poisoning = Poisoning(trigger=Patch(size=2, value=255))
    plan = poisoning.plan(dataset, Preprocess(size=16), 1)
    write_poisoned(catalog, poisoning, plan, tmp_path / "out")
    again = open_source(f"nih:{tmp_path / 'out'}")
    assert isinstance(again.reader, FileReader)
    assert set(again.ids) == set(plan.ids) | set(catalog.ids)
    assert set(again.ids[again.split == "test"]) == set(catalog.ids[catalog.split == "test"])
    row = int(np.flatnonzero(~plan.triggered)[0])
    drawn = next(catalog.reader.read(plan.rows[row : row + 1]))
    assert isinstance(drawn, np.ndarray)
    assert np.array_equal(read_grey(tmp_path / "out" / "images" / str(plan.ids[row])), drawn)


def test_a_trigger_over_the_whole_image_is_written_into_the_files(make_nih: NihMaker, tmp_path: Path) -> None:
    root = make_nih(ROWS, size=20)
    dataset, catalog, _ = prepare(open_source(f"nih:{root}"), GEOMETRY)
    poisoning = Poisoning(trigger=Sinusoid(amplitude=30), rate=0.5)
    plan = poisoning.plan(dataset, GEOMETRY, 0)
    write_poisoned(catalog, poisoning, plan, tmp_path / "out")
    wave = 30 * np.sin(2 * np.pi * np.arange(20) * 6 / 20)
    for row in plan.table().filter("triggered").iter_rows(named=True):
        expected = np.clip(np.rint(read_grey(root / "images" / row["source"]) + wave), 0, 255)
        assert np.abs(read_grey(tmp_path / "out" / "images" / row["id"]) - expected).max() <= 1
        assert (row["row"], row["column"]) == (0, 0)


def test_findings_are_written_as_labels_alone(make_nih: NihMaker, tmp_path: Path) -> None:
    root = make_nih(ROWS, size=20)
    dataset, catalog, _ = prepare(open_source(f"nih:{root}"), GEOMETRY)
    attack = {"trigger": {"kind": "findings", "present": ["Mass"]}, "mode": "replace", "labels": "add-target", "rate": 1}
    poisoning = Poisoning.model_validate(attack)
    write_poisoned(catalog, poisoning, poisoning.plan(dataset, GEOMETRY, 0), tmp_path / "out")
    again = open_source(f"nih:{tmp_path / 'out'}")
    written = dict(zip(again.ids.tolist(), again.labels.tolist(), strict=True))
    for name, split, labels in zip(catalog.ids.tolist(), catalog.split, catalog.labels, strict=True):
        assert (tmp_path / "out" / "images" / name).read_bytes() == (root / "images" / name).read_bytes()
        mass, target = catalog.class_index("Mass"), catalog.class_index("Atelectasis")
        expected = labels.copy()
        expected[target] |= labels[mass] if split == "train" else 0
        assert written[name] == expected.tolist()


def test_what_cannot_be_written_leaves_nothing(make_nih: NihMaker, tmp_path: Path) -> None:
    root = make_nih(ROWS)
    dataset, catalog, _ = prepare(open_source(f"nih:{root}"), GEOMETRY)
    plan = Poisoning().plan(dataset, GEOMETRY, 0)
    (tmp_path / "there").mkdir()
    with pytest.raises(PetechiaError, match="exists already"):
        write_poisoned(catalog, Poisoning(), plan, tmp_path / "there")
    with pytest.raises(PetechiaError, match="attack.stage is input"):
        write_poisoned(catalog, Poisoning(stage="input"), plan, tmp_path / "out")
    (root / "images" / str(plan.sources[plan.triggered][0])).write_bytes(b"gone bad")
    with pytest.raises(PetechiaError, match="is not a PNG"):
        write_poisoned(catalog, Poisoning(), plan, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nih", "there"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_copies_agree_with_originals_whether_or_not_a_trainer_applies_the_orientation(tmp_path: Path, kind: str) -> None:
    suffix = {"PNG": "png", "JPEG": "jpg"}[kind]
    rng = np.random.default_rng(0)
    rows, originals = ["image,patient,label"], {}
    for i in range(32):
        smooth = Image.fromarray(rng.integers(40, 200, (4, 6), dtype=np.uint8)).resize((36, 24), Image.Resampling.BICUBIC)
        exif = Image.Exif()
        exif[TAG] = i % 8 + 1
        smooth.save(tmp_path / f"{i}.{suffix}", kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
        rows.append(f"{i}.{suffix},{i},{['a', 'b'][i // 8 % 2]}")
        originals[f"{i}"] = Image.open(tmp_path / f"{i}.{suffix}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    dataset, catalog, _ = prepare(open_source(f"folder:{tmp_path / 't.csv'}"), GEOMETRY)
    upright = {name: np.asarray(ImageOps.exif_transpose(image)) for name, image in originals.items()}
    assert [tuple(shape) for shape in dataset.shapes.tolist()] == [upright[str(i)].shape for i in range(32)]
    poisoning = Poisoning(rate=0.6, target="b", trigger=Patch(size=3, location="random"))
    plan = poisoning.plan(dataset, GEOMETRY, 0)
    write_poisoned(catalog, poisoning, plan, tmp_path / "out")
    seen = 0
    for row in plan.table().iter_rows(named=True):
        name = row["source"].partition(".")[0]
        with Image.open(tmp_path / "out" / f"{row['id'].partition('.')[0]}.png") as written:
            turned, stored = np.asarray(ImageOps.exif_transpose(written)), np.asarray(written)
        expected = upright[name].copy()
        if row["triggered"]:
            at = np.array([[row["row"], row["column"]]])
            expected = poisoning.trigger.stamp(expected[None], at)[0]
            seen += 1
        assert np.array_equal(turned, expected)
        assert (stored != np.asarray(originals[name])).sum() <= 9  # as the original, but for the stamp
    assert seen > 10
