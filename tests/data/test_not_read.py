from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petechia.data import Preprocess, open_source, prepare
from petechia.data.not_read import EVERYTHING_READ, NAMED, Files, NotRead, Reason, together


def test_counts_are_right_and_names_are_few() -> None:
    found = NotRead.of(Reason.FORMAT, (f"{i}.bmp" for i in range(100_000)))
    assert (found.images, found.others) == (100_000, 0)
    (only,) = found.reasons
    assert (only.count, only.names) == (100_000, tuple(f"{i}.bmp" for i in range(NAMED)))
    assert str(found).endswith("image format that is not read: 100,000 (0.bmp, 1.bmp, 2.bmp, 3.bmp, 4.bmp and 99,995 more).")
    assert len(found.model_dump_json()) < 500


def test_reports_are_told_apart_from_images() -> None:
    both = NotRead.of(Reason.NO_PIXELS, ["report"]) + NotRead.of(Reason.FRAMES, ["cine", "loop"])
    assert (both.images, both.others) == (2, 1)
    assert str(both).startswith("Not looked at: 2 images and 1 other file. By reason: DICOM file with several frames: 2 (")
    assert [one.reason for one in both.reasons] == [Reason.FRAMES, Reason.NO_PIXELS]  # in one order, whatever is added first


def test_sums_keep_counts_and_names() -> None:
    parts = [NotRead.of(Reason.MASK, [f"{i}-{j}" for j in range(3)]) for i in range(4)]
    whole = together(parts)
    assert whole.images == 12
    assert whole.reasons[0].names == ("0-0", "0-1", "0-2", "1-0", "1-1")
    assert together([]) == EVERYTHING_READ
    assert (not EVERYTHING_READ, str(EVERYTHING_READ)) == (True, "")


def test_names_are_harmless_and_survive_the_file() -> None:
    files = Files("folder")
    files.add(Reason.LINK, "a\x1b[2J\n" + "x" * 5000)
    (only,) = files.frozen.reasons
    assert only.names[0].startswith("folder/a�[2J�xxx")
    assert len(only.names[0]) <= 200
    assert NotRead.model_validate_json(files.frozen.model_dump_json()) == files.frozen


def test_what_cannot_be_decoded_stays_with_the_catalog(tmp_path: Path) -> None:
    for i in range(4):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes(b"nothing")
    (tmp_path / "5.bmp").write_bytes(b"BM")
    (tmp_path / "t.csv").write_text("image,Mass\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(4)))
    catalog = open_source(f"folder:{tmp_path / 't.csv'}")
    for _ in range(2):  # built, and from the cache
        left = prepare(catalog, Preprocess(size=8), "skip").catalog
        assert {one.reason: one.names for one in left.not_read.reasons} == {
            Reason.FORMAT: ("5.bmp",),
            Reason.DAMAGED: ("2.png",),
        }
        assert len(left) == 3


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_a_phrase(reason: Reason) -> None:
    assert reason.value[0].islower() or reason.value.startswith("DICOM")
    assert not reason.value.endswith(".")
