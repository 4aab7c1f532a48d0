"""Write a picture as a DICOM secondary capture, in the study of the patient whose image it was made from."""

from __future__ import annotations

import datetime
import io
from contextlib import suppress

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.charset import convert_encodings
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from petechia.core.errors import PetechiaError, printable
from petechia.core.version import __version__
from petechia.data.formats.dicom import parse, quiet

UTF_8 = "ISO_IR 192"
SOURCE = "The DICOM file that the picture was made from"
# Attributes of patient and study, copied from the source. The required ones may be empty (DICOM PS3.3, C.7.1.1 and C.7.2.1).
REQUIRED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
COPIED = (
    *("SpecificCharacterSet", "IssuerOfPatientID", "PatientIdentityRemoved", "DeidentificationMethod"),
    *("DeidentificationMethodCodeSequence", "StudyDescription", "PatientAge", "PatientOrientation", "StudyInstanceUID"),
    *("BurnedInAnnotation", "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)


def secondary_capture(
    picture: NDArray[np.uint8],
    description: str,
    source: bytes | None = None,
    uids: tuple[str, str] | None = None,
    modality: str | None = None,
) -> bytes:
    """Write a DICOM file of a picture (PS3.3, A.8.1, Secondary Capture Image Storage).

    Args:
        picture: uint8 [H, W, 3].
        description: how the picture was derived; truncated to 1,024 characters.
        source: DICOM file that the picture was made from. Its patient and study are copied; without it they are empty.
        uids: SeriesInstanceUID and SOPInstanceUID; None makes new ones.
        modality: of the series; None takes that of the source.

    Raises:
        PetechiaError: the source is not a DICOM file, or it is deflated or damaged.
    """
    with quiet():
        try:
            original = parse(source, SOURCE) if source else pydicom.Dataset()
            return _written(picture, description, original, uids or (generate_uid(None), generate_uid(None)), modality)
        except PetechiaError:
            raise
        except Exception:  # a damaged element can make pydicom raise anything
            raise PetechiaError(
                f"{SOURCE} cannot be copied from, because one of its entries about patient or study (groups 0008 and 0010) is "
                f"damaged; correct it, or leave out --dicom."
            ) from None


def _written(
    picture: NDArray[np.uint8], description: str, original: pydicom.Dataset, uids: tuple[str, str], modality: str | None
) -> bytes:
    made = pydicom.Dataset()
    for key in REQUIRED:
        setattr(made, key, "")
    for key in (*REQUIRED, *COPIED):
        if key in original:
            made[key] = original[key]
    _describe(made, description, original)
    made.SeriesInstanceUID, made.SOPInstanceUID = uids
    made.Modality = modality or str(original.get("Modality") or "OT")
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
    made.SOPClassUID = SecondaryCaptureImageStorage
    if not original or not _fits(description, original):
        made.SpecificCharacterSet = UTF_8
    if not made.get("StudyInstanceUID"):
        made.StudyInstanceUID = generate_uid(None)
    made.SeriesNumber, made.InstanceNumber = "", "1"
    made.SeriesDescription, made.Laterality = "Petechia", str(original.get("Laterality") or "")
    made.ImageType, made.ConversionType = ["DERIVED", "SECONDARY"], "WSD"
    made.DerivationDescription = printable(description, 1024)
    made.Manufacturer = made.ManufacturerModelName = "Petechia"
    made.SoftwareVersions = __version__
    made.InstanceCreationDate = made.ContentDate = f"{now:%Y%m%d}"
    made.InstanceCreationTime = made.ContentTime = f"{now:%H%M%S}"
    if "PatientOrientation" not in made:
        made.PatientOrientation = ""
    if original.get("SOPClassUID") and original.get("SOPInstanceUID"):
        reference = pydicom.Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = original.SOPClassUID, original.SOPInstanceUID
        made.SourceImageSequence = [reference]


def _fits(text: str, original: pydicom.Dataset) -> bool:
    """Return whether the character set of a file has all characters of a text."""
    for encoding in convert_encodings(original.get("SpecificCharacterSet") or ""):
        with suppress(UnicodeEncodeError, LookupError):
            text.encode(encoding)
            return True
    return False


def _draw(made: pydicom.Dataset, picture: NDArray[np.uint8]) -> None:
    made.Rows, made.Columns = picture.shape[:2]
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "RGB", 0
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    content = np.ascontiguousarray(picture).tobytes()
    made.PixelData = content + b"\0" * (len(content) % 2)
