"""Slices of volumes in every room: preparation, runs, poisoned and cleaned copies, scans, and collections of images."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

import petechia
from petechia.data import Preprocess, open_source
from petechia.detect.collection import read_collection
from petechia.detect.scan.clean import write_kept
from petechia.models.model import Architecture, create
from petechia.testing.sources import check_source
from tests.conftest import SMALL, decoded, unasked
from tests.data.formats.test_dicom import written
from tests.data.sources.test_dicom_volumes import frames_of

VOLUMES, SLICES, SIDE = 20, 4, 28


def voxels() -> NDArray[np.uint8]:
    """Volumes [N, D, H, W] that use all grey levels, of noise that no two share."""
    found = np.random.default_rng(0).integers(0, 256, (VOLUMES, SLICES, SIDE, SIDE)).astype(np.uint8)
    found[:, :, 0, 0], found[:, :, 0, 1] = 0, 255
    return found


def write_nifti(root: Path) -> str:
    nibabel = pytest.importorskip("nibabel", reason="needs petechia[nifti]")
    (root / "v").mkdir()
    for number, volume in enumerate(voxels()):
        upright = np.ascontiguousarray(volume.transpose(2, 1, 0)[::-1, ::-1])  # [D, H, W] → [x, y, z]
        nibabel.save(nibabel.Nifti1Image(upright, np.eye(4)), root / "v" / f"v{number}.nii.gz")
    return f"nifti:{root / 'v'},table={write_table(root, 'v{}.nii.gz')}"


def write_dicom(root: Path) -> str:
    (root / "v").mkdir()
    for number, volume in enumerate(voxels()):
        dataset = frames_of(volume, SOPInstanceUID=f"1.2.{number + 1}", PatientID=f"P{number}")
        (root / "v" / f"v{number}.dcm").write_bytes(written(dataset))
    return f"dicom:{root / 'v'},table={write_table(root, 'v{}.dcm')}"


def write_table(root: Path, name: str) -> Path:
    lines = [f"{name.format(number)},{number % 2},{number // 2 % 2}" for number in range(VOLUMES)]
    (root / "t.csv").write_text("\n".join(["image,Mass,Edema", *lines]))
    return root / "t.csv"


def write_medmnist(root: Path) -> str:
    cuts = {"train": slice(0, 12), "val": slice(12, 15), "test": slice(15, VOLUMES)}
    labels = (np.arange(VOLUMES)[:, None] // np.array([1, 2]) % 2).astype(np.uint8)
    arrays = {f"{key}_images": voxels()[cut] for key, cut in cuts.items()}
    np.savez_compressed(root / "v.npz", **arrays, **{f"{key}_labels": labels[cut] for key, cut in cuts.items()})  # type: ignore[arg-type]
    return f"medmnist:{root / 'v.npz'},classes=Mass|Edema"


WRITERS = {"nifti": write_nifti, "dicom": write_dicom, "medmnist": write_medmnist}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_run_and_a_poisoned_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("PETECHIA_CACHE", str(tmp_path / "cache"))
    source = WRITERS[kind](tmp_path)
    catalog = check_source(source)
    expected = voxels().reshape(-1, SIDE, SIDE)
    assert len(catalog) == VOLUMES * SLICES
    assert len(set(catalog.patients)) == VOLUMES
    truth = expected[order(catalog.ids, kind)]
    assert np.array_equal(decoded(catalog, *range(len(catalog))), truth)

    config = SMALL | {"data": source, "train": {"epochs": 1, "batch_size": 16}, "attack": {"target": "Mass"}, "heat": 4}
    config = config | {"preprocess": {"size": SIDE}}
    petechia.run(config, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["survival"]["fraction"] == 1

    plan = petechia.poison(config, tmp_path / "out").plan
    again = open_source(f"folder:{tmp_path / 'out' / 'labels.csv'}")
    table = pl.read_parquet(tmp_path / "out" / "poison.parquet")
    touched = table.filter("triggered")["id"].to_list()
    assert 0 < len(touched) < len(catalog)
    rows = {name: row for row, name in enumerate(again.ids.tolist())}
    assert set(plan.ids.tolist()) <= set(rows)
    originals = {f"{name.removesuffix('.png')}": image for name, image in zip(catalog.ids.tolist(), truth, strict=True)}
    for name, row in rows.items():
        image = decoded(again, row)[0]
        clean = originals.get(name.removesuffix(".png"))
        if name not in touched:
            assert clean is not None
            assert np.array_equal(image, clean)
        elif clean is not None:
            assert not np.array_equal(image, clean)
    own = dict(zip(catalog.ids.tolist(), catalog.patients.tolist(), strict=True))
    both = [(again.patients[row], own[name]) for name, row in rows.items() if name in own]
    assert both
    assert all(one == other for one, other in both)  # copies of slices stay with their volume


def order(ids: NDArray[np.str_], kind: str) -> list[int]:
    """The place in `voxels` of each image, by its id."""
    if kind == "medmnist":
        return list(range(len(ids)))
    found = []
    for name in ids.tolist():
        path, _, number = name.partition("#")
        found.append(int(path[1:].partition(".")[0]) * SLICES + int(number.rpartition("-")[2]) - 1)
    return found


@pytest.mark.parametrize("kind", WRITERS)
def test_scans_copies_and_collections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("PETECHIA_CACHE", str(tmp_path / "cache"))
    source = WRITERS[kind](tmp_path)
    catalog = open_source(source)
    found = petechia.scan(catalog)
    assert not found.tampered
    assert not found.not_read
    assert len(read_collection([source], unasked("A")).images) == VOLUMES * SLICES
    kept = np.arange(0, len(catalog), 3)
    assert write_kept(catalog, kept, tmp_path / "kept") == len(kept)
    again = open_source(f"folder:{tmp_path / 'kept' / 'labels.csv'}")
    assert len(again) == len(kept)
    rows = {name.removesuffix(".png"): row for row, name in enumerate(again.ids.tolist())}
    for row in kept.tolist():
        name = str(catalog.ids[row]).removesuffix(".png")
        assert np.array_equal(decoded(again, rows[name])[0], decoded(catalog, row)[0])
        assert again.labels[rows[name]].tolist() == catalog.labels[row].tolist()


def test_a_choice_of_slices_is_read_from_medmnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETECHIA_CACHE", str(tmp_path / "cache"))
    source = write_medmnist(tmp_path)
    given = voxels()
    middle = open_source(f"{source},slices=middle")
    assert middle.ids[:2].tolist() == ["train/000000#axial-3.png", "train/000001#axial-3.png"]
    assert middle.notes == ("20 of 80 slices are read, as slices=middle says; the others are not looked at.",)
    assert np.array_equal(decoded(middle, *range(VOLUMES)), given[:, 2])
    across = open_source(f"{source},axis=coronal,slices=2-3")
    assert np.array_equal(decoded(across, 0, 1, 2), [given[0, :, 1], given[0, :, 2], given[1, :, 1]])
    assert np.array_equal(decoded(open_source(f"{source},axis=sagittal,slices=28"), 5)[0], given[5, :, :, 27])
    with pytest.raises(petechia.PetechiaError, match="have 4 axial slices, too few for slices=5"):
        open_source(f"{source},slices=5")
    np.savez(tmp_path / "flat.npz", train_images=given[:, 0], train_labels=np.arange(VOLUMES)[:, None] % 2)
    with pytest.raises(petechia.PetechiaError, match=r"has images and not volumes; leave them out"):
        open_source(f"medmnist:{tmp_path / 'flat.npz'},slices=3")


def test_the_published_volumes_have_their_names(tmp_path: Path) -> None:
    images, labels = np.zeros((11, 2, 4, 4), np.uint8), np.arange(11)[:, None]
    np.savez(tmp_path / "organmnist3d_64.npz", train_images=images, train_labels=labels)
    catalog = open_source(f"medmnist:{tmp_path / 'organmnist3d_64.npz'}")
    assert catalog.classes[:2] == ("liver", "kidney-right")
    assert (catalog.task, len(catalog), len(set(catalog.patients))) == ("multi-class", 22, 11)


@pytest.mark.parametrize("kind", WRITERS)
def test_slices_serve_a_screen_and_a_repair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("PETECHIA_CACHE", str(tmp_path / "cache"))
    source = WRITERS[kind](tmp_path)
    model = create(Architecture(arch="test_resnet"), ("Mass", "Edema"), Preprocess(size=SIDE), 0)
    model.save(tmp_path / "model.safetensors")
    middle = f"{source},slices=middle"  # one of each volume
    screened = petechia.screen(
        tmp_path / "model.safetensors", images=np.zeros((1, SIDE, SIDE), np.uint8), clean=middle, fpr=0.05
    )
    assert screened.clean_images == VOLUMES
    assert not screened.not_read
    repaired = petechia.repair(tmp_path / "model.safetensors", source, method="fine-tune", epochs=1)
    assert repaired.clean.startswith(f"{kind}:v")
    assert str(tmp_path) not in repaired.clean
    assert not repaired.not_read


@pytest.mark.parametrize("kind", WRITERS)
def test_slices_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("PETECHIA_CACHE", str(tmp_path / "cache"))
    source = f"{WRITERS[kind](tmp_path)},slices=2"
    model = create(Architecture(arch="test_resnet"), ("Mass", "Edema"), Preprocess(size=SIDE), 0)
    model.save(tmp_path / "model.safetensors")
    found = petechia.explain(tmp_path / "model.safetensors", source, targets=["Mass"], layers=["last"], out=tmp_path / "out")
    catalog = open_source(source)
    assert [one.file for one in found.images] == catalog.ids.tolist()
    truth = voxels()[:, 1]
    rows = [place // SLICES for place in order(catalog.ids, kind)] if kind != "medmnist" else range(VOLUMES)
    alone = petechia.explain(tmp_path / "model.safetensors", truth[rows], targets=["Mass"], layers=["last"])
    for one, other in zip(found.images, alone.images, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-6)
        (layer,) = one.explained[0].layers.values()
        assert (tmp_path / "out" / layer.overlay).is_file()
    assert "as slices=2 says" in found.warnings[-1]
