"""What a PACS has, and its files: QIDO-RS, WADO-RS and STOW-RS by `dicomweb_client`, with answers that are checked."""

from __future__ import annotations

import datetime
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import pydicom
from dicomweb_client import DICOMwebClient
from pydicom.datadict import tag_for_keyword
from pydicom.uid import UID

from petechia.core.budget import check
from petechia.core.errors import PetechiaError, first_line, printable
from petechia.data.dicomweb.address import read_address
from petechia.data.dicomweb.session import (
    ConflictError,
    ForbiddenError,
    GoneError,
    LargeAnswerError,
    PacsAwayError,
    PacsSession,
    RefusedError,
)
from petechia.data.formats.dicom import parse, quiet
from petechia.data.formats.dicom_frames import check_frames
from petechia.data.formats.dicom_geometry import Plane, plane_of
from petechia.data.formats.dicom_headers import frames_of
from petechia.data.not_read import Files, Reason

PAGE = 500  # answers that are asked for at a time
PATIENCE = (1, 2, 4)  # seconds before a reading request is repeated
UID_FORM = re.compile(r"(?=.{1,64}\Z)[0-9]+(\.[0-9]+)*", re.ASCII)
OF_STUDY = ("StudyDescription", "StudyDate", "PatientID")
OF_IMAGE = (
    *("SOPClassUID", "SeriesInstanceUID", "Modality", "SeriesDescription", "ViewPosition"),
    *("NumberOfFrames", "InstanceNumber", "Rows", "Columns"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
)
NUMBER = re.compile(r"[0-9]{1,12}", re.ASCII)  # as long as the standard allows
FILE = 'multipart/related; type="application/dicom"; transfer-syntax=*'
LONGEST = 1024  # letters of a text that are kept; the longest that the standard allows here has 64
WHOLE = 1 << 40  # bytes from which dicomweb_client sends in chunks, which not every PACS takes
for _name in ("dicomweb_client", "retrying"):  # they log what the PACS says, and tracebacks; errors say it in a sentence
    logging.getLogger(_name).setLevel(logging.CRITICAL)
Result = dict[str, dict[str, Any]]
T = TypeVar("T")


class InstanceError(PetechiaError):
    """One object cannot be had from the PACS; others may."""


class Instance(NamedTuple):
    """An object in a PACS, as its lists describe it; "" is what it does not say.

    Attributes:
        study: StudyInstanceUID.
        series: SeriesInstanceUID.
        uid: SOPInstanceUID.
        kind: SOPClassUID.
        patient: PatientID; never shown to anybody.
        modality: of the series.
        series_description: of the series.
        view: ViewPosition.
        frames: number of frames; 1 if it does not say.
        number: InstanceNumber; 0 if it does not say.
        size: rows and columns; 0 if it does not say.
        plane: where it lies in the patient; None if it does not say.
    """

    study: str
    series: str
    uid: str
    kind: str = ""
    patient: str = ""
    modality: str = ""
    series_description: str = ""
    view: str = ""
    frames: int = 1
    number: int = 0
    size: tuple[int, int] = (0, 0)
    plane: Plane | None = None

    @property
    def is_image(self) -> bool:
        """Whether it is, or may be, an image."""
        name = UID(self.kind).name if is_uid(self.kind) else ""
        return not name or name == self.kind or "Image" in name  # private kinds have no name


class Query(NamedTuple):
    """Which objects are asked for.

    Attributes:
        modalities: of series, in capitals; empty takes all.
        dates: first and last StudyDate, as YYYYMMDD or ""; None takes all.
        description: of studies, in which * and ? stand for letters and case does not count; "" takes all.
    """

    modalities: tuple[str, ...] = ()
    dates: tuple[str, str] | None = None
    description: str = ""

    @property
    def filters(self) -> dict[str, str]:
        """What the PACS is asked for: the dates. In descriptions, PACS differ about case, blanks and the escapes of URLs."""
        if not self.dates:
            return {}
        first, last = self.dates
        return {"StudyDate": first if first == last else f"{first}-{last}"}

    def takes(self, study: Result) -> bool:
        """Whether a study is asked for; a PACS may ignore filters that it does not know."""
        first, last = self.dates or ("", "")
        date = text(study, "StudyDate")
        if self.dates and not (first <= date <= (last or "9") and date):
            return False
        pattern = "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in self.description)
        return not pattern or bool(re.fullmatch(pattern, text(study, "StudyDescription"), re.IGNORECASE | re.DOTALL))


def days_until(today: datetime.date, days: int) -> tuple[str, str]:
    """First and last StudyDate of the last `days` days; the last is open, as clocks differ."""
    return f"{today - datetime.timedelta(days=days - 1):%Y%m%d}", ""


class Pacs:
    """A PACS. Several threads may use it; `PacsSession` says what its methods raise beside what they say themselves.

    Args:
        url: of its DICOMweb service; credentials are read from the environment.

    Raises:
        PetechiaError: as for `read_address`.
    """

    def __init__(self, url: str) -> None:
        self.address = read_address(url)
        self._session = PacsSession(self.address)
        self._client = DICOMwebClient(self.address.url, self._session, chunk_size=WHOLE, permissive_uid=True)
        self._client.set_http_retry_params(False)

    @property
    def url(self) -> str:
        """The address of its DICOMweb service."""
        return self.address.url

    def instances(self, query: Query, files: Files) -> Iterator[Instance]:
        """The objects that are asked for, study by study.

        Args:
            query: which ones.
            files: gets what the PACS lists without a valid UID, so that it cannot be fetched.
        """
        found = (one for study in self._studies(query, files) for one in self._in_study(study, query, files))
        for number, one in enumerate(found):
            check("pacs_images", number + 1, f"{self.url} lists more than {number:,} objects", "narrow the filters")
            yield one

    def in_study(self, uid: str) -> Iterator[Instance]:
        """All objects of a study; none if the PACS does not have it."""
        self._refuse_uids(uid)
        return self._in_study({f"{tag_for_keyword('StudyInstanceUID'):08X}": {"Value": [uid]}}, Query(), Files())

    def _studies(self, query: Query, files: Files) -> Iterator[Result]:
        """The studies that are asked for, in the order of the PACS."""
        fields = list(OF_STUDY)

        def page(offset: int) -> list[Result]:
            return self._client.search_for_studies(limit=PAGE, offset=offset, fields=fields, search_filters=query.filters)

        for study in self._all(page, "StudyInstanceUID"):
            uid = text(study, "StudyInstanceUID")
            if not is_uid(uid):
                files.add(Reason.NO_UID, f"study {uid or 'without a UID'}")
            elif query.takes(study):
                yield study

    def _in_study(self, study: Result, query: Query, files: Files) -> Iterator[Instance]:
        uid, fields = text(study, "StudyInstanceUID"), list(OF_IMAGE)

        def page(offset: int) -> list[Result]:
            return self._client.search_for_instances(study_instance_uid=uid, limit=PAGE, offset=offset, fields=fields)

        try:
            for one in self._all(page, "SOPInstanceUID"):
                found = _instance(one, study)
                if query.modalities and found.modality.upper() not in query.modalities:
                    continue
                if is_uid(found.series) and is_uid(found.uid):
                    yield found
                else:
                    files.add(Reason.NO_UID, found.uid or f"object of study {uid}")
        except GoneError:  # the study was removed after it was listed
            return

    def _refuse_uids(self, *uids: str) -> None:
        for uid in uids:
            if not is_uid(uid):
                raise PetechiaError(f"{printable(uid)!r} is no UID; give one that {self.url} lists.")

    def _all(self, page: Callable[[int], list[Result]], key: str) -> Iterator[Result]:
        """The answers of all pages, each UID once: a PACS may ignore the number of answers asked for, or the first of them."""
        seen: set[str] = set()
        received, before = 0, None
        while True:
            found = self._asked(page, received)
            received += len(found)
            check("pacs_images", received, f"{self.url} lists more than {received - 1:,} objects", "narrow the filters")
            nameless = [one for one in found if not text(one, key)]
            new = {uid: one for one in found if (uid := text(one, key)) and uid not in seen}
            if not new and (not nameless or found == before):
                return
            seen |= new.keys()
            before = found
            yield from [*new.values(), *nameless]

    def _asked(self, page: Callable[[int], list[Result]], offset: int) -> list[Result]:
        try:
            found: Any = self.patiently(lambda: page(offset))
        except (ValueError, RecursionError):
            raise PetechiaError(
                f"{self.url} answers with something that is not DICOM JSON, such as a page to sign in; check the address."
            ) from None
        if not isinstance(found, list) or (found and not any(isinstance(one, dict) for one in found)):
            raise PetechiaError(f"{self.url} answers with JSON that is not a list of DICOM data; check the address.")
        return [one if isinstance(one, dict) else {} for one in found]

    def patiently(self, ask: Callable[[], T]) -> T:
        """Ask a reading request again, a few times, while the PACS is away."""
        for wait in PATIENCE:
            try:
                return ask()
            except PacsAwayError:
                time.sleep(wait)
        return ask()

    def has(self, study: str, series: str, uid: str) -> bool:
        """Whether the PACS has an object."""
        filters = {"SOPInstanceUID": uid}
        try:
            found = self._asked(
                lambda _: self._client.search_for_instances(study, series, search_filters=filters, limit=PAGE), 0
            )
        except GoneError:
            return False
        return any(text(one, "SOPInstanceUID") == uid for one in found)

    def fetch(self, one: Instance) -> bytes:
        """The DICOM file of an object.

        Raises:
            InstanceError: it is listed with too many frames, it is not there, or not any more, it is too large, or what
                arrives is damaged, another object, or has another number of frames.
            ForbiddenError: the PACS does not allow to read it, now.
            PetechiaError: what arrives is not a file, as where one must sign in first.
        """
        uid = one.uid
        self._refuse_uids(one.study, one.series, uid)
        url = f"{self.url}/studies/{one.study}/series/{one.series}/instances/{uid}"
        try:
            check_frames(one.frames, uid)
        except PetechiaError as error:
            raise InstanceError(str(error)) from None
        try:
            answer = self.patiently(lambda: self._session.request("GET", url, headers={"Accept": FILE}, most="image_bytes"))
        except GoneError:
            raise InstanceError(
                f"{uid} is not in the PACS {self.url} any more; list its images again, or leave it out with --on-error skip."
            ) from None
        except ForbiddenError:
            raise
        except (LargeAnswerError, RefusedError, ConflictError) as error:
            raise InstanceError(f"{uid} cannot be had: {error}") from None
        content = self._part(answer.headers.get("Content-Type", ""), answer.content)
        try:
            with quiet():
                entries = parse(content, f"The file of {uid}", ["SOPInstanceUID", "NumberOfFrames"])
                found, frames = str(entries.get("SOPInstanceUID")), frames_of(entries)
        except PetechiaError as error:
            raise InstanceError(str(error)) from None
        if found != uid:
            raise InstanceError(f"{self.url} answers with another object than {uid}, which was asked for; check the PACS.")
        if frames != one.frames:
            raise InstanceError(
                f"The number of frames in the file of {uid} is {frames:,}, and {self.url} lists {one.frames:,}; check the "
                f"PACS, or download the file and give dicom:FOLDER."
            )
        return content

    def answers(self, one: Instance) -> bool:
        """Whether the PACS answers when it is asked for an object in its lists: if so, it is not away."""
        try:
            self.has(one.study, one.series, one.uid)
        except PacsAwayError:
            return False
        return True

    def _part(self, kind: str, content: bytes) -> bytes:
        """The file in an answer: all of it, or its one part."""
        if kind.split(";", maxsplit=1)[0].strip().lower() == "application/dicom":
            return content
        boundary = re.search(r"boundary=(\"[^\"]+\"|[^;\s]+)", kind, re.IGNORECASE)
        if not kind.lower().startswith("multipart/related") or boundary is None:
            raise PetechiaError(
                f"{self.url} answers with {printable(kind or 'no type')!r} and not with a DICOM file; check the address."
            )
        line = b"--" + boundary[1].strip('"').encode("latin-1", "replace")
        start = content.find(b"\r\n\r\n", content.find(line))
        end = content.rfind(b"\r\n" + line)
        if start < 0 or end < start:
            raise PacsAwayError(f"{self.url} broke off in the middle of a file; try again.")
        return content[start + 4 : end]

    def store(self, study: str, objects: Sequence[pydicom.Dataset]) -> None:
        """Store objects in a study (STOW-RS). What counts is that the PACS then says or lists that it has them.

        Raises:
            InstanceError: the PACS does not take one of them.
        """
        named, reason = self._stored(study, objects)
        for one in objects:
            uid = str(one.SOPInstanceUID)
            if uid not in named and not self.has(study, str(one.SeriesInstanceUID), uid):
                raise InstanceError(f"{self.url} does not take a report ({reason}); look at the log of the PACS.")

    def _stored(self, study: str, objects: Sequence[pydicom.Dataset]) -> tuple[set[str], str]:
        """Store objects; return which of them the PACS says that it has, and what it says of others."""
        try:
            answer = self._client.store_instances(objects, study)
            failed = [int(one.get("FailureReason") or 0) for one in answer.get("FailedSOPSequence") or ()]
            named = {str(one.get("ReferencedSOPInstanceUID")) for one in answer.get("ReferencedSOPSequence") or ()}
        except ForbiddenError:  # it will not allow others, either
            raise
        except (ConflictError, GoneError, RefusedError) as error:
            return set(), first_line(error)
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            return set(), f"its answer is no DICOM JSON: {type(error).__name__}"
        return named, f"reason {failed[0]:#06x}" if failed else "it does not list it afterwards"


def _instance(one: Result, study: Result) -> Instance:
    """An object as the PACS lists it; its UIDs may be none."""
    return Instance(
        text(study, "StudyInstanceUID"),
        text(one, "SeriesInstanceUID"),
        text(one, "SOPInstanceUID"),
        text(one, "SOPClassUID"),
        text(one, "PatientID") or text(study, "PatientID"),
        text(one, "Modality"),
        text(one, "SeriesDescription"),
        text(one, "ViewPosition"),
        _number(one, "NumberOfFrames") or 1,
        _number(one, "InstanceNumber"),
        (_number(one, "Rows"), _number(one, "Columns")),
        _plane(one),
    )


def _plane(found: Result) -> Plane | None:
    """Where an image lies, as far as the PACS lists it."""
    position, orientation, spacing = (
        _numbers(found, key) for key in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    )
    return plane_of(position, orientation, spacing if len(spacing) == 2 else (0.0, 0.0))


def _number(found: Result, keyword: str) -> int:
    """A number in DICOM JSON; 0 if there is none, or one that is negative or too long."""
    given = text(found, keyword)
    return int(given) if NUMBER.fullmatch(given) else 0


def _numbers(found: Result, keyword: str) -> tuple[float, ...]:
    """The numbers of an entry in DICOM JSON; () if there are none, or it holds something else."""
    entry = found.get(f"{tag_for_keyword(keyword):08X}")
    values = entry.get("Value") if isinstance(entry, dict) else None
    if not isinstance(values, list) or not all(isinstance(one, str | int | float) for one in values):
        return ()
    try:
        return tuple(float(one) for one in values)
    except (ValueError, OverflowError):
        return ()


def is_uid(uid: str) -> bool:
    """Whether a text is a UID (PS3.5, 9.1)."""
    return bool(UID_FORM.fullmatch(uid))


def text(found: Result, keyword: str) -> str:
    """The first value of an entry in DICOM JSON, at most `LONGEST` letters; "" if there is none, or it is no text or number.

    A value that stands alone, where the standard has a list, is taken all the same.
    """
    entry = found.get(f"{tag_for_keyword(keyword):08X}")
    value = entry.get("Value") if isinstance(entry, dict) else None
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return str(value)[:LONGEST].encode(errors="replace").decode().strip("\0 ")
