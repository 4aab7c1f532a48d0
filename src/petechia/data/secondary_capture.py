"""A picture as a DICOM secondary capture, filed with the patient whose image it was made from."""

from __future__ import annotations

import datetime
import io

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

import petechia

# Of patient and study, as the source has them. The first must be there, if only empty (DICOM PS3.3, C.7.1.1 and C.7.2.1).
REQUIRED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
COPIED = (
    *("SpecificCharacterSet", "IssuerOfPatientID", "PatientIdentityRemoved", "DeidentificationMethod"),
    *("DeidentificationMethodCodeSequence", "StudyDescription", "PatientAge", "PatientOrientation", "StudyInstanceUID"),
)


def secondary_capture(picture: NDArray[np.uint8], description: str, source: bytes | None = None) -> bytes:
    """Write a DICOM file of a picture (PS3.3, A.8.1, Secondary Capture Image Storage).

    Args:
        picture: uint8 [H, W, 3].
        description: how it was derived; at most 1,024 characters are kept.
        source: a readable DICOM file that it was made from. Its patient and study are copied; without one they stay empty.
    """
    made = pydicom.Dataset()
    original = pydicom.dcmread(io.BytesIO(source), stop_before_pixels=True) if source else pydicom.Dataset()
    for key in REQUIRED:
        setattr(made, key, "")
    for key in (*REQUIRED, *COPIED):
        if key in original:
            made[key] = original[key]
    _describe(made, description, original)
    _draw(made, picture)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, made, enforce_file_format=True)
    return buffer.getvalue()


def _describe(made: pydicom.Dataset, description: str, original: pydicom.Dataset) -> None:
    now = datetime.datetime.now(datetime.UTC).astimezone()
    made.SOPClassUID, made.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid(None)
    if "StudyInstanceUID" not in made:
        made.StudyInstanceUID = generate_uid(None)
    made.SeriesInstanceUID, made.SeriesNumber, made.InstanceNumber = generate_uid(None), "", "1"
    made.Modality = str(original.get("Modality", "OT"))
    made.SeriesDescription = "Petechia"
    made.ImageType, made.ConversionType = ["DERIVED", "SECONDARY"], "WSD"
    made.DerivationDescription = description[:1024]
    made.Manufacturer = made.ManufacturerModelName = "Petechia"
    made.SoftwareVersions = petechia.__version__
    made.InstanceCreationDate = made.ContentDate = f"{now:%Y%m%d}"
    made.InstanceCreationTime = made.ContentTime = f"{now:%H%M%S}"
    if "PatientOrientation" not in made:
        made.PatientOrientation = ""
    if "SOPInstanceUID" in original:
        reference = pydicom.Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = original.SOPClassUID, original.SOPInstanceUID
        made.SourceImageSequence = [reference]


def _draw(made: pydicom.Dataset, picture: NDArray[np.uint8]) -> None:
    made.Rows, made.Columns = picture.shape[:2]
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "RGB", 0
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    content = np.ascontiguousarray(picture).tobytes()
    made.PixelData = content + b"\0" * (len(content) % 2)
