import io

import numpy as np
import pydicom
from pydicom.uid import SecondaryCaptureImageStorage

import petechia
from petechia.data.dicom import read_dicom
from petechia.data.secondary_capture import REQUIRED, secondary_capture
from tests.data.test_dicom import RAMP, made, written

PICTURE = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)


def test_a_capture_is_filed_with_the_study_it_comes_from() -> None:
    source = made(
        RAMP, PatientID="17", PatientBirthDate="19990101", StudyInstanceUID="1.2.3.4", StudyDate="20200202", Modality="DX"
    )
    capture = pydicom.dcmread(io.BytesIO(secondary_capture(PICTURE, "Grad-CAM", written(source))))
    for key in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDate", "Modality"):
        assert capture[key] == source[key]
    assert capture.SOPClassUID == SecondaryCaptureImageStorage
    assert capture.ImageType == ["DERIVED", "SECONDARY"]
    assert capture.DerivationDescription == "Grad-CAM"
    assert capture.SoftwareVersions == petechia.__version__
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == "1.2.3"
    assert capture.SOPInstanceUID != source.SOPInstanceUID
    assert np.array_equal(capture.pixel_array, PICTURE)


def test_without_a_source_no_patient_is_invented() -> None:
    capture = pydicom.dcmread(io.BytesIO(secondary_capture(PICTURE, "x" * 2000)))
    for key in REQUIRED:
        assert key in capture
        assert not capture[key].value
    assert "SourceImageSequence" not in capture
    assert capture.StudyInstanceUID != capture.SeriesInstanceUID
    assert len(capture.DerivationDescription) == 1024


def test_a_capture_can_be_read_back() -> None:
    assert read_dicom(secondary_capture(PICTURE, "Grad-CAM"), "x").grey().shape == (9, 11)
