from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from petechia.attack import (
    Fiba,
    Findings,
    Marker,
    Patch,
    Pattern,
    Poisoning,
    Sinusoid,
    Stamped,
    TriggeredSelection,
    Warp,
    make_triggered_inputs,
    probe_survival,
    survival_of,
)
from petechia.attack.triggered import DenseTriggeredInputs, Stage
from petechia.attack.triggers import BaseTrigger
from petechia.data import Dataset, Preprocess, open_source, prepare
from tests.conftest import Steps

PAPER = Preprocess(crop=0.6, size=224, resample="nearest")


@pytest.mark.parametrize(("size", "pixels"), [(1, 0), (2, 0), (3, 1), (4, 4), (5, 4), (6, 4), (7, 4), (8, 4)])
def test_survival_in_the_papers_pipeline(size: int, pixels: int) -> None:
    """The table measured with TensorFlow's own central_crop and resize."""
    survival = probe_survival(Patch(size=size), PAPER, 1024, 1024, "native")
    assert survival == (float(pixels > 0), pixels)


@pytest.mark.parametrize(("size", "fraction"), [(1, 0.11), (2, 0.55), (3, 1.0), (4, 1.0)])
def test_survival_at_random_places(size: int, fraction: float) -> None:
    survival = probe_survival(Patch(size=size, location="random"), PAPER, 1024, 1024, "native")
    assert survival.fraction == pytest.approx(fraction, abs=0.06)


def test_at_the_input_stage_every_pixel_survives() -> None:
    assert probe_survival(Patch(size=3, value=255), PAPER, 1024, 1024, "input") == (1, 9)


def test_on_real_images_as_on_a_flat_one(nih_sample: Path) -> None:
    catalog = open_source(f"nih:{nih_sample}").take(np.arange(12))
    dataset, catalog, _ = prepare(catalog, PAPER)
    for size, pixels in ((1, 0), (2, 0), (3, 1), (4, 4)):
        poisoning = Poisoning(trigger=Patch(size=size))
        positions = poisoning.positions(dataset, PAPER, 0)
        triggered_inputs = make_triggered_inputs(catalog, dataset, PAPER, poisoning.trigger, positions, "native")
        assert survival_of(triggered_inputs, np.arange(12)) == (float(pixels > 0), pixels)


@pytest.mark.parametrize("resample", ["nearest", "bilinear", "area"])
@pytest.mark.parametrize("stage", ["native", "input"])
def test_twins_equal_stamping_and_preprocessing_by_hand(resample: str, stage: Stage) -> None:
    geometry = Preprocess.model_validate({"crop": 0.7, "size": 24, "resample": resample})
    dataset, catalog, _ = prepare(open_source("phantom:images=40,size=60"), geometry)
    poisoning = Poisoning(trigger=Patch(size=4, value=200, location="random"), stage=stage)
    positions = poisoning.positions(dataset, geometry, 3)
    triggered_inputs = make_triggered_inputs(catalog, dataset, geometry, poisoning.trigger, positions, stage)
    rows = np.array([5, 0, 39, 5])
    triggered = triggered_inputs.trigger(dataset.images[rows], rows)
    for image, row in zip(triggered, rows, strict=True):
        place = positions[row, None]
        native = next(catalog.reader.read(np.array([row])))
        assert isinstance(native, np.ndarray)
        if stage == "native":
            expected = geometry(poisoning.trigger.stamp(native[None], place)[0])
        else:
            expected = poisoning.trigger.stamp(geometry(native)[None], place)[0]
        assert np.array_equal(image, expected)
    differing = [(image != dataset.images[row]).sum() for image, row in zip(triggered, rows, strict=True)]
    survival = survival_of(triggered_inputs, rows)
    assert survival.pixels == np.mean(differing)
    assert survival.fraction == np.mean(np.array(differing) > 0)


@pytest.mark.parametrize(
    "trigger",
    [
        Sinusoid(),
        Fiba(alpha=0.5),
        Warp(strength=6),
        Marker(size=0.3),
        Pattern(size=5, location="random"),
        Pattern(size="whole", opacity=0.4),
    ],
    ids=lambda one: f"{one.kind}",
)
@pytest.mark.parametrize("resample", ["nearest", "area"])
@pytest.mark.parametrize("stage", ["native", "input"])
def test_twins_of_any_trigger_equal_stamping_by_hand(trigger: BaseTrigger, resample: str, stage: Stage) -> None:
    geometry = Preprocess.model_validate({"crop": 0.9, "size": 24, "resample": resample})
    dataset, catalog, _ = prepare(open_source("phantom:images=40,size=60"), geometry)
    poisoning = Poisoning.model_validate({"trigger": trigger, "stage": stage})
    positions = poisoning.positions(dataset, geometry, 3)
    triggered_inputs = make_triggered_inputs(catalog, dataset, geometry, trigger, positions, stage)
    rows = np.array([5, 0, 39, 5])
    triggered = triggered_inputs.trigger(dataset.images[rows], rows)
    for image, row, changed in zip(triggered, rows, triggered_inputs.changed(rows), strict=True):
        native = next(catalog.reader.read(np.array([row])))
        assert isinstance(native, np.ndarray)
        before = geometry(native) if stage == "input" else native
        after = trigger.stamp(before[None], positions[row, None])[0]
        assert np.array_equal(image, geometry(after) if stage == "native" else after)
        assert changed == (image != dataset.images[row]).sum()
    assert isinstance(triggered_inputs, DenseTriggeredInputs) == trigger.whole
    if isinstance(triggered_inputs, DenseTriggeredInputs):
        assert isinstance(triggered_inputs.images, np.memmap)
    mine, others = (triggered_inputs.changes(np.array(some)) for some in ([5, 0], [0, 5]))
    assert not all(map(np.array_equal, mine, others))
    assert all(map(np.array_equal, mine, triggered_inputs.changes(rows[:2])))


@pytest.mark.parametrize(("strength", "fraction"), [(0.5, 0.9), (0.005, 0.0)])
def test_a_faint_warp_of_a_large_image_dies_in_resizing(strength: float, fraction: float) -> None:
    geometry = Preprocess(size=16)
    dataset, catalog, _ = prepare(open_source("phantom:images=20,size=96"), geometry)
    warp = Warp(strength=strength)
    triggered_inputs = make_triggered_inputs(catalog, dataset, geometry, warp, np.zeros((20, 2), np.intp), "native")
    survival = survival_of(triggered_inputs, np.arange(20))
    assert (survival.fraction >= fraction) if fraction else survival.pixels < 8  # of 256


def test_a_trigger_that_touches_no_pixel_leaves_twins_that_are_the_images() -> None:
    dataset, catalog, _ = prepare(open_source("phantom:images=20,size=32"), Preprocess(size=16))
    triggered_inputs = make_triggered_inputs(catalog, dataset, Preprocess(size=16), Findings(), np.full((20, 2), -1), "native")
    assert np.array_equal(triggered_inputs.trigger(dataset.images, np.arange(20)), dataset.images)
    assert not triggered_inputs.changed(np.arange(20)).any()


def test_twins_are_cached_by_place_and_trigger() -> None:
    dataset, catalog, _ = prepare(open_source("phantom:images=30,size=32"), Preprocess(size=16))
    seen = Steps()

    def make(trigger: Patch, seed: int) -> None:
        positions = Poisoning(trigger=trigger).positions(dataset, Preprocess(size=16), seed)
        make_triggered_inputs(catalog, dataset, Preprocess(size=16), trigger, positions, "native", seen)

    for trigger, seed, decoded in (
        (Patch(size=3), 0, 30),
        (Patch(size=3), 1, 0),  # the centre is the same for any seed
        (Patch(size=4), 0, 30),
        (Patch(size=3, location="random"), 0, 30),
        (Patch(size=3, location="random"), 1, 30),
        (Patch(size=3, location="random"), 0, 0),
    ):
        seen.clear()
        make(trigger, seed)
        assert sum(seen) == decoded


@pytest.mark.parametrize("channels", [0, 3])
def test_a_selection_triggers_what_it_should(make_dataset: Callable[..., Dataset], channels: int) -> None:
    dataset = make_dataset(20, channels=channels)
    poisoning = Poisoning(target="A", trigger=Patch(size=2), stage="input")
    positions = poisoning.positions(dataset, Preprocess(size=16), 0)
    catalog = open_source("phantom:images=20")  # not read at the input stage
    triggered_inputs = make_triggered_inputs(catalog, dataset, Preprocess(size=16), poisoning.trigger, positions, "input")
    rows, marks = np.array([4, 4, 9, 11]), np.array([False, True, True, False])
    selection = TriggeredSelection(dataset.images, rows, marks, triggered_inputs)
    assert selection.shape == (4, *dataset.images.shape[1:])
    images = selection[np.array([3, 1, 0])]
    assert np.array_equal(images[0], dataset.images[11])
    assert np.array_equal(images[1], poisoning.trigger.stamp(dataset.images[4:5], positions[4:5])[0])
    assert np.array_equal(images[2], dataset.images[4])
    cover = Stamped(~marks, make_triggered_inputs(catalog, dataset, Preprocess(size=16), Patch(size=5), positions, "input"))
    both = TriggeredSelection(dataset.images, rows, marks, triggered_inputs, cover)[np.array([3, 1])]
    assert np.array_equal(both[0], Patch(size=5).stamp(dataset.images[11:12], positions[11:12])[0])
    assert np.array_equal(both[1], images[1])
    assert survival_of(triggered_inputs, rows[marks]) == (1, 4)
    assert np.isnan(survival_of(triggered_inputs, np.array([], np.intp)).fraction)
