"""What is stored about a flagged image in its study: a Structured Report (TID 1500) and a picture, a secondary capture.

Their UIDs follow from the image's and the model, so that what is stored twice is the same object.
"""

from __future__ import annotations

import io
import uuid
from typing import NamedTuple

import numpy as np
import pydicom
from highdicom import sr
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.sr.codedict import codes
from pydicom.uid import ComprehensiveSRStorage, SecondaryCaptureImageStorage

from petechia.core.errors import PetechiaError, printable
from petechia.core.version import __version__
from petechia.data.dicomweb.pacs import Instance, InstanceError
from petechia.data.formats.dicom import parse, quiet
from petechia.data.formats.secondary_capture import REQUIRED, secondary_capture
from petechia.data.preprocess import Box
from petechia.detect.screen.files import picture
from petechia.detect.screen.result import ScreenedImage

NAMESPACE = uuid.UUID("0d6d2c6b-4f0f-5a52-9a6e-6c2f5a1d7e90")  # of all UIDs that are made here; never change it
DESCRIPTION = "Petechia"  # of the series
HINT = (
    "A hint of research software and not a diagnosis: part of this image may have been put there to steer an AI model. Do not "
    "rely on that model's answer for this image before a person has looked at it. Petechia is not a medical device."
)
SCHEME = "99PETECHIA"  # of the codes below that no standard has
IMAGING = CodedConcept("363679005", "SCT", "Imaging")
NO_UNITS = CodedConcept("1", "UCUM", "no units")
TAGS = [*REQUIRED, "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "Rows", "Columns"]


class ModelScreened(NamedTuple):
    """The model whose answers are looked at.

    Attributes:
        name: to call it by.
        digest: SHA-256 of its file, or of its name.
    """

    name: str
    digest: str


class Reported(NamedTuple):
    """Where the report about an image is, or would be.

    Attributes:
        study: StudyInstanceUID.
        series: SeriesInstanceUID.
        uid: SOPInstanceUID.
    """

    study: str
    series: str
    uid: str


def report_place(one: Instance, model: ModelScreened) -> Reported:
    """Where the Structured Report about an image is stored."""
    return Reported(one.study, derived_uid("reports", one.study), derived_uid("report", one.uid, model.digest))


def picture_place(one: Instance, model: ModelScreened) -> Reported:
    """Where the picture of an image is stored."""
    return Reported(one.study, derived_uid("pictures", one.study), derived_uid("picture", one.uid, model.digest))


def derived_uid(*parts: str) -> str:
    """A UID that follows from some texts (PS3.5, B.2: 2.25 and the number of a UUID)."""
    return f"2.25.{uuid.uuid5(NAMESPACE, '/'.join(parts)).int}"


def is_own(one: Instance) -> bool:
    """Whether an object is one that Petechia stores, whose own pictures are not screened.

    The description and the UID of its series are not enough, as whoever sends an image chooses them: what is not of the kinds
    that Petechia stores is screened. "" is what a PACS does not say.
    """
    if one.kind not in (SecondaryCaptureImageStorage, ComprehensiveSRStorage, "") or one.modality not in ("OT", "SR", ""):
        return False
    series = (derived_uid(kind, one.study) for kind in ("reports", "pictures"))
    return one.series_description == DESCRIPTION or one.series in series


def make_report(content: bytes, one: Instance, found: ScreenedImage, model: ModelScreened) -> pydicom.Dataset:
    """Make the Structured Report about a flagged image.

    Args:
        content: the DICOM file of the image; its patient and study are copied.
        one: the image.
        found: what the screen says of it.
        model: the model.

    Raises:
        InstanceError: an entry of the image about patient or study is damaged.
    """
    with quiet():
        try:
            return _report(_source(content, one), one, found, model)
        except Exception as error:  # a damaged entry can make pydicom raise anything
            raise InstanceError(
                f"No report can be made about {one.uid}, because an entry about its patient or study is damaged "
                f"({type(error).__name__}); correct the image in the PACS."
            ) from None


def make_picture(
    content: bytes, one: Instance, found: ScreenedImage, model: ModelScreened, image: NDArray[np.uint8]
) -> pydicom.Dataset:
    """Make the picture of a flagged image: the image as the model gets it, with a frame, and the framed part enlarged.

    Args:
        content: the DICOM file of the image; its patient and study are copied.
        one: the image.
        found: what the screen says of it.
        model: the model.
        image: uint8 [H, W] or [H, W, 3], as the model gets it.

    Raises:
        InstanceError: an entry of the image about patient or study is damaged.
    """
    box = found.box
    drawn = picture(image, None if found.extent == "whole" else Box(box.top, box.left, box.height, box.width))
    place = picture_place(one, model)
    try:
        written = secondary_capture(drawn, f"{_sentence(found, model)} {HINT}", content, (place.series, place.uid), "OT")
    except PetechiaError as error:
        raise InstanceError(str(error)) from None
    return pydicom.dcmread(io.BytesIO(written))


def _source(content: bytes, one: Instance) -> pydicom.Dataset:
    """The entries of an image that a report needs, as text in Unicode."""
    whole = parse(content, f"The file of {one.uid}", TAGS)
    source = pydicom.Dataset()
    source.SpecificCharacterSet = "ISO_IR 192"
    for key in REQUIRED:
        setattr(source, key, str(whole.get(key) or ""))
    source.StudyInstanceUID, source.SeriesInstanceUID, source.SOPInstanceUID = one.study, one.series, one.uid
    source.SOPClassUID = whole.SOPClassUID
    source.Rows, source.Columns = whole.Rows, whole.Columns
    return source


def _report(source: pydicom.Dataset, one: Instance, found: ScreenedImage, model: ModelScreened) -> pydicom.Dataset:
    place = report_place(one, model)
    device = sr.DeviceObserverIdentifyingAttributes(
        derived_uid("device", __version__), name="Petechia", manufacturer_name="Petechia", model_name=f"Petechia {__version__}"
    )
    context = sr.ObservationContext(observer_device_context=sr.ObserverContext(codes.DCM.Device, device))
    report = sr.MeasurementReport(
        context, IMAGING, [_finding(source, found, model, place)], title=codes.DCM.ImagingMeasurementReport
    )
    report[0].ContentSequence.append(
        sr.TextContentItem(codes.DCM.Comment, f"{_sentence(found, model)} {HINT}", sr.RelationshipTypeValues.CONTAINS)
    )
    made = sr.ComprehensiveSR(
        [source], report, place.series, 1, place.uid, 1, manufacturer="Petechia", is_complete=True, is_final=False
    )
    made.SeriesDescription, made.SoftwareVersions = DESCRIPTION, __version__
    scheme = pydicom.Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = SCHEME, "Petechia"
    made.CodingSchemeIdentificationSequence = [scheme]
    return made


def _finding(
    source: pydicom.Dataset, found: ScreenedImage, model: ModelScreened, place: Reported
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    region = sr.ImageRegion(
        sr.GraphicTypeValues.POLYLINE,
        _outline(found, int(source.Rows), int(source.Columns)),
        sr.SourceImageForRegion(source.SOPClassUID, source.SOPInstanceUID),
    )
    about = f"model {printable(model.name, 200)}", f"SHA-256 {model.digest}", f"class {printable(found.class_, 200)}"
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        sr.TrackingIdentifier(derived_uid("finding", place.uid), "possible trigger"),
        region,
        finding_type=_own_code("trigger", "Possible trigger of a backdoor"),
        algorithm_id=sr.AlgorithmIdentification("Petechia screen", __version__, about, manufacturer="Petechia"),
        measurements=[
            sr.Measurement(_own_code("p-value", "Share of clean images that would be as suspicious"), found.p_value, NO_UNITS),
            sr.Measurement(_own_code("suspicion", "Suspicion"), found.suspicion, NO_UNITS),
        ],
    )


def _own_code(value: str, meaning: str) -> CodedConcept:
    return CodedConcept(value, SCHEME, meaning)


def _outline(found: ScreenedImage, rows: int, columns: int) -> NDArray[np.float64]:
    """Corners of the box in the image, as column and row, [5, 2], closed; of the whole image if the box is empty."""
    box = found.box_in_file
    top, left, height, width = (box.top, box.left, box.height, box.width) if box.height else (0, 0, rows, columns)
    bottom, right = min(top + height, rows), min(left + width, columns)
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom], [left, top]], np.float64)


def _sentence(found: ScreenedImage, model: ModelScreened) -> str:
    where = "all over the image" if found.extent == "whole" else "in the marked part"
    return (
        f"Possible trigger {where}, which would make the model {printable(model.name, 100)} answer "
        f"{printable(found.class_, 100)} (p = {found.p_value:.2g}; Petechia {__version__})."
    )
