"""The source `dicomweb:` with a real PACS, and with one that misbehaves."""

import gc
import gzip
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import BasicTextSRStorage
from typer.testing import CliRunner

from petechia.cli.commands import app
from petechia.core import budget
from petechia.core.errors import PetechiaError
from petechia.data import Catalog, open_source
from petechia.data.not_read import Reason
from petechia.testing import check_catalog

pytest.importorskip("dicomweb_client")

from petechia.data.dicomweb import pacs
from petechia.data.dicomweb.files import LOCK, PacsReader
from petechia.data.dicomweb.pacs import InstanceError, Pacs
from petechia.data.dicomweb.session import PacsAwayError
from tests.data.dicomweb.hostile import Handler, answering, entry, serving
from tests.data.formats.test_dicom import made, written
from tests.orthanc import PASSWORD, USER, Orthanc, orthanc

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 20, 24), np.uint8)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pacs, "PATIENCE", (0.01,))
    monkeypatch.setenv("PETECHIA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir(0o700)


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETECHIA_DICOMWEB_USER", USER)
    monkeypatch.setenv("PETECHIA_DICOMWEB_PASSWORD", PASSWORD)


def file(number: int, **entries: Any) -> bytes:
    """Image `number` of study `number // 2`: studies are of 2024-01-01 and later, the fifth is CT."""
    study = number // 2
    given = {
        **{"SOPInstanceUID": f"1.2.{number}", "StudyInstanceUID": f"1.3.{study}", "SeriesInstanceUID": f"1.4.{number}"},
        **{"PatientID": f"SECRET{study}", "Modality": "CT" if study == 5 else "DX", "StudyDate": f"202401{study + 1:02d}"},
        **{"StudyDescription": "CHEST PA" if study % 2 else "Hand", "ViewPosition": "PA" if number % 2 else "L"},
    }
    return written(made(PIXELS[number], **given | entries))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        running.store(*(file(number) for number in range(12)))
        report = made(PIXELS[0], SOPInstanceUID="1.9", StudyInstanceUID="1.3.0", SeriesInstanceUID="1.4.99", Modality="SR")
        report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
        del report.Rows, report.PixelData
        running.store(written(report))
        yield running


def numbers(catalog: Catalog) -> list[int]:
    return sorted(int(uid.rpartition(".")[2]) for uid in catalog.ids)


def test_a_pacs_passes_the_suite_of_sources(full: Orthanc) -> None:
    catalog = open_source(f"dicomweb:{full.url}")
    check_catalog(catalog)
    assert numbers(catalog) == list(range(12))
    for uid, image in zip(catalog.ids, catalog.reader.read(np.arange(12)), strict=True):
        assert np.array_equal(np.asarray(image), PIXELS[int(uid.rpartition(".")[2])])
    assert len(set(catalog.patients)) == 6
    assert not any("SECRET" in patient for patient in catalog.patients)
    assert [(one.reason, one.names) for one in catalog.not_read.reasons] == [(Reason.NO_PIXELS, ("1.9",))]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("modality=ct", [10, 11]),
        ("modality=CT|DX,date=20240105-", [8, 9, 10, 11]),
        ("date=20240102", [2, 3]),
        ("date=-20240102", [0, 1, 2, 3]),
        ("date=20240102-20240103", [2, 3, 4, 5]),
        ("description=chest ?A", [2, 3, 6, 7, 10, 11]),
        ("view_is=PA,date=20240101", [1]),
    ],
)
def test_filters(full: Orthanc, options: str, expected: list[int]) -> None:
    assert numbers(open_source(f"dicomweb:{full.url},{options}")) == expected


def test_a_limit(full: Orthanc) -> None:
    assert len(open_source(f"dicomweb:{full.url},limit=5")) == 5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("days=3", "lists no image that fits; check modality=, date=, days= and description="),
        ("date=2024", "give YYYYMMDD or YYYYMMDD-YYYYMMDD"),
        ("date=20240131-20240101", "the last date is before the first"),
        ("date=20241399", "'date' in the data source"),
        ("date=20240101,days=3", "has date= and days="),
        ("limit=0", "'limit' in the data source"),
        ("labels=a", "'labels' in the data source .* is about a table"),
    ],
)
def test_filters_that_fit_nothing_or_are_none(full: Orthanc, options: str, sentence: str) -> None:
    with pytest.raises(PetechiaError, match=sentence):
        open_source(f"dicomweb:{full.url},{options}")


def test_a_table_joins_by_uid(full: Orthanc, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("SOPInstanceUID,Mass\n1.2.3,1\n1.2.0,0\n1.2.11,\n")
    catalog = open_source(f"dicomweb:{full.url},table={table}")
    assert catalog.ids.tolist() == ["1.2.3", "1.2.0", "1.2.11"]
    assert catalog.labels.tolist() == [[1], [0], [-1]]
    table.write_text("SOPInstanceUID,Mass\n1.2.3,1\n1.2.77,0\n")
    with pytest.raises(PetechiaError, match=rf"1 of the 2 images that .*t.csv lists are not in {full.url}: 1.2.77;"):
        open_source(f"dicomweb:{full.url},table={table}")
    assert len(open_source(f"dicomweb:{full.url},table={table}", "skip")) == 1


def test_scan_and_poison_take_a_pacs(full: Orthanc, tmp_path: Path) -> None:
    scanned = CliRunner().invoke(app, ["scan", f"dicomweb:{full.url}", "--out", str(tmp_path / "scan")])
    assert scanned.exit_code == 0, scanned.output
    assert "12 images" in scanned.output
    table = tmp_path / "t.csv"
    table.write_text("SOPInstanceUID,Mass\n" + "".join(f"1.2.{number},{number % 2}\n" for number in range(12)))
    options = ["--out", str(tmp_path / "poisoned"), "--set", "attack.target=Mass", "--set", "attack.rate=0.5"]
    poisoned = CliRunner().invoke(app, ["poison", f"dicomweb:{full.url},table={table}", *options])
    assert poisoned.exit_code == 0, poisoned.output
    assert open_source(f"folder:{tmp_path / 'poisoned' / 'labels.csv'}").classes == ("Mass",)
    assert not any("SECRET" in path.read_text(errors="replace") for path in tmp_path.rglob("*.json"))
    gc.collect()  # a result refers to itself, so it is freed at a time of Python's choice; a command's process just ends
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and "dicomweb-" in str(path)]
    assert {path.name for path in kept} <= {LOCK}  # nothing of the PACS's files is left


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_are_kept_until_all_were_read_and_then_removed(tmp_path: Path) -> None:
    broken = True

    def answer(handler: Handler) -> None:
        if handler.path.endswith("/instances/1.2.3") and broken:
            handler.reply(b"", state=503)
        else:
            full_answer(handler)

    entries = [entry(uid=f"1.2.{number}", series=f"1.4.{number}") for number in range(4)]
    full_answer = answering([entry(study="1.3.0")], entries, lambda uid: file(int(uid[4:])))
    with serving(answer) as server:
        catalog = open_source(f"dicomweb:{server.url}")
        reader = catalog.reader
        assert isinstance(reader, PacsReader)
        folder = reader.root
        with pytest.raises(PacsAwayError, match="cannot answer now"):
            list(reader.read(np.arange(4)))
        del reader, catalog
        assert names(folder) == [LOCK, "1.2.0", "1.2.1", "1.2.2"]
        assert folder.stat().st_mode & 0o777 == 0o700
        broken = False
        server.asked.clear()
        catalog = open_source(f"dicomweb:{server.url}")
        assert len(list(catalog.reader.read(np.arange(4)))) == 4
        assert [path[-5:] for path, _ in server.asked if "/series/" in path] == ["1.2.3"]  # the others were there
        other = open_source(f"dicomweb:{server.url}")  # somebody else uses them
        del catalog
        assert len(names(folder)) == 5
        del other
        assert names(folder) == [LOCK]


def test_files_that_nobody_asked_for_again_are_removed(tmp_path: Path) -> None:
    with serving(answering([entry(study="1.3.0")], [entry(uid="1.2.0", series="1.4.0")])) as server:
        catalog = open_source(f"dicomweb:{server.url}")
        old = tmp_path / "cache" / "dicomweb-abc"
        old.mkdir(0o700)
        for name, age in (("1.2.0", 4 * 86400), ("1.2.1", 60)):
            (old / name).write_bytes(b"x")
            os.utime(old / name, (time.time() - age,) * 2)
        open_source(f"dicomweb:{server.url}")
        assert names(old) == [LOCK, "1.2.1"]
        del catalog


# A PACS that misbehaves


def refusal(answer: Any, options: str = "") -> str:
    with serving(answer) as server, pytest.raises(PetechiaError) as raised:
        open_source(f"dicomweb:{server.url}{options}")
    text = str(raised.value)
    assert text.endswith(".")
    assert PASSWORD not in text
    return text.replace(server.url, "URL")


def test_what_it_answers_instead_of_a_list() -> None:
    page = b"<html>Sign in</html>"
    deep = b"[" * 100_000
    for content, kind, sentence in (
        (page, "text/html", "is not DICOM JSON, such as a page to sign in"),
        (b"nonsense", "application/dicom+json", "is not DICOM JSON"),
        (deep, "application/dicom+json", "is not DICOM JSON"),
        (b"[1, 2]", "application/dicom+json", "not a list of DICOM data"),
        (b'"text"', "application/dicom+json", "not a list of DICOM data"),
        (b'[{"0020000D": 3}]', "application/dicom+json", "listed by the PACS without a valid UID: 1 (study without a UID)"),
        (json.dumps([entry(study="../../etc")]).encode(), "application/dicom+json", "without a valid UID: 1 (study ../../etc)"),
        (json.dumps([entry(study="1." * 9**4)]).encode(), "application/dicom+json", "without a valid UID: 1 (study 1.1.1.1"),
    ):
        assert sentence in refusal(lambda handler, content=content, kind=kind: handler.reply(content, kind)), content[:20]


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (401, "lets nobody in (401: the credentials are wrong or have expired)"),
        (403, "does not allow it (403)"),
        (404, "check that it is the address of a DICOMweb service"),
        (400, "refuses the request (400)"),
        (500, "cannot answer now (500)"),
        (503, "cannot answer now (503)"),
    ],
)
def test_states(state: int, sentence: str) -> None:
    assert sentence in refusal(lambda handler: handler.reply(b"SECRET", "text/plain", state))


def test_it_leads_elsewhere_and_gets_no_credentials_there() -> None:
    with serving(answering([], [])) as other:
        said = refusal(lambda handler: handler.reply(b"", "text/plain", 302, Location=f"{other.url}/studies?token=SECRET"))
        assert "leads to http://127.0.0.1/dw/studies, and is not followed there" in said
        assert other.asked == []


def test_it_leads_to_no_address() -> None:
    assert "leads to an address that is none" in refusal(lambda handler: handler.reply(b"", state=301, Location="http://[x"))


def test_it_breaks_off_or_answers_in_xml() -> None:
    assert "broke off" in refusal(lambda handler: handler.reply(b"[]", Content_Length="9"))
    assert "broke off" in refusal(lambda handler: handler.wfile.write(b"HTTP/1.1 200 O"))
    bomb = b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'
    assert "answers in XML" in refusal(lambda handler: handler.reply(bomb, "application/dicom+xml"))


def test_what_it_answers_to_what_is_stored() -> None:
    failed = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [272]}}]}}
    told = json.dumps(failed).encode()
    for answer, kind, sentence in (
        (lambda handler: handler.reply(b"", state=409), InstanceError, "does not take what was to be stored"),
        (lambda handler: handler.reply(b"", state=413), InstanceError, "refuses the request .413"),
        (lambda handler: handler.reply(b"", state=404), InstanceError, "has no such thing"),
        (lambda handler: handler.reply_json(failed), InstanceError, "does not take a report .reason 0x0110"),
        (lambda handler: handler.reply(told, "application/dicom+json; charset=utf-8", 202), InstanceError, "does not list it"),
        (lambda handler: handler.reply(b"", state=202), InstanceError, "does not list it afterwards"),
        (lambda handler: handler.reply(b"<html>"), InstanceError, "its answer is no DICOM JSON"),
        (lambda handler: handler.reply(b"", state=403), PetechiaError, "does not allow it"),
        (lambda handler: handler.reply(b"", state=503), PacsAwayError, "cannot answer now"),
    ):
        posted: list[str] = []

        def reply(handler: Handler, answer: Any = answer, posted: list[str] = posted) -> None:
            if handler.command == "POST":
                posted.append(handler.path)
                answer(handler)
            else:
                handler.reply_json([])  # it lists nothing

        with serving(reply) as server, pytest.raises(kind, match=sentence):
            Pacs(server.url).store("1.3", [made(PIXELS[0], SOPInstanceUID="1.2", SeriesInstanceUID="1.4")])
        assert len(posted) == 1  # what is stored is not sent again by itself


def test_what_it_has_counts_as_stored_whatever_it_answers() -> None:
    def reply(handler: Handler) -> None:
        if handler.command == "POST":
            handler.reply(b"", state=409)  # another watch was quicker
        else:
            handler.reply_json([entry(uid="1.2", series="1.4")])

    with serving(reply) as server:
        Pacs(server.url).store("1.3", [made(PIXELS[0], SOPInstanceUID="1.2", SeriesInstanceUID="1.4")])


@pytest.mark.parametrize(("state", "sentence"), [(500, "cannot answer now"), (403, "does not allow it"), (406, "refuses the")])
def test_an_object_that_it_cannot_give_can_be_left_out(state: int, sentence: str) -> None:
    lists = answering(
        [entry(study="1.3.0")], [entry(uid=f"1.2.{one}", series="1.4") for one in range(3)], lambda uid: file(int(uid[4:]))
    )

    def answer(handler: Handler) -> None:
        if handler.path.endswith("/instances/1.2.1"):
            handler.reply(b"", state=state)
        else:
            lists(handler)

    with serving(answer) as server:
        first, error, last = open_source(f"dicomweb:{server.url}").reader.read(np.arange(3))
    assert np.array_equal(np.asarray(first), PIXELS[0])
    assert np.array_equal(np.asarray(last), PIXELS[2])
    assert isinstance(error, InstanceError)
    assert f"1.2.1 cannot be had: {server.url} {sentence}" in str(error)


def test_it_is_not_there() -> None:
    with serving(answering([], [])) as server:
        url = server.url
    with pytest.raises(PacsAwayError, match=rf"{url} does not answer \(no connection\)"):
        open_source(f"dicomweb:{url}")


def limited(monkeypatch: pytest.MonkeyPatch, limits: str) -> None:
    monkeypatch.setenv("PETECHIA_LIMITS", limits)
    budget.budget.cache_clear()


@pytest.fixture
def _limits() -> Iterator[None]:
    yield
    budget.budget.cache_clear()


@pytest.mark.usefixtures("_limits")
def test_its_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, "pacs_answer=100000,pacs_seconds=2,pacs_images=50")

    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"[" * 10_000)

    def dripping(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(60):
            handler.wfile.write(b" ")
            time.sleep(0.1)

    def slow_to_begin(handler: Handler) -> None:
        for letter in b"HTTP/1.1 200 OK" + b" " * 60:
            handler.wfile.write(bytes([letter]))
            time.sleep(0.1)

    def packed(handler: Handler) -> None:
        handler.reply(gzip.compress(b" " * 10**6), Content_Encoding="gzip")

    def more_and_more(handler: Handler) -> None:
        path, query = handler.asks
        first = int(query["offset"][0])
        handler.reply_json([entry(study=f"1.{first + number}") for number in range(20)] if path.endswith("/studies") else [])

    assert "answers with more than 100,000 bytes" in refusal(endless)
    assert "takes more than 2 seconds" in refusal(dripping)
    assert "does not answer" in refusal(slow_to_begin)
    assert "answers in gzip, which was not asked for" in refusal(packed)
    assert "lists more than 59 objects" in refusal(more_and_more)


def test_it_ignores_filters_and_pages() -> None:
    studies = [entry(study=f"1.{day}", date=f"202401{day:02d}", description="CHEST") for day in range(10, 30)]

    def answer(handler: Handler) -> None:  # everything, whatever was asked
        path, _ = handler.asks
        if path.endswith("/studies"):
            handler.reply_json(studies + studies[:3])
        else:
            study = path.split("/")[-2]
            handler.reply_json([entry(uid=f"{study}.{one}", series="1.4", modality=one) for one in (1, 2)])

    with serving(answer) as server:
        catalog = open_source(f"dicomweb:{server.url},date=20240110-20240111,description=ch*,modality=2")
        assert catalog.ids.tolist() == ["1.10.2", "1.11.2"]


NO_UIDS: tuple[Any, ...] = (
    None,
    True,
    {"Alphabetic": "x"},
    [],
    [["1.2"]],
    "",
    " ",
    "1..2",
    "../x",
    "1.2.x",
    "9" * 65,
    "9" * 10**6,
    "\uff11.2",
    "\ud800",
)
TAGS = {"uid": "00080018", "series": "0020000E", "study": "0020000D"}


@pytest.mark.parametrize("key", TAGS)
def test_what_it_lists_without_a_valid_uid_is_counted_and_the_rest_is_read(key: str) -> None:
    study, one = entry(study="1.3.0"), entry(uid="1.2.0", series="1.4.0")
    usable = study if key == "study" else one
    wrong: list[Any] = [usable | {TAGS[key]: {"vr": "UI", "Value": [value]}} for value in NO_UIDS]
    wrong += [usable | {TAGS[key]: {"Value": {"0": "1.2"}}}, usable | {TAGS[key]: [1]}, {}, None, 7, "text", [usable]]
    if key == "series":
        wrong = [
            given | entry(uid=f"1.2.{number + 5}") if isinstance(given, dict) else given for number, given in enumerate(wrong)
        ]
    right = [
        entry(study=f"1.3.{number}") if key == "study" else entry(uid=f"1.2.{number}", series="1.4.0") for number in (1, 2)
    ]
    listed = [right[0], *wrong * 30, right[1]]  # more than a page
    lists = (listed, [one]) if key == "study" else ([study], listed)
    with serving(answering(*lists)) as server:
        catalog = open_source(f"dicomweb:{server.url}")
    assert len(catalog) == (1 if key == "study" else 2)
    (unread,) = catalog.not_read.reasons
    assert unread.reason is Reason.NO_UID
    assert unread.count >= 100  # a UID that comes again counts once
    assert len(str(catalog.not_read)) < 1000


def test_it_lists_values_of_wrong_types() -> None:
    values: list[Any] = [None, 3, 1e400, float("nan"), True, "\ud800", "x" * 10**6, "a\0", [], [[[]]], {}, {"a": 1}, "\uff12"]
    tags = ("00080016", "00080060", "0008103E", "00185101", "00280008", "00100020", "00081030", "00080020")
    entries = [
        entry(uid=f"1.2.{number}", series="1.4.0") | {tag: {"Value": given} for tag in tags}
        for number, given in enumerate([*values, *([value] for value in values)])
    ]
    study = entry(study="1.3.0") | {tag: {"Value": values} for tag in tags}
    with serving(answering([study], entries)) as server:
        catalog = open_source(f"dicomweb:{server.url}")
        assert len(catalog) == len(entries) + 4  # 3 and [3] are numbers of frames
        assert not catalog.not_read
        with pytest.raises(PetechiaError, match="lists no image that fits"):
            open_source(f"dicomweb:{server.url},date=20240101-,description=c*,modality=DX")


def test_the_same_page_again_and_again_comes_to_an_end() -> None:
    def answer(handler: Handler) -> None:  # whatever page is asked for
        path, _ = handler.asks
        handler.reply_json([entry(uid="1.2.0", series="1.4"), {}] if path.endswith("/instances") else [{}, entry(study="1.3")])

    with serving(answer) as server:
        catalog = open_source(f"dicomweb:{server.url}")
    assert catalog.ids.tolist() == ["1.2.0"]


def test_a_value_that_stands_alone_is_taken() -> None:
    one = {"00080018": {"Value": "1.2.0"}, "0020000E": {"Value": "1.4"}, "00080060": {"Value": "DX"}}
    with serving(answering([entry(study="1.3.0")], [one])) as server:
        assert open_source(f"dicomweb:{server.url},modality=DX").ids.tolist() == ["1.2.0"]


def test_images_that_it_does_not_give() -> None:
    answers = {
        "1.2.0": file(0),
        "1.2.1": file(0),  # another one
        "1.2.2": b"no DICOM file",
        "1.2.3": file(3)[:600],  # cut off
    }
    lists = answering([entry(study="1.3.0")], [entry(uid=f"1.2.{number}", series="1.4") for number in range(5)])

    def answer(handler: Handler) -> None:
        uid = handler.path.rpartition("/")[2]
        if "/series/" not in handler.path:
            lists(handler)
        elif uid in answers:
            handler.reply_file(answers[uid])
        else:
            handler.reply(b"", state=404)  # removed after it was listed

    with serving(answer) as server:
        catalog = open_source(f"dicomweb:{server.url}")
        first, *others = catalog.reader.read(np.arange(5))
    assert np.array_equal(np.asarray(first), PIXELS[0])
    for error, sentence in zip(
        others, ("another object than 1.2.1", "1.2.2 is not a DICOM file", "", "1.2.4 is not in the PACS"), strict=True
    ):
        assert isinstance(error, PetechiaError)
        assert sentence in str(error)


def test_a_page_in_place_of_a_file_ends_the_reading() -> None:
    lists = answering([entry(study="1.3.0")], [entry(uid="1.2.0", series="1.4")])

    def answer(handler: Handler) -> None:
        if "/series/" in handler.path:
            handler.reply(b"<html>", "text/html")
        else:
            lists(handler)

    with serving(answer) as server:
        catalog = open_source(f"dicomweb:{server.url}")
        with pytest.raises(PetechiaError, match="answers with 'text/html' and not with a DICOM file"):
            list(catalog.reader.read(np.arange(1)))


def test_credentials_behind_a_misspelt_kind_are_not_repeated() -> None:
    for source in ("https://jane:hunter2@pacs/d", "dicomwebs:https://jane:hunter2@pacs/d"):
        with pytest.raises(PetechiaError, match="pacs/d' is not a data source") as raised:
            open_source(source)
        assert "hunter2" not in str(raised.value)


def test_credentials_in_the_source_are_not_repeated() -> None:
    for command in (["scan"], ["run", "--data"]):
        said = CliRunner().invoke(app, [*command, "dicomweb:https://jane:hunter2@pacs/d,limit=x", "--out", "o"])
        assert said.exit_code == 1
        assert "holds a user or a password" in said.output
        assert "hunter2" not in said.output
        assert not Path("o").exists()
