from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.data import Preprocess
from petechia.detect.protocol import Calibration, Detector, ImagesUnderTest
from petechia.detect.screen import ImageScreen, Screen
from petechia.detect.screen.conformal import ConformalThreshold
from tests.detect.screen.conftest import SIZE, ByHand, opened, stamped

Images = NDArray[np.uint8]
Draw = Callable[[int, int], Images]


class Steps:
    """Records the notes that it receives."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, int]] = []
        self.count = 0

    def phase(self, name: str, total: int = 0) -> None:
        self.phases.append((name, total))

    def advance(self, count: int = 1) -> None:
        self.count += count


@pytest.fixture(scope="module")
def clean(draw: Draw) -> Images:
    return draw(40, 0)


@pytest.fixture(scope="module")
def given(draw: Draw) -> Images:
    images = draw(4, 1)
    images[1:3] = stamped(images[1:3], 14, 20)
    return images


@pytest.fixture(scope="module")
def saved(clean: Images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration on the clean images, as a file."""
    file = tmp_path_factory.mktemp("calibration") / "screen.json"
    ImageScreen(fpr=0.05).calibrate([ImagesUnderTest(opened(ByHand()), clean)]).save(file)
    return file


def test_the_detector_finds_what_the_screen_finds(clean: Images, given: Images) -> None:
    classifier, steps = opened(ByHand()), Steps()
    detector = ImageScreen(fpr=0.05)
    as_any: Detector[ImagesUnderTest] = detector
    calibration = detector.calibrate([ImagesUnderTest(classifier, clean)], steps)
    result = as_any.examine(ImagesUnderTest(classifier, given, ("a", "b", "c", "d")), calibration, steps)
    expected = Screen.fit(classifier, clean, 0.05)
    scores = expected.score(given)
    assert [one.about for one in result.findings] == ["a", "b", "c", "d"]
    assert [one.score for one in result.findings] == scores.suspicion.tolist()
    assert [one.p_value for one in result.findings] == scores.p_values.tolist()
    assert [one.flagged for one in result.findings] == [False, True, True, False]
    assert {one.threshold for one in result.findings} == {expected.conformal.threshold}
    assert steps.phases == [("examining clean images", 40), ("screening images", 4)]
    assert steps.count == 44


def test_without_ids_and_shapes_images_are_numbered_and_are_their_own_files(clean: Images, given: Images) -> None:
    cropping = replace(opened(ByHand()), preprocess=Preprocess(crop=0.5, size=SIZE))
    detector = ImageScreen(fpr=0.05)
    calibration = detector.calibrate([ImagesUnderTest(cropping, clean)])
    result = detector.examine(ImagesUnderTest(cropping, given), calibration)
    assert [one.id for one in result.images] == ["1", "2", "3", "4"]
    assert all(one.box == one.box_in_file for one in result.images)
    shapes = np.full((4, 2), 2 * SIZE)
    box, in_file = (getattr(detector.examine(ImagesUnderTest(cropping, given, (), shapes), calibration).images[1], name)
                    for name in ("box", "box_in_file"))  # fmt: skip
    assert (in_file.top, in_file.left, in_file.height) == (box.top + SIZE // 2, box.left + SIZE // 2, box.height)


def test_a_saved_calibration_gives_the_same_result(saved: Path, clean: Images, given: Images) -> None:
    calibration = Calibration.load(saved)
    assert calibration.detector == "screen"
    assert "40 clean images" in calibration.measured_on
    before = ImageScreen(fpr=0.05)
    of_before = before.calibrate([ImagesUnderTest(opened(ByHand()), clean)])
    subject = ImagesUnderTest(opened(ByHand()), given)
    again = ImageScreen(clean=clean).examine(subject, calibration)
    assert again.to_dict() == before.examine(subject, of_before).to_dict()


def test_a_calibration_has_no_images(saved: Path, clean: Images, given: Images) -> None:
    assert saved.stat().st_size < 10_000
    with pytest.raises(PetechiaError, match="give the clean images that the calibration was made with"):
        ImageScreen().examine(ImagesUnderTest(opened(ByHand()), given), Calibration.load(saved))


def test_other_clean_images_and_other_models_are_refused(saved: Path, clean: Images, given: Images, draw: Draw) -> None:
    calibration, subject = Calibration.load(saved), ImagesUnderTest(opened(ByHand()), given)
    for others in (clean[:30], draw(40, 5) // 2):
        with pytest.raises(PetechiaError, match="was not made with by hand and these"):
            ImageScreen(clean=others).examine(subject, calibration)
    other = replace(opened(ByHand()), answer=lambda images: ByHand()(images) + 1)
    with pytest.raises(PetechiaError, match="calibrate again"):
        ImageScreen(clean=clean).examine(ImagesUnderTest(other, given), calibration)
    with pytest.raises(PetechiaError, match="calibrate again"):  # the features cannot be computed
        ImageScreen(clean=clean).examine(ImagesUnderTest(opened(ByHand(), blind=True), given), calibration)


def test_target_and_warnings_come_with_the_calibration(clean: Images, given: Images) -> None:
    tampered = np.concatenate([stamped(clean[:20], 14, 20), clean[20:]])
    classifier = opened(ByHand())
    detector = ImageScreen(fpr=0.05, target="Bright")
    calibration = detector.calibrate([ImagesUnderTest(classifier, tampered)])
    again = ImageScreen(clean=tampered).examine(ImagesUnderTest(classifier, given), calibration)
    assert {one.class_ for one in again.images} == {"Bright"}
    assert again.warnings == Screen.fit(classifier, tampered, 0.05, "Bright").warnings
    assert len(again.warnings) == 1


def test_calibrations_that_cannot_be_used(saved: Path, clean: Images, given: Images) -> None:
    detector, subject = ImageScreen(clean=clean), ImagesUnderTest(opened(ByHand()), given)
    good = Calibration.load(saved)

    def broken(**values: object) -> Calibration:
        return good.model_copy(update={"values": {**good.values, **values}})

    with pytest.raises(PetechiaError, match="is for the detector 'audit', not for 'screen'"):
        detector.examine(subject, good.model_copy(update={"detector": "audit"}))
    with pytest.raises(PetechiaError, match="cannot be used"):
        detector.examine(subject, Calibration.packaged("screen"))  # constants alone
    with pytest.raises(PetechiaError, match="same parts"):
        detector.examine(subject, broken(middle={"removal": 0.0}))
    with pytest.raises(PetechiaError, match="a tail for each kind"):
        detector.examine(subject, broken(tails={"part": [0.0, 1.0]}))
    with pytest.raises(PetechiaError, match="'magic' is not a part"):
        detector.examine(subject, broken(middle={"magic": 0.0}, spread={"magic": 1.0}))
    with pytest.raises(PetechiaError, match="cannot be used"):
        detector.examine(subject, broken(spread={**good.values["spread"], "removal": 0.0}))
    with pytest.raises(PetechiaError, match="between 0 and 1"):
        detector.examine(subject, broken(false_positive_rate=0))


@pytest.mark.parametrize("count", [0, 2])
def test_one_set_of_clean_images_is_needed(clean: Images, count: int) -> None:
    with pytest.raises(PetechiaError, match=f"{count} sets of images"):
        ImageScreen(fpr=0.05).calibrate([ImagesUnderTest(opened(ByHand()), clean)] * count)


def test_a_threshold_is_the_same_after_its_calibration() -> None:
    rng = np.random.default_rng(0)
    found = ConformalThreshold.of({"removal": rng.normal(size=60), "strip": rng.random(60)}, 0.05)
    again = ConformalThreshold.from_calibration(Calibration.model_validate_json(found.to_calibration("60").model_dump_json()))
    assert replace(again, clean=found.clean) == found
    np.testing.assert_array_equal(again.clean, found.clean)
