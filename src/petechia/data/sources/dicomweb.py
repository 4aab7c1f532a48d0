"""The `dicomweb:` source: images of a PACS, which are listed by QIDO-RS and fetched by WADO-RS."""

from __future__ import annotations

import datetime
import re

from pydantic import Field, field_validator

from petechia.core.budget import check, limit
from petechia.core.errors import PetechiaError
from petechia.data.catalog import Catalog
from petechia.data.dicomweb.address import refuse_credentials
from petechia.data.dicomweb.files import PacsFiles
from petechia.data.dicomweb.pacs import Instance, Pacs, Query, days_until
from petechia.data.formats.dicom_headers import Header, why_no_slices
from petechia.data.formats.images import Decoding
from petechia.data.formats.locate import Missing
from petechia.data.formats.slices import SliceOptions
from petechia.data.not_read import Files, Reason
from petechia.data.sources.dicom import DicomOptions, Found, catalog_of
from petechia.data.sources.dicom_volumes import Rows, rows_of
from petechia.data.sources.options import split_options
from petechia.data.sources.registry import without_folders

DATES = re.compile(r"([0-9]{8})?(-)?([0-9]{8})?")


class DicomWebOptions(DicomOptions, SliceOptions):
    """Options of the source, in addition to those in `DicomOptions` and `SliceOptions`.

    Attributes:
        modality: of the images, such as DX|CR; None takes all.
        date: first and last StudyDate, YYYYMMDD-YYYYMMDD; one of them may be left out; without a hyphen, the only date.
        days: only studies of the last days; 1 is today.
        description: of the study; * and ? stand for letters.
        limit: the largest number of objects, the first that the PACS lists; None takes all.
    """

    modality: str | None = None
    date: str | None = None
    days: int | None = Field(None, ge=1, le=36_500)
    description: str | None = None
    limit: int | None = Field(None, ge=1)

    @field_validator("date")
    @classmethod
    def _is_date(cls, given: str | None) -> str | None:
        if given is not None:
            _dates(given)
        return given

    def query(self, today: datetime.date) -> Query:
        """What is asked for on a day."""
        modalities = tuple(one.strip().upper() for one in (self.modality or "").split("|") if one.strip())
        dates = days_until(today, self.days) if self.days else _dates(self.date) if self.date else None
        return Query(modalities, dates, self.description or "")


def _dates(given: str) -> tuple[str, str]:
    found = DATES.fullmatch(given)
    first, hyphen, last = found.groups() if found else (None, None, None)
    if not (first or last) or (last and not hyphen):
        raise ValueError("give YYYYMMDD or YYYYMMDD-YYYYMMDD")
    for one in filter(None, (first, last)):
        datetime.datetime.strptime(one, "%Y%m%d")
    if first and last and last < first:
        raise ValueError("the last date is before the first")
    return first or "", (last or "") if hyphen else first or ""


def read_source(source: str, text: str) -> tuple[Pacs, DicomWebOptions]:
    """Read a source, without asking the PACS.

    Args:
        source: the whole source, for messages.
        text: URL with options, see `DicomWebOptions`.

    Raises:
        PetechiaError: the URL or an option is invalid.
    """
    refuse_credentials(text)
    url, options = split_options(source, text, DicomWebOptions)
    if options.date and options.days:
        raise PetechiaError(f"The data source {source!r} has date= and days=; give one of them.")
    return Pacs(url), options


def open_dicomweb(source: str, text: str, missing: Missing = "error") -> Catalog:
    """Open a source: list the images of the PACS. No image is fetched before it is read.

    Patients are identified as for `dicom:`. The ids are SOPInstanceUIDs. The frames of an object are slices of a volume, in its
    order, and so are the objects of a series, in the order of their positions, or of their InstanceNumber if the PACS does not
    list where they lie.

    Args:
        source: the whole source, for messages.
        text: URL of the DICOMweb service with options, see `DicomWebOptions`.
        missing: what to do if the table lists images that the PACS does not list.

    Raises:
        PetechiaError: the PACS does not answer, refuses, has no such image, or answers with something else; or as for
            `open_dicom`.
    """
    pacs, options = read_source(source, text)
    files = Files()
    found: dict[str, Instance] = {}
    slices = 0
    for one in pacs.instances(options.query(datetime.datetime.now().astimezone().date()), files):
        if reason := why_no_slices(one.kind, one.frames) or (None if one.is_image else Reason.NO_PIXELS):
            files.add(reason, one.uid)
        elif one.uid not in found:
            found[one.uid] = one
            slices += _header(one).slices
            check("array_images", slices, f"{pacs.url} lists {slices:,} images or more", "narrow the filters")
        if len(found) == options.limit:
            break
    if not found:
        said = f" {files.frozen}" if files.frozen else ""
        raise PetechiaError(f"{pacs.url} lists no image that fits; check modality=, date=, days= and description=.{said}")
    headers = tuple(_header(one) for _, one in sorted(found.items()))
    fetched = PacsFiles(pacs, found)

    def rows(chosen: list[Header], others: Files | None) -> Rows:
        return rows_of(fetched, chosen, options, Decoding(options.colour, options.window), others)

    name = f"PACS {without_folders(pacs.url)}".strip()  # results, which others read, do not tell the server
    return catalog_of(source, Found(name, pacs.url, fetched.folder, headers, rows), options, missing, files)


def _header(one: Instance) -> Header:
    """What the lists of a PACS say of an object. They do not say where several frames lie."""
    return Header(
        one.uid,
        one.uid,
        one.patient,
        one.study,
        one.view,
        one.frames,
        series=one.series,
        instance=one.number,
        size=one.size,
        planes=(one.plane,) if one.plane and one.frames == 1 else (),
        whole=one.frames <= limit("volume_slices"),
    )
