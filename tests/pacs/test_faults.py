"""A watch of a PACS that fails at single requests, or stores and says that it has not. The truth is what the PACS then has."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from time import sleep
from typing import Any

import pydicom
import pytest
from PIL import Image

from petechia.core.errors import PetechiaError
from tests.data.dicomweb.hostile import Handler, entry, serving
from tests.detect.screen.conftest import ByHand, opened
from tests.pacs.conftest import World, drawn, file, parsed, stamped

pytest.importorskip("prometheus_client", reason="the extra dicomweb is not installed")

import petechia
from petechia.data.dicomweb.session import BrokenError
from petechia.pacs.journal import FAILED, FLAGGED, Journal
from petechia.pacs.reports import derived_uid
from petechia.pacs.watching import BATCH
from tests.orthanc import PASSWORD

Fault = Callable[[Handler, str, str], bool]
COUNT, MARKED = BATCH + 2, (1, BATCH + 1)


class Store:
    """A PACS that keeps what is stored, and fails where `fault`, given the kind of a request and its UID, has answered."""

    def __init__(self, *contents: bytes) -> None:
        self.files: dict[str, pydicom.Dataset] = {}
        self.contents: dict[str, bytes] = {}
        self.stored: list[str] = []
        self.fault: Fault = lambda *_: False
        self.add(*contents)

    def add(self, *contents: bytes) -> None:
        for content in contents:
            one = parsed(content)
            self.files[one.SOPInstanceUID], self.contents[one.SOPInstanceUID] = one, content

    def __call__(self, handler: Handler) -> None:
        path, query = handler.asks
        kind = "stow" if handler.command == "POST" else "wado" if "/series/" in path and "limit" not in query else "qido"
        last = path.rpartition("/")[2]
        if self.fault(handler, kind, last):
            return
        if kind == "stow":
            self.store(handler)
            handler.reply_json({})
        elif kind == "wado":
            handler.reply_file(self.contents[last])
        elif last == "studies":
            handler.reply_json(self.page(query, [entry(study=uid) for uid in sorted(self.studies)]))
        else:
            found = [self.listed(one) for one in self.files.values() if f"/{one.StudyInstanceUID}/" in path]
            handler.reply_json(self.page(query, found))

    @property
    def studies(self) -> set[str]:
        return {one.StudyInstanceUID for one in self.files.values()}

    @staticmethod
    def page(query: dict[str, list[str]], found: list[Any]) -> list[Any]:
        first = int(query.get("offset", ["0"])[0])
        return found[first : first + int(query["limit"][0])]

    @staticmethod
    def listed(one: pydicom.Dataset) -> dict[str, Any]:
        given = entry(uid=one.SOPInstanceUID, series=one.SeriesInstanceUID, kind=one.SOPClassUID, modality=one.Modality)
        return given | {"0008103E": {"vr": "LO", "Value": [one.get("SeriesDescription", "")]}}

    def store(self, handler: Handler) -> None:
        boundary = re.search(r'boundary="([^"]+)"', handler.headers["Content-Type"])
        assert boundary
        for part in handler.body.split(b"--" + boundary[1].encode())[1:-1]:
            content = part.partition(b"\r\n\r\n")[2][:-2]
            self.stored.append(parsed(content).SOPInstanceUID)
            self.add(content)


@pytest.fixture
def store() -> Store:
    images = drawn(COUNT, seed=7)
    images[list(MARKED)] = stamped(images[list(MARKED)])
    return Store(*(file(image, number) for number, image in enumerate(images)))


class Watching:
    """Watches a store, once at a time; `said` is all that was said."""

    def __init__(self, store: Store, url: str, world: World, out: Path) -> None:
        self.store, self.url, self.clean, self.out = store, url, world.clean, out
        self.classifier = opened(ByHand())
        self.said: list[str] = []

    def __call__(self, **options: Any) -> Any:
        given = {"fpr": 0.05, "once": True, "say": self.said.append, **options}
        return petechia.watch(f"dicomweb:{self.url}", self.classifier, str(self.clean), self.out, **given)

    def states(self) -> dict[str, str]:
        with sqlite3.connect(self.out / "journal.sqlite") as database:
            return dict(database.execute("SELECT uid, state FROM images").fetchall())


@pytest.fixture
def watching(store: Store, world: World, tmp_path: Path) -> Iterator[Watching]:
    with serving(store) as server:
        yield Watching(store, server.url, world, tmp_path / "watch")


def at(kind: str, last: str | None, state: int) -> Fault:
    """Answers one kind of request with a state; about one object or study, or all."""

    def fault(handler: Handler, asked: str, about: str) -> bool:
        if asked == kind and last in (None, about):
            handler.reply(b"SECRET", "text/plain", state)
            return True
        return False

    return fault


@pytest.mark.parametrize(("state", "noted"), [(403, False), (406, True), (500, False), (503, False), (429, False)])
def test_one_object_that_the_pacs_cannot_give_does_not_stop_the_others(watching: Watching, state: int, noted: bool) -> None:
    watching.store.fault = at("wado", "1.2.0", state)
    found = watching()
    assert (found.screened, found.failed) == (COUNT - 1, 1)
    assert (watching.states().pop("1.2.0", None) == FAILED) is noted
    assert sum("1.2.0" in sentence and f"({state})" in sentence for sentence in watching.said) == 1
    assert not any("SECRET" in sentence or PASSWORD in sentence for sentence in watching.said)
    watching.store.fault = lambda *_: False
    assert watching().screened == 1
    assert len(watching.states()) == COUNT
    assert FAILED not in watching.states().values()


@pytest.mark.parametrize("state", [403, 500])
def test_an_image_that_was_put_off_is_asked_for_again_by_the_same_watch(
    watching: Watching, state: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("petechia.pacs.watching.PUT_OFF", 0.2)
    refusals = iter(range(2))

    def fault(handler: Handler, kind: str, last: str) -> bool:
        if kind == "wado" and last == "1.2.0" and next(refusals, None) is not None:
            handler.reply(b"", state=state)
            return True
        return False

    class EndError(Exception):
        pass

    def pause(_: float) -> None:
        if len(watching.states()) == COUNT:
            raise EndError
        sleep(0.05)

    watching.store.fault = fault
    monkeypatch.setattr("petechia.pacs.watching.time.sleep", pause)
    with pytest.raises(EndError):
        watching(once=False, interval=0.1)
    assert FAILED not in watching.states().values()
    assert sum("Put off: 1.2.0" in sentence for sentence in watching.said) == 1


def test_no_image_is_given_up_while_the_right_to_read_is_gone(watching: Watching) -> None:
    watching.store.fault = at("wado", None, 403)
    found = watching()
    assert (found.screened, found.failed) == (0, COUNT)
    assert watching.states() == {}
    watching.store.fault = lambda *_: False
    assert watching().screened == COUNT


def test_a_pacs_that_gives_no_object_is_away(watching: Watching) -> None:
    watching.store.fault = at("wado", None, 500)
    with pytest.raises(BrokenError, match=r"cannot answer now \(500\)"):
        watching()
    assert watching.states() == {}
    assert sum("Put off" in sentence for sentence in watching.said) == BATCH  # and the others were not asked for


@pytest.mark.parametrize("state", [202, 404, 409, 413, 500, 503])
def test_what_is_flagged_and_not_reported_is_told_and_reported_later(watching: Watching, state: int) -> None:
    study = f"1.3.{MARKED[0] // 2}"
    watching.store.fault = at("stow", study, state)
    found = watching()
    expected = {uid for uid, noted in watching.states().items() if noted == FLAGGED} | {f"1.2.{MARKED[0]}"}
    assert (found.screened, found.flagged, found.failed) == (COUNT - 1, len(expected), 1)
    assert any(sentence.startswith(f"Flagged, but not reported: 1.2.{MARKED[0]}, ") for sentence in watching.said)
    watching.store.fault = lambda *_: False
    watching()
    assert {uid for uid, noted in watching.states().items() if noted == FLAGGED} == expected
    assert len(watching.store.stored) == len(set(watching.store.stored)) == 2 * len(expected)


@pytest.mark.parametrize("state", [0, 500, 504])
def test_what_it_stored_and_said_that_it_had_not_is_stored_once(watching: Watching, state: int) -> None:
    def fault(handler: Handler, kind: str, _: str) -> bool:
        if kind == "stow":
            watching.store.store(handler)
            if state:
                handler.reply(b"", state=state)
        return kind == "stow"

    watching.store.fault = fault
    assert watching().failed >= len(MARKED)
    assert watching().failed == 0
    flagged = [uid for uid, noted in watching.states().items() if noted == FLAGGED]
    assert len(flagged) >= len(MARKED)
    assert len(watching.store.stored) == len(set(watching.store.stored)) == 2 * len(flagged)


def test_an_image_that_calls_itself_ours_is_screened(watching: Watching) -> None:
    image = stamped(drawn(1, seed=7)[0])
    ours = derived_uid("pictures", "1.3.45")
    watching.store.add(file(image, 90, SeriesDescription="Petechia"), file(image, 91, SeriesInstanceUID=ours))
    watching()
    assert {watching.states()[uid] for uid in ("1.2.90", "1.2.91")} == {FLAGGED}
    assert watching().screened == 0  # and what was stored about them is not


def test_settings_count_from_the_first_image_on(watching: Watching, tmp_path: Path) -> None:
    every, few = watching.clean, tmp_path / "few"
    few.mkdir()
    shutil.copy(next(every.iterdir()), few)
    watching.clean = few
    with pytest.raises(PetechiaError, match="clean images cannot set a threshold"):
        watching()
    watching.clean = every
    watching()
    with pytest.raises(PetechiaError, match="was begun with another --fpr"):
        watching(fpr=0.1)
    first = (watching.out / "calibration.json").read_bytes()
    (watching.out / "journal.sqlite").unlink()
    watching.clean = tmp_path / "others"
    watching.clean.mkdir()
    for number, image in enumerate(drawn(30, seed=3) // 2):
        Image.fromarray(image).save(watching.clean / f"{number}.png")
    watching()
    assert (watching.out / "calibration.json").read_bytes() != first  # that of the other clean images is not used


@pytest.mark.parametrize("damage", [b"\xff", b"[", b"1", b"\0"])
def test_a_journal_with_damaged_settings_is_refused(damage: bytes, tmp_path: Path) -> None:
    journal = Journal(tmp_path, {"model": "a"})
    journal.screened("1.2", False, 1.0, 0.5, None)
    journal.close()
    content = (tmp_path / "journal.sqlite").read_bytes()
    place = content.index(b'{"form"')
    (tmp_path / "journal.sqlite").write_bytes(content[:place] + damage + content[place + 1 :])
    with pytest.raises(PetechiaError, match=r"journal.sqlite cannot be used \(.*\); check the disk, or remove the file"):
        Journal(tmp_path, {"model": "a"})
