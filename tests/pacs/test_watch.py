"""A watch with a real PACS: what it stores there is read with other libraries, and checked by a validator of the standard."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from typer.testing import CliRunner

from petechia.cli.commands import app
from petechia.core.errors import PetechiaError
from tests.conftest import TORTURE
from tests.data.dicomweb.hostile import answering, entry, serving
from tests.detect.screen.conftest import ByHand, opened
from tests.orthanc import Orthanc
from tests.pacs.conftest import CHARACTERS, World, drawn, file, own, parsed, stamped

pytest.importorskip("prometheus_client", reason="the extra dicomweb is not installed")

import petechia
from petechia.pacs.journal import CLEAN, FAILED, FLAGGED, Journal
from petechia.pacs.watching import FIRST, LONGEST, back_off

PLACE = (20, 9)  # of the black square


def watch(world: World, pacs: Orthanc, out: Path, **options: Any) -> Any:
    given: dict[str, Any] = {"fpr": 0.05, "once": True, "device": "cpu", "threads": 1, "say": lambda _: None}
    return petechia.watch(f"dicomweb:{pacs.url}", world.model, str(world.clean), out, **given | options)


def journal(out: Path) -> dict[str, tuple[Any, ...]]:
    if not (out / "calibration.json").exists():
        return {}
    with sqlite3.connect(out / "journal.sqlite") as database:
        rows = database.execute("SELECT uid, state, report, reason FROM images").fetchall()
    return {uid: rest for uid, *rest in rows}


def validate(content: bytes, folder: Path) -> list[str]:
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not installed (Debian: dicom3tools)")
    (folder / "x.dcm").write_bytes(content)
    said = subprocess.run([program, str(folder / "x.dcm")], capture_output=True, text=True, check=False)
    return [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")]


def test_what_is_flagged_is_reported_in_its_study(world: World, pacs: Orthanc, tmp_path: Path) -> None:
    images = drawn(6, seed=7)
    images[1] = stamped(images[1], *PLACE)
    images[4] = stamped(images[4], *PLACE)
    pacs.store(*(file(image, number) for number, image in enumerate(images)))
    pacs.store(file(images[0], 90, Modality="CT", NumberOfFrames="1"), file(images[:3], 91, NumberOfFrames="3"))
    out = tmp_path / "watch"
    said: list[str] = []
    found = watch(world, pacs, out, say=said.append)
    expected = petechia.screen(world.model, images, world.clean, fpr=0.05, device="cpu", threads=1)
    flagged = {f"1.2.{number}" for number, one in enumerate(expected.images) if one.flagged}
    assert flagged >= {"1.2.1", "1.2.4"}
    known = journal(out)
    assert {uid for uid, (state, *_) in known.items() if state == FLAGGED} - {"1.2.90"} == flagged
    assert known["1.2.91"][0] == FAILED
    assert "frames" in known["1.2.91"][2]
    assert (found.screened, found.failed) == (7, 1)
    assert not any("SECRET" in sentence or "M\xfcller" in sentence for sentence in said)

    stored = [one for one in own(pacs) if one.StudyInstanceUID == "1.3.0" and one.Modality in ("SR", "OT")]
    report = next(one for one in stored if one.Modality == "SR" and "1.2.1" in referenced(one))
    assert report.StudyInstanceUID == "1.3.0"
    assert str(report.PatientName) == CHARACTERS
    assert (report.PatientID, report.AccessionNumber, report.StudyID) == ("SECRET0", "A7", "7")
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert report.CompletionFlag == "COMPLETE"
    assert report.VerificationFlag == "UNVERIFIED"
    items = list(walk(report))
    values = {item.ConceptNameCodeSequence[0].CodeValue: item for item in items if "ConceptNameCodeSequence" in item}
    p_value = float(values["p-value"].MeasuredValueSequence[0].NumericValue)
    assert p_value == pytest.approx(expected.images[1].p_value)
    (region,) = (item for item in items if item.ValueType == "SCOORD")
    corners = np.array(region.GraphicData).reshape(-1, 2)
    assert corners.min(axis=0).tolist() <= [PLACE[1] + 1, PLACE[0] + 1] <= corners.max(axis=0).tolist()
    assert region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.1"
    texts = " ".join(str(item.TextValue) for item in items if item.ValueType == "TEXT")
    assert "not a diagnosis" in texts
    assert "model.pt2" in texts

    picture = next(one for one in stored if one.Modality == "OT" and "1.2.1" in referenced(one))
    assert picture.SeriesInstanceUID != report.SeriesInstanceUID
    assert picture.pixel_array.shape == (512, 1024, 3)
    assert (picture.pixel_array == (255, 64, 64)).all(axis=-1).any()  # the frame
    assert "not a diagnosis" in picture.DerivationDescription
    assert [error for content in pacs.files() if parsed(content).get("SeriesDescription") == "Petechia"
            for error in validate(content, tmp_path)] == []  # fmt: skip


def referenced(one: Any) -> set[str]:
    """SOPInstanceUIDs that an object says it is about."""
    found = {item.ReferencedSOPInstanceUID for item in one.get("SourceImageSequence") or ()}
    for study in one.get("CurrentRequestedProcedureEvidenceSequence") or ():
        for series in study.ReferencedSeriesSequence:
            found |= {item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence}
    return found


def walk(item: Any) -> Any:
    for child in item.get("ContentSequence") or ():
        yield child
        yield from walk(child)


def test_nothing_is_screened_or_stored_twice(world: World, pacs: Orthanc, tmp_path: Path) -> None:
    pacs.store(*(file(stamped(image, *PLACE), number) for number, image in enumerate(drawn(3, seed=7))))
    arguments = [*world.arguments(pacs.url, tmp_path / "watch"), "--once"]
    first = CliRunner().invoke(app, ["watch", *arguments])
    assert first.exit_code == 3, first.output
    assert "3 images screened, 3 flagged, 0 not screened" in first.output
    assert "SECRET" not in first.output
    before = sorted(one.SOPInstanceUID for one in own(pacs))
    assert len(before) == 6
    again = CliRunner().invoke(app, ["watch", *arguments])
    assert again.exit_code == 0, again.output
    assert "0 images screened" in again.output  # its own pictures are no images to screen
    (tmp_path / "watch" / "journal.sqlite").unlink()  # everything is screened again
    lost = CliRunner().invoke(app, ["watch", *arguments])
    assert "3 images screened, 3 flagged" in lost.output
    assert sorted(one.SOPInstanceUID for one in own(pacs)) == before
    assert (tmp_path / "watch").stat().st_mode & 0o777 == 0o700


def test_what_has_no_valid_uid_is_told_of_and_the_rest_is_screened(world: World, tmp_path: Path) -> None:
    listed = [{}, entry(uid="1.2.7", series="x"), entry(uid="1.2.0", series="1.4.0")]
    image = file(drawn(1, seed=9)[0], 0)
    said: list[str] = []
    with serving(answering([entry(study="1.3.0")], listed, lambda _: image)) as server:
        found = petechia.watch(
            f"dicomweb:{server.url}",
            world.model,
            str(world.clean),
            tmp_path,
            fpr=0.05,
            once=True,
            device="cpu",
            say=said.append,
        )
    assert (found.screened, found.failed) == (1, 2)
    assert said[-1] == (
        "Not looked at: 2 images. By reason: listed by the PACS without a valid UID: 2 (1.2.7, object of study 1.3.0)."
    )


def test_half_a_report_is_completed(world: World, pacs: Orthanc, tmp_path: Path) -> None:
    pacs.store(file(stamped(drawn(1, seed=7)[0], *PLACE), 0))
    watch(world, pacs, tmp_path / "watch")
    before = sorted(one.SOPInstanceUID for one in own(pacs))
    for identifier in pacs.ask("/instances"):
        if parsed(pacs.ask(f"/instances/{identifier}/file")).Modality == "SR":
            pacs.ask(f"/instances/{identifier}", method="DELETE")
    (tmp_path / "watch" / "journal.sqlite").unlink()
    watch(world, pacs, tmp_path / "watch")
    assert sorted(one.SOPInstanceUID for one in own(pacs)) == before


def test_a_pacs_that_goes_away_and_comes_back(
    world: World, pacs: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("petechia.pacs.watching.FIRST", 0.1)
    pacs.store(file(drawn(1, seed=7)[0], 0))
    pacs.stop()
    said: list[str] = []
    addresses: list[str] = []
    early: list[tuple[int, str]] = []

    def started(address: str) -> None:  # the PACS was not asked yet
        addresses.append(address)
        early.append(health(address))

    options = {"once": False, "interval": 0.1, "say": said.append, "port": 0, "started": started}
    thread = threading.Thread(target=watch, args=(world, pacs, tmp_path / "watch"), kwargs=options, daemon=True)
    thread.start()
    wait_for(lambda: len(said) >= 3)
    assert all("does not answer (no connection)" in sentence and "It is asked again in" in sentence for sentence in said)
    assert early == [(503, "starting")]
    assert health(addresses[0]) == (503, "the PACS is away")
    pacs.start()
    wait_for(lambda: len(journal(tmp_path / "watch")) == 1)
    assert health(addresses[0]) == (200, "ok")
    pacs.store(file(stamped(drawn(1, seed=8)[0], *PLACE), 1))
    wait_for(lambda: len(journal(tmp_path / "watch")) == 2)
    with urllib.request.urlopen(f"{addresses[0]}/metrics", timeout=5) as answer:  # noqa: S310
        metrics = answer.read().decode()
    for line in ("petechia_images_screened_total 2.0", "petechia_objects_stored_total 2.0", "petechia_pacs_up 1.0"):
        assert line in metrics
    with pytest.raises(PetechiaError, match="Another process is working in"):  # one watch at a time
        watch(world, pacs, tmp_path / "watch")


def wait_for(done: Any, most: float = 60) -> None:
    until = time.monotonic() + most
    while not done():
        assert time.monotonic() < until
        time.sleep(0.05)


def health(address: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:  # noqa: S310
            return answer.status, json.loads(answer.read())["status"]
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["status"]


def test_back_off_grows_is_spread_and_has_an_end() -> None:
    assert [back_off(failures, 1.0) for failures in range(4)] == [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST]
    assert back_off(3, 0.0) == 4 * FIRST
    assert back_off(10_000, 1.0) == LONGEST


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_it_is_told_to(world: World, pacs: Orthanc, tmp_path: Path, number: int) -> None:
    process = started(world, pacs, tmp_path / "watch")
    wait_for((tmp_path / "watch" / "calibration.json").exists)
    time.sleep(0.5)
    process.send_signal(number)
    assert process.wait(30) == 0
    said = process.stdout.read().decode() if process.stdout else ""
    assert "0 images screened" in said


def started(world: World, pacs: Orthanc, out: Path) -> subprocess.Popen[bytes]:
    code = "from petechia.cli.commands import app; app()"
    words = [sys.executable, "-c", code, "watch", *world.arguments(pacs.url, out), "--interval", "0.2"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


# A process that has imported everything, and forks a watch for every line that it reads: so a kill costs no start of Python.
NURSERY = """
import os, sys
import petechia.api, petechia.pacs.start
from tests.detect.screen.conftest import ByHand, opened

url, clean, out = sys.argv[1:]
for line in sys.stdin:
    if (child := os.fork()) == 0:
        try:
            petechia.watch(url, opened(ByHand()), clean, out, fpr=0.05, interval=0.05)
        finally:
            os._exit(1)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_killed_while_images_arrive(world: World, pacs: Orthanc, tmp_path: Path) -> None:
    """`PETECHIA_TORTURE=1` kills it 50 times while 200 images arrive."""
    kills, count = (50, 200) if TORTURE else (5, 20)
    rng = np.random.default_rng()
    images = drawn(count, seed=int(rng.integers(1 << 30)))
    images[::4] = stamped(images[::4], *PLACE)
    out, source = tmp_path / "watch", f"dicomweb:{pacs.url}"
    words = [sys.executable, "-c", NURSERY, source, str(world.clean), str(out)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    arrived = midway = 0
    with (tmp_path / "said").open("w") as said, subprocess.Popen(words, stderr=said, **pipes) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        for kill in range(kills):
            nursery.stdin.write("watch\n")
            child = number_of(nursery.stdout)
            while arrived < (kill + 1) * count // kills:
                pacs.store(file(images[arrived], arrived))
                arrived += 1
            if kill % 2:
                time.sleep(float(rng.uniform(0, 3)))  # anywhere
            else:
                wait_for(lambda: len(journal(out)) > midway, most=300)  # noqa: B023 (asked at once)
                time.sleep(float(rng.uniform(0, 0.5)))  # among screening, reporting and noting
            os.kill(child, signal.SIGKILL)
            assert number_of(nursery.stdout) == -signal.SIGKILL, (tmp_path / "said").read_text()
            midway = len(journal(out))
        nursery.stdin.close()
    classifier = opened(ByHand())
    petechia.watch(source, classifier, str(world.clean), out, fpr=0.05, once=True, say=lambda _: None)
    known = journal(out)
    assert len(known) == count
    assert {state for state, *_ in known.values()} == {CLEAN, FLAGGED}
    expected = petechia.screen(classifier, images, str(world.clean), fpr=0.05)
    flagged = {f"1.2.{number}" for number, one in enumerate(expected.images) if one.flagged}
    assert {uid for uid, (state, *_) in known.items() if state == FLAGGED} == flagged
    stored = own(pacs)
    for modality in ("SR", "OT"):
        about = [uid for one in stored if one.Modality == modality for uid in referenced(one)]
        assert sorted(about) == sorted(flagged)  # each exactly once
    assert len(pacs.ask("/instances")) == count + 2 * len(flagged)
    print(f"{kills} kills, {count} images, {midway} of them screened by watches that were killed, {len(flagged)} flagged")


def number_of(lines: IO[str]) -> int:
    """The next line that is a number; the others are what a watch says."""
    return next(int(line) for line in lines if re.fullmatch(r"-?[0-9]+\n", line))


def test_a_journal_is_refused_by_other_settings_and_when_damaged(tmp_path: Path) -> None:
    first = Journal(tmp_path, {"model": "a", "--fpr": 0.01})
    first.screened("1.2", True, 3.0, 0.01, "9.9")
    first.failed("1.3", "It is \x1b[31m damaged.")
    assert first.knows("1.2")
    assert not first.knows("1.4")
    assert first.counts() == {CLEAN: 0, FLAGGED: 1, FAILED: 1}
    first.close()
    with pytest.raises(PetechiaError, match=r"was begun with another --fpr; give what it was begun with"):
        Journal(tmp_path, {"model": "a", "--fpr": 0.05})
    again = Journal(tmp_path, {"model": "a", "--fpr": 0.01})
    assert again.forget_failed() == 1
    assert not again.knows("1.3")
    again.close()
    (tmp_path / "journal.sqlite").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    with pytest.raises(PetechiaError, match=r"journal.sqlite cannot be used .*; check the disk, or remove the file"):
        Journal(tmp_path, {"model": "a", "--fpr": 0.01})


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("phantom:images=20", "A watch needs a PACS; give dicomweb:URL"),
        ("dicomweb:", "A watch needs a PACS"),
        ("dicomweb:https://x/y,table=t.csv", "table= in .* is not for a watch"),
        ("dicomweb:https://jane:hunter2@x/y", "holds a user or a password"),
    ],
)
def test_what_is_not_watched(world: World, tmp_path: Path, source: str, sentence: str) -> None:
    with pytest.raises(PetechiaError, match=sentence):
        petechia.watch(source, world.model, str(world.clean), tmp_path / "watch", device="cpu", threads=1)
    assert not (tmp_path / "watch").exists()
