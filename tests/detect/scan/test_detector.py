import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

import petechia
from petechia.cli.commands import app
from petechia.core.errors import PetechiaError
from petechia.data import Catalog, Preprocess, open_source
from petechia.detect.scan import ScanResult, scan_catalog
from petechia.detect.scan.thresholds import packaged_thresholds
from petechia.models.model import Architecture, create
from tests.conftest import InMemory, NihMaker
from tests.data.formats.test_dicom import made, written

SOURCE = "phantom:images=400,size=96"
Poisoned = Callable[..., Path]


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Poisoned:
    """Write a poisoned copy of a small phantom."""

    def write(**attack: Any) -> Path:
        folder = tmp_path_factory.mktemp("poisoned") / "copy"
        petechia.poison({"data": SOURCE, "preprocess": {"size": 96}, "attack": attack}, folder)
        return folder

    return write


def flagged(found: ScanResult) -> set[str]:
    return set(found.flagged_ids)


def triggered(folder: Path) -> set[str]:
    return set(pl.read_parquet(folder / "poison.parquet").filter("triggered")["id"])


@pytest.mark.parametrize("rate", [0.02, 0.4])
@pytest.mark.parametrize(
    "trigger",
    [{"size": 3}, {"size": 3, "location": "random", "value": 255}, {"size": 1}, {"size": 4, "opacity": 0.5}],
    ids=["centre", "random", "single", "blended"],
)
def test_every_triggered_copy_is_flagged_and_no_clean_image(poisoned: Poisoned, trigger: dict[str, Any], rate: float) -> None:
    folder = poisoned(trigger=trigger, rate=rate, mode="append")
    assert flagged(scan_catalog(open_source(f"nih:{folder}"))) == triggered(folder)


@pytest.mark.parametrize("rate", [0.05, 0.4])
@pytest.mark.parametrize("location", ["center", "random"])
def test_replaced_images_are_flagged_and_stamp_place_and_class_named(poisoned: Poisoned, location: str, rate: float) -> None:
    folder = poisoned(trigger={"size": 3, "location": location}, rate=rate, mode="replace", target="Edema")
    found = scan_catalog(open_source(f"nih:{folder}"))
    truth = triggered(folder)
    assert len(flagged(found) & truth) >= 0.99 * len(truth)
    assert len(flagged(found) - truth) <= 0.01 * found.images
    stamp = found.details.families[0]
    assert (found.details.pictures[0] == np.zeros((3, 3), np.uint8)).all()
    assert (found.details.catalog.classes[stamp.label], stamp.alone, stamp.fixed) == ("Edema", True, location == "center")
    places = pl.read_parquet(folder / "poison.parquet").filter("triggered")
    true = dict(zip(places["id"], zip(places["row"], places["column"], strict=True), strict=True))
    right = [
        (finding.evidence["row"], finding.evidence["column"]) == true[finding.about]
        for finding in found.findings
        if finding.flagged and finding.about in truth
    ]
    assert np.mean(right) >= (1 if location == "center" else 0.9)  # a speck of the phantom's own may look like the stamp


def test_an_untouched_dataset_is_clean() -> None:
    found = scan_catalog(open_source(SOURCE))
    assert not found.tampered
    assert len(found.details.kept) == 400


def test_the_real_sample_is_clean(nih_sample: Path) -> None:
    assert not scan_catalog(open_source(f"nih:{nih_sample}").take(np.arange(120))).tampered


def catalog_of(images: list[NDArray[np.uint8]], labels: NDArray[np.int8]) -> Catalog:
    names = np.array([f"{n}.png" for n in range(len(images))])
    classes = tuple("ABC"[: labels.shape[1]])
    return Catalog("test", classes, names, names, np.full(len(images), "train"), labels, InMemory(images))


@pytest.mark.parametrize(
    "images",
    [
        pytest.param([np.full((40, 40), 90, np.uint8)], id="one image"),
        pytest.param([np.full((40, 40), 90, np.uint8)] * 20, id="all identical"),
        pytest.param([np.full((40, 40, 3), n, np.uint8) for n in range(20)], id="colour"),
        pytest.param([np.full((1, 1), n, np.uint8) for n in range(20)], id="single pixels"),
    ],
)
@pytest.mark.parametrize("classes", [0, 3])
def test_odd_datasets_are_read_and_not_flagged(images: list[NDArray[np.uint8]], classes: int) -> None:
    found = scan_catalog(catalog_of(images, np.zeros((len(images), classes), np.int8)))
    assert not found.tampered


def test_no_image_is_refused() -> None:
    with pytest.raises(PetechiaError, match="has no images"):
        scan_catalog(catalog_of([], np.zeros((0, 3), np.int8)))


def test_duplicates_with_other_labels_are_told_but_not_flagged_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)
    found = scan_catalog(catalog_of([image, image], np.array([[1, 0, 0], [0, 1, 0]], np.int8)))
    assert not found.tampered
    assert all("labelled otherwise" in suspect.reason for suspect in found.details.suspects)


def test_the_command_writes_what_it_finds_and_a_clean_copy(poisoned: Poisoned, tmp_path: Path) -> None:
    folder = poisoned(rate=0.1)
    out, clean = tmp_path / "out", tmp_path / "clean"
    done = CliRunner().invoke(app, ["scan", f"nih:{folder}", "--out", str(out), "--clean-to", str(clean)])
    assert done.exit_code == 3, done.output
    table = pl.read_csv(out / "suspects.csv")
    assert table.columns == ["id", "score", "flagged", "reason", "row", "column"]
    assert set(table["id"]) == set(open_source(f"nih:{folder}").ids)
    assert table["score"].is_sorted(descending=True)
    assert set(table.filter("flagged")["id"]) == triggered(folder)
    content = json.loads((out / "scan.json").read_text())
    assert content["tampered"] is True
    assert content["stamps"][0]["label"] == "Atelectasis as the only finding"
    assert (np.asarray(Image.open(out / "stamp-1.png")) == 0).all()
    left = open_source(f"nih:{clean}")
    assert set(left.ids) == set(open_source(f"nih:{folder}").ids) - triggered(folder)
    assert not scan_catalog(left).tampered
    again = CliRunner().invoke(app, ["scan", f"nih:{folder}", "--out", str(out)])
    assert again.exit_code == 1
    assert "exists already" in again.output


def test_nothing_found_is_exit_status_0_and_says_what_it_does_not_prove(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["scan", "phantom:images=100,size=64", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "Nothing found" in done.output
    assert "does not prove" in " ".join(done.output.split())


def test_an_unreadable_image_stops_or_is_left_out(poisoned: Poisoned, tmp_path: Path) -> None:
    folder = poisoned(rate=0.02)
    catalog = open_source(f"nih:{folder}")
    broken = next(iter((folder / "images").glob("*.png")))
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(PetechiaError, match="cannot be decoded"):
        scan_catalog(catalog)
    found = scan_catalog(catalog, on_error="skip")
    row = catalog.ids.tolist().index(broken.name)
    assert "cannot be decoded" in found.details.suspects[row].reason
    assert broken.name not in catalog.ids[found.details.kept]
    nothing = replace(found.details, unread=dict.fromkeys(range(len(catalog)), "broken"))
    with pytest.raises(PetechiaError, match="No image would be left"):
        ScanResult.of(nothing, packaged_thresholds()).write_clean(tmp_path / "clean")


def test_a_stamp_on_its_own_grey_level_is_flagged_where_that_is_no_chance() -> None:
    rng = np.random.default_rng(0)
    images = [np.asarray(rng.integers(90, 110, (40, 40)), np.uint8) for _ in range(200)]
    labels = np.asarray(rng.random((200, 3)) < 0.2, np.int8)
    for n in range(30):
        labels[n] = [0, 1, 0]
        images[n][20:23, 10:13] = 255
    images[29][15:30, 5:20] = 255  # the stamp lies in an area as white as itself
    found = scan_catalog(catalog_of(images, labels))
    assert flagged(found) == {f"{n}.png" for n in range(30)}
    for image in images[30::4]:
        image[15:30, 5:20] = 255  # and now that area is usual
    found = scan_catalog(catalog_of(images, labels))
    assert flagged(found) == {f"{n}.png" for n in range(29)}


def test_a_pattern_weakly_associated_with_a_label_ranks_higher_and_is_not_flagged() -> None:
    rng = np.random.default_rng(0)
    images = [np.full((40, 40), 100, np.uint8) for _ in range(600)]
    labels = np.asarray(rng.random((600, 3)) < 0.2, np.int8)
    labels[:60:2, 2] = 1
    for n in range(60):
        images[n][3:6, 30:33] = 0
        images[n][20:] = n  # no two are near-duplicates
    for n in range(60, 600):
        images[n][20:] = n % 200
        images[n][:3] = n // 3
    found = scan_catalog(catalog_of(images, labels))
    assert not found.tampered
    scores = np.array([suspect.score for suspect in found.details.suspects])
    weakly_associated = np.array(["weakly associated with C" in suspect.reason for suspect in found.details.suspects])
    assert (weakly_associated == ((np.arange(600) < 60) & (labels[:, 2] == 1))).all()
    assert scores[weakly_associated].min() > 0
    assert scores[weakly_associated].max() < 0.5


def test_a_model_adds_to_the_ranking_and_flags_nothing(poisoned: Poisoned, tmp_path: Path) -> None:
    folder = poisoned(rate=0.05, mode="replace", trigger={"size": 8, "opacity": 0.2})
    model = tmp_path / "model.safetensors"
    create(Architecture(arch="test_resnet"), ("A", "B"), Preprocess(size=32), 0).save(model)
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["scan", f"nih:{folder}", "--out", str(out), "--model", str(model)])
    plain = scan_catalog(open_source(f"nih:{folder}"))
    assert done.exit_code == (3 if plain.tampered else 0), done.output
    assert json.loads((out / "scan.json").read_text())["model"] is True
    table = pl.read_csv(out / "suspects.csv")
    assert set(table.filter("flagged")["id"]) == flagged(plain)
    assert table.filter(~pl.col("flagged"))["score"].max() < 0.5  # type: ignore[operator]
    assert table["reason"].str.contains("model's features").any()


@pytest.mark.parametrize("labels", [np.zeros((40, 3), np.int8), np.full((40, 3), -1, np.int8)], ids=["none", "unknown"])
def test_without_labels_a_recurring_stamp_is_told_and_nothing_is_flagged(labels: NDArray[np.int8]) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(90, 110, (40, 40)).astype(np.uint8) for _ in range(40)]
    for image in images[:12]:
        image[5:8, 5:8] = 255
    found = scan_catalog(catalog_of(images, labels))
    assert not found.tampered
    assert max(len(family.images) for family in found.details.families) == 12


def test_a_file_of_16_bits_is_refused_in_a_sentence_or_left_out(make_nih: NihMaker) -> None:
    folder = make_nih([(f"{n}.png", "Edema", str(n)) for n in range(4)])
    Image.fromarray(np.full((16, 16), 40_000, np.uint16)).save(folder / "images" / "2.png")
    with pytest.raises(PetechiaError, match="more than 8 bits"):
        scan_catalog(open_source(f"nih:{folder}"))
    found = scan_catalog(open_source(f"nih:{folder}"), on_error="skip")
    assert list(found.details.unread) == [2]


def test_a_file_in_colour_is_scanned_in_grey(make_nih: NihMaker) -> None:
    folder = make_nih([(f"{n}.png", "Edema", str(n)) for n in range(4)], size=48)
    grey = np.asarray(Image.open(folder / "images" / "1.png"))
    grey = np.where(np.indices(grey.shape).min(axis=0) < 8, grey, 120).astype(np.uint8)
    Image.fromarray(grey).save(folder / "images" / "1.png")
    grey[30:33, 20:23] = 0
    Image.fromarray(np.repeat(grey[:, :, None], 3, axis=2)).save(folder / "images" / "3.png")
    (pair,) = scan_catalog(open_source(f"nih:{folder}")).details.pairs
    assert (pair.stamped, pair.clean, pair.row, pair.column) == (3, 1, 30, 20)


@pytest.mark.parametrize("classes", [0, 2])
@pytest.mark.parametrize("same_pixels", [True, False], ids=["one stamp", "one place"])
def test_pairs_that_differ_in_a_recurring_box_are_flagged_without_labels(classes: int, same_pixels: bool) -> None:
    rng = np.random.default_rng(0)
    clean = [rng.integers(90, 110, (40, 40)).astype(np.uint8) for _ in range(8)]
    stamped = [image.copy() for image in clean[:5]]
    for n, image in enumerate(stamped):
        row, column = (5 + n, 20) if same_pixels else (5, 20)
        image[row : row + 3, column : column + 3] = 255 if same_pixels else 230 + n
    found = scan_catalog(catalog_of([*clean, *stamped], np.full((13, classes), -1, np.int8)))
    assert found.flagged_ids == tuple(f"{n}.png" for n in range(8, 13))
    assert "is 0.png but for 3 x 3 pixels, as in 5 pairs without labels" in found.findings[8].reason
    assert found.warnings == ()


@pytest.mark.parametrize("labels", [np.zeros((6, 0), np.int8), np.zeros((6, 2), np.int8)], ids=["none", "the same"])
def test_single_pairs_that_differ_in_a_box_are_told(labels: NDArray[np.int8], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(90, 110, (40, 40)).astype(np.uint8) for _ in range(5)]
    images.append(images[2].copy())
    images[5][3:6, 7:10] = 255
    found = scan_catalog(catalog_of(images, labels))
    assert not found.tampered
    (warning,) = found.warnings
    assert warning.startswith("1 pair of images differs in a small box alone")
    assert "5.png and 2.png" in warning
    assert ScanResult.load(found.save(tmp_path / "out")).warnings == (warning,)


def dataset_with(folder: Path, *others: str) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for n in range(6):
        Image.fromarray(rng.integers(0, 255, (32, 32), np.uint8)).save(folder / f"{n}.png")
    (folder / "t.csv").write_text("image,Mass\n" + "".join(f"{n}.png,{n % 2}\n" for n in range(6)))
    for name in others:
        Image.fromarray(rng.integers(0, 255, (32, 32), np.uint8)).save(folder / name)
    return folder / "t.csv"


def test_what_was_not_looked_at_is_said_beside_nothing_found(tmp_path: Path) -> None:
    table = dataset_with(tmp_path / "data", "a.bmp", "b.webp", "unlisted.png")
    found = petechia.scan(f"folder:{table}")
    assert found.not_read.images == 3
    assert ScanResult.load(found.save(tmp_path / "saved")).not_read == found.not_read
    words = ["scan", f"folder:{table}", "--out"]
    for options, status in (((), 0), (("--strict",), 4)):
        done = CliRunner().invoke(app, [*words, str(tmp_path / f"out{status}"), *options])
        assert done.exit_code == status, done.output
        assert "Nothing found. Not looked at: 3." in done.output
        assert "image format that is not read: 2 (a.bmp, b.webp); not listed by the table: 1 (unlisted.png)" in done.output
        content = json.loads((tmp_path / f"out{status}" / "scan.json").read_text())["not_read"]
        assert [one["count"] for one in content["reasons"]] == [2, 1]


def test_strict_is_0_if_everything_was_looked_at_and_3_if_something_is_found(poisoned: Poisoned, tmp_path: Path) -> None:
    table = dataset_with(tmp_path / "data")
    (tmp_path / "data" / "notes.txt").write_text("no image")
    done = CliRunner().invoke(app, ["scan", f"folder:{table}", "--out", str(tmp_path / "out"), "--strict"])
    assert done.exit_code == 0, done.output
    assert "Not looked at" not in done.output
    folder = poisoned(rate=0.1)
    (folder / "images" / "x.bmp").write_bytes(b"BM")
    done = CliRunner().invoke(app, ["scan", f"nih:{folder}", "--out", str(tmp_path / "more"), "--strict"])
    assert done.exit_code == 3, done.output
    assert "image format that is not read: 1 (images/x.bmp)" in done.output


def test_images_that_cannot_be_decoded_count_as_not_looked_at(tmp_path: Path) -> None:
    table = dataset_with(tmp_path / "data")
    (tmp_path / "data" / "3.png").write_bytes(b"nothing")
    words = ["scan", f"folder:{table}", "--out", str(tmp_path / "out"), "--on-error", "skip", "--strict"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 4, done.output
    assert "cannot be decoded: 1 (3.png)" in done.output


def dicom_folder(folder: Path, images: list[NDArray[np.uint16]], window: tuple[int, int] | None) -> Path:
    """Images of 12 bits, with or without a window."""
    folder.mkdir()
    for number, pixels in enumerate(images):
        entries = {} if window is None else {"WindowCenter": window[0], "WindowWidth": window[1]}
        made_dicom = made(pixels, BitsStored=12, HighBit=11, PatientID=f"p{number}", **entries)
        made_dicom.SOPInstanceUID = f"1.2.{number}"
        (folder / f"{number:03}.dcm").write_bytes(written(made_dicom))
    return folder


def radiographs(count: int) -> list[NDArray[np.uint16]]:
    """Smooth images of 12 bits, all different: dark to the left, bright to the right."""
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        coarse = np.linspace(200, 3500, 6)[None] + rng.uniform(-150, 150, (6, 6))
        smooth = Image.fromarray(coarse.astype(np.float32)).resize((80, 80), Image.Resampling.BICUBIC)
        found.append((np.asarray(smooth) + rng.normal(0, 3, (80, 80))).clip(0, 4095).astype(np.uint16))
    return found


@pytest.mark.parametrize("window", [None, (2000, 400), (3000, 1000)], ids=["none", "narrow", "bright"])
@pytest.mark.parametrize("value", [0, 255, 4095])
def test_stamps_are_seen_where_a_window_cuts_them_off(tmp_path: Path, window: tuple[int, int] | None, value: int) -> None:
    """Copies with a stamp of 8 bits in images of 12, which a narrow window displays as black on black, or white on white."""
    images, column = radiographs(20), 72 if value == 4095 else 12
    for number in range(10):
        copy = images[number].copy()
        copy[40:43, column : column + 3] = value
        images.append(copy)
    found = scan_catalog(open_source(f"dicom:{dicom_folder(tmp_path / 'files', images, window)}"))
    assert found.near_duplicates == 10
    assert {(pair.row, pair.column) for pair in found.details.pairs} == {(40, column)}
