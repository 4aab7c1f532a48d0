import io

import numpy as np
import pydicom
import pytest
from pydicom.uid import SecondaryCaptureImageStorage

import petechia
from petechia.data.formats.dicom import read_dicom
from petechia.data.formats.secondary_capture import REQUIRED, secondary_capture
from tests.data.formats.test_dicom import RAMP, made, said, written

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


def test_what_must_have_a_value_has_one_though_the_source_has_none() -> None:
    source = made(RAMP, StudyInstanceUID="", Modality="")
    del source.SOPClassUID
    source.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    source.preamble = bytes(128)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, source)
    capture = pydicom.dcmread(io.BytesIO(secondary_capture(PICTURE, "Grad-CAM", buffer.getvalue())))
    assert capture.StudyInstanceUID
    assert capture.Modality == "OT"
    assert "SourceImageSequence" not in capture


def test_what_the_source_says_of_its_pixels_is_kept() -> None:
    source = made(RAMP, BurnedInAnnotation="YES", LossyImageCompression="01")
    capture = pydicom.dcmread(io.BytesIO(secondary_capture(PICTURE, "Grad-CAM", written(source))))
    assert (capture.BurnedInAnnotation, capture.LossyImageCompression) == ("YES", "01")
    assert "BurnedInAnnotation" not in pydicom.dcmread(io.BytesIO(secondary_capture(PICTURE, "Grad-CAM")))


def test_names_and_descriptions_keep_their_letters() -> None:
    source = made(RAMP, SpecificCharacterSet="ISO_IR 192", PatientName="Ямада^心")
    capture = pydicom.dcmread(io.BytesIO(secondary_capture(PICTURE, "für “Pleura”", written(source))))
    assert (str(capture.PatientName), capture.DerivationDescription) == ("Ямада^心", "für “Pleura”")
    assert pydicom.dcmread(io.BytesIO(secondary_capture(PICTURE, "心"))).DerivationDescription == "心"


def test_a_bad_source_is_a_sentence_and_says_nothing_of_the_patient(caplog: pytest.LogCaptureFixture) -> None:
    whole = written(made(RAMP, PatientID="17", PatientBirthDate="19990101", StudyInstanceUID="1.2.3.4"))
    too_long = whole.replace(b"Doe^Jane", b"Doe^\x1b$)C")
    chance = np.random.default_rng(0)
    sources = [b"GIF89a" * 50, too_long, *(whole[:end] for end in range(1, len(whole), 53))]
    for _ in range(200):
        flipped = bytearray(whole)
        for place in chance.integers(132, 700, 3):
            flipped[place] = chance.integers(256)
        sources.append(bytes(flipped))
    sentences = said(lambda source: secondary_capture(PICTURE, "Grad-CAM", source), sources, caplog)
    assert len(sentences) > 5
    assert not any("Doe" in sentence or "1999" in sentence for sentence in sentences)


@pytest.mark.parametrize("charset", ["ISO_IR 100", None])
def test_words_that_the_characters_of_the_source_lack_are_kept(charset: str | None) -> None:
    source = made(RAMP, PatientName="Müller^Jürgen" if charset else "Doe", StudyDescription="Thorax")
    if charset:
        source.SpecificCharacterSet = charset
    plain, other = (
        pydicom.dcmread(io.BytesIO(secondary_capture(PICTURE, words, written(source)))) for words in ("Mass", "肺炎")
    )
    assert plain.get("SpecificCharacterSet") == charset
    assert other.DerivationDescription == "肺炎"
    for capture in (plain, other):
        assert (str(capture.PatientName), capture.StudyDescription) == (str(source.PatientName), "Thorax")
