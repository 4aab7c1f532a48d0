import io
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

import petechia
from petechia.attack import Poisoning
from petechia.attack.export import write_poisoned
from petechia.core.errors import PetechiaError
from petechia.data import Preprocess, open_source, prepare
from petechia.data.sources.medmnist import NAMES
from tests.conftest import SHARED, SMALL, decoded

COUNTS = {"train": 40, "val": 8, "test": 12}


def arrays(labels: Any, size: int = 28, colour: bool = False) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    shape = (size, size, 3) if colour else (size, size)
    images = {f"{key}_images": rng.integers(0, 255, (count, *shape), dtype=np.uint8) for key, count in COUNTS.items()}
    return images | {f"{key}_labels": labels(rng, count) for key, count in COUNTS.items()}


def of_classes(count: int, dtype: str = "uint8") -> Any:
    return lambda rng, n: (np.arange(n)[:, None] % count).astype(dtype)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PETECHIA_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("name", "labels", "colour", "task", "classes"),
    [
        ("pneumoniamnist", of_classes(2), False, "multi-class", ("normal", "pneumonia")),
        ("dermamnist_64", of_classes(7), True, "multi-class", NAMES["dermamnist"]),
        ("retinamnist_128", of_classes(5, "int64"), True, "multi-class", tuple("01234")),
        ("octmnist_224", of_classes(3), False, "multi-class", NAMES["octmnist"]),  # not all of its classes are shown
        ("other", of_classes(3, "float32"), False, "multi-class", ("class 0", "class 1", "class 2")),
        ("chestmnist", lambda rng, n: rng.integers(0, 2, (n, 14)), False, "multi-label", NAMES["chestmnist"]),
        ("flat", lambda rng, n: np.arange(n) % 2, False, "multi-class", ("class 0", "class 1")),
    ],
)
def test_the_published_forms(
    folder: Path, packed: bool, name: str, labels: Any, colour: bool, task: str, classes: tuple[str, ...]
) -> None:
    size = int(name.rpartition("_")[2]) if "_" in name else 28
    content = arrays(labels, size, colour)
    (np.savez_compressed if packed else np.savez)(folder / f"{name}.npz", **content)  # type: ignore[arg-type]
    catalog = open_source(f"medmnist:{folder / name}.npz")
    assert (catalog.task, catalog.classes, catalog.colour, len(catalog)) == (task, classes, colour, 60)
    assert [int((catalog.split == one).sum()) for one in ("train", "validation", "test")] == [40, 8, 12]
    together = np.concatenate([content[f"{key}_images"] for key in COUNTS])
    rows = np.array([59, 0, 40, 47, 48])
    assert np.array_equal(decoded(catalog, *rows), together[rows])
    some = catalog.take(rows)
    assert np.array_equal(decoded(some, 2)[0], together[40])
    assert some.reader.fingerprint() != catalog.reader.fingerprint()
    given = np.concatenate([content[f"{key}_labels"] for key in COUNTS]).reshape(60, -1).astype(int)
    expected = given if task == "multi-label" else np.eye(len(classes), dtype=int)[given[:, 0]]
    assert np.array_equal(catalog.labels, expected)
    assert len(set(catalog.patients)) == 60


@pytest.mark.parametrize("options", ["", ",axis=coronal,slices=2-3"])
def test_the_reader_can_be_sent_to_another_process(folder: Path, options: str) -> None:
    content = arrays(of_classes(2))
    if options:
        content |= {f"{key}_images": np.repeat(content[f"{key}_images"][:, :9, :8, None], 7, axis=3) for key in COUNTS}
        content |= {f"{key}_images": content[f"{key}_images"] // 8 + np.arange(7, dtype=np.uint8) for key in COUNTS}
    np.savez(folder / "x.npz", **content)  # type: ignore[arg-type]
    reader = open_source(f"medmnist:{folder / 'x.npz'}{options}").reader
    sent = pickle.loads(pickle.dumps(reader))  # noqa: S301
    rows = np.arange(len(reader))
    assert np.array_equal(np.stack(list(sent.read(rows))), np.stack(list(reader.read(rows))))  # type: ignore[arg-type]


def test_names_can_be_given(folder: Path) -> None:
    np.savez(folder / "x.npz", **arrays(of_classes(2)))  # type: ignore[arg-type]
    assert open_source(f"medmnist:{folder / 'x.npz'},classes=benign|malignant").classes == ("benign", "malignant")
    with pytest.raises(PetechiaError, match="has 2 classes, but classes= names 1"):
        open_source(f"medmnist:{folder / 'x.npz'},classes=benign")


def test_the_real_sample() -> None:
    file = SHARED / "medmnist-sample" / "pneumoniamnist.npz"
    if not file.is_file():
        pytest.skip(f"the real MedMNIST sample is not in {file.parent}")
    catalog = open_source(f"medmnist:{file}")
    assert catalog.classes == ("normal", "pneumonia")
    with np.load(file) as content:
        for key, split in (("train", "train"), ("val", "validation"), ("test", "test")):
            rows = np.flatnonzero(catalog.split == split)
            assert np.array_equal(catalog.labels[rows, 1], content[f"{key}_labels"][:, 0])
            assert np.array_equal(decoded(catalog, rows[-1])[0], content[f"{key}_images"][-1])


def lying(shape: tuple[int, ...], payload: int, descr: str = "|u1") -> bytes:
    """The bytes of a .npy whose header claims a shape."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(payload)


def packed(replaced: dict[str, bytes | None]) -> bytes:
    buffer = io.BytesIO()
    content = arrays(of_classes(2))
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for key, value in content.items():
            whole = io.BytesIO()
            np.save(whole, value)
            made = replaced.get(key, whole.getvalue())
            if made is not None:
                file.writestr(f"{key}.npy", made)
    return buffer.getvalue()


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("/tmp/petechia-was-run"),))


def test_bad_files_are_refused_before_anything_is_allocated(folder: Path) -> None:
    pickled, wide, fortran = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(pickled, np.array([Bomb()] * 40, object), allow_pickle=True)
    np.save(wide, np.full((40, 3), 7))
    np.save(fortran, np.asfortranarray(np.zeros((40, 28, 28), np.uint8)))
    nan, short = io.BytesIO(), io.BytesIO()
    np.save(nan, np.full((40, 1), np.nan))
    np.save(short, np.zeros((39, 1), np.uint8))
    cases: dict[str, bytes] = {
        "is not a .npz file": b"PK nothing",
        "train_images as pickled objects, which could run code": packed({"train_images": pickled.getvalue()}),
        "train_labels as pickled objects": packed({"train_labels": pickled.getvalue()}),
        "claims 1,000,000,000,000 bytes, and the maximum is 68": packed({"train_images": lying((10**6, 1000, 1000), 100)}),
        "claims 100,000,000 bytes, a multiple": packed({"train_images": lying((100, 1000, 1000), 10**8)}),  # a zip bomb
        "a different number of bytes than its header states": packed({"train_images": lying((40, 28, 28), 100)}),
        "train_images.npy, which is not an array": packed({"train_images": b"\x93NUMPY\x01\x00\xff\xff" + bytes(70000)}),
        "contains train_images.npy, which is not an array (a": packed({"train_images": lying((-1, 28, 28), 0)}),
        "has train_images in Fortran order": packed({"train_images": fortran.getvalue()}),
        r"volumes uint8 [N, D, H, W]": packed({"train_images": lying((40, 2, 28, 28, 28), 40 * 2 * 28**3)}),
        "images must be uint8": packed({"train_images": lying((40, 28, 28), 40 * 28 * 28 * 2, "<u2")}),
        "has train_images but no train_labels": packed({"train_labels": None}),
        "has no train_images": packed(dict.fromkeys(arrays(of_classes(2)), None)),
        "several columns with labels other than 0 and 1|different widths": packed({"train_labels": wide.getvalue()}),
        "train_labels, row 0, a label that is not an integer": packed({"train_labels": nan.getvalue()}),
        "40 train_images, but 39 labels": packed({"train_labels": short.getvalue()}),
        "labels must be numbers": packed({"train_labels": lying((40, 1), 40 * 4, "<U1")}),
    }
    for said, content in cases.items():
        (folder / "bad.npz").write_bytes(content)
        with pytest.raises(PetechiaError, match=said.replace("(", r"\(").replace(")", r"\)").replace("[", r"\[")) as caught:
            open_source(f"medmnist:{folder / 'bad.npz'}")
        assert "bad.npz" in str(caught.value)
    assert not Path("/tmp/petechia-was-run").exists()


def test_a_file_that_is_damaged_within_is_a_sentence(folder: Path) -> None:
    content = bytearray(packed({}))
    place = content.index(b"train_images.npy") + 2000
    content[place : place + 200] = bytes(200)
    (folder / "bad.npz").write_bytes(bytes(content))
    catalog = open_source(f"medmnist:{folder / 'bad.npz'}")
    with pytest.raises(PetechiaError, match=r"bad\.npz is damaged"):
        list(catalog.reader.read(np.arange(3)))
    assert not [one for one in (folder / "cache").iterdir() if one.is_dir()]


def test_a_split_without_images_is_empty_and_a_file_without_any_is_refused(folder: Path) -> None:
    given = arrays(of_classes(2))
    empty = {key: value[:0] for key, value in given.items()}
    np.savez(folder / "x.npz", **(given | {key: empty[key] for key in empty if key.startswith("val")}))  # type: ignore[arg-type]
    catalog = open_source(f"medmnist:{folder / 'x.npz'}")
    assert set(catalog.split) == {"train", "test"}
    assert len(catalog.ids) == len(given["train_images"]) + len(given["test_images"])
    (last,) = catalog.reader.read(np.array([len(catalog.ids) - 1]))
    assert isinstance(last, np.ndarray)
    assert np.array_equal(last, given["test_images"][-1])
    np.savez(folder / "none.npz", **empty)  # type: ignore[arg-type]
    with pytest.raises(PetechiaError, match="has no images; give a MedMNIST file with images"):
        open_source(f"medmnist:{folder / 'none.npz'}")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_run_and_a_poisoned_copy_in_colour(folder: Path, channels: int) -> None:
    np.savez_compressed(folder / "dermamnist.npz", **arrays(of_classes(7), colour=True))  # type: ignore[arg-type]
    source = f"medmnist:{folder / 'dermamnist.npz'}"
    config = SMALL | {
        "data": source,
        "model": {"arch": "test_resnet", "channels": channels},
        "train": {"epochs": 1, "batch_size": 16},
        "attack": {"target": "melanoma"},
        "heat": 4,
    }
    petechia.run(config, folder / "run")
    assert json.loads((folder / "run" / "summary.json").read_text())["survival"]["fraction"] == 1
    plan = petechia.poison(config, folder / "poisoned").plan
    again = open_source(f"folder:{folder / 'poisoned' / 'labels.csv'},colour=true")
    assert (again.task, set(again.classes)) == ("multi-class", set(NAMES["dermamnist"]))
    assert sorted(again.ids) == sorted(
        [*plan.ids, *(f"{key}/{i:06d}.png" for key in ("val", "test") for i in range(COUNTS[key]))]
    )
    table = pl.read_parquet(folder / "poisoned" / "poison.parquet")
    row = table.filter("triggered").row(0, named=True)
    (image,) = again.reader.read(np.flatnonzero(again.ids == row["id"]))
    assert isinstance(image, np.ndarray)
    assert image.shape == (28, 28, 3)
    assert (image[row["row"] : row["row"] + 3, row["column"] : row["column"] + 3] == 0).all()


def test_a_copy_of_multi_label_data_keeps_the_order_of_classes(folder: Path) -> None:
    np.savez(folder / "chestmnist.npz", **arrays(lambda rng, n: rng.integers(0, 2, (n, 14))))  # type: ignore[arg-type]
    dataset, catalog, _ = prepare(open_source(f"medmnist:{folder / 'chestmnist.npz'}"), Preprocess(size=16))
    attack = Poisoning(rate=0.2, mode="replace")
    plan = attack.plan(dataset, Preprocess(size=16), 0)
    write_poisoned(catalog, attack, plan, folder / "out")
    again = open_source(f"folder:{folder / 'out' / 'labels.csv'}")
    assert again.classes == catalog.classes
    places = {name: k for k, name in enumerate(again.ids.tolist())}
    assert np.array_equal(again.labels[[places[i] for i in plan.ids.tolist()]], plan.labels)
