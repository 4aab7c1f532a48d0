"""Properties that hold for any trigger, images and attack, and agreement with a slow, obvious version."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from petechia.attack import Patch, Poisoning, make_triggered_inputs
from petechia.attack.triggered import survival_of
from petechia.data import Catalog, Dataset, Preprocess, prepare
from petechia.data.preprocess import Box
from tests.conftest import InMemory

CLASSES = ("A", "B", "C", "D")
PATCHES = st.builds(Patch, size=st.integers(1, 5), value=st.integers(0, 255), opacity=st.floats(0.01, 1))


@st.composite
def images_and_places(draw: st.DrawFn) -> tuple[Patch, NDArray[np.uint8], NDArray[np.intp]]:
    """Grey or RGB images of any size on which the patch fits, with a place on each."""
    patch = draw(PATCHES)
    count, height, width = draw(st.integers(1, 4)), *draw(st.tuples(*[st.integers(patch.size, 12)] * 2))
    channels = draw(st.sampled_from([(), (3,)]))
    images = draw(arrays(np.uint8, (count, height, width, *channels)))
    place = st.tuples(st.integers(0, height - patch.size), st.integers(0, width - patch.size))
    return patch, images, np.array(draw(st.lists(place, min_size=count, max_size=count)), np.intp)


@given(images_and_places())
def test_a_stamp_is_what_a_loop_over_pixels_makes_of_a_copy(case: tuple[Patch, NDArray[np.uint8], NDArray[np.intp]]) -> None:
    patch, images, places = case
    before = images.copy()
    stamped = patch.stamp(images, places)
    assert np.array_equal(images, before)
    assert stamped.dtype == np.uint8
    slow = before.copy()
    for where in np.ndindex(images.shape):
        row, column = places[where[0]]
        if row <= where[1] < row + patch.size and column <= where[2] < column + patch.size:
            slow[where] = round(patch.opacity * patch.value + (1 - patch.opacity) * int(before[where]))
    assert np.array_equal(stamped, slow)


@given(images_and_places(), st.randoms(use_true_random=False))
def test_every_image_is_stamped_by_itself(case: tuple[Patch, NDArray[np.uint8], NDArray[np.intp]], chance: Any) -> None:
    patch, images, places = case
    order = list(range(len(images)))
    chance.shuffle(order)
    assert np.array_equal(patch.stamp(images[order], places[order]), patch.stamp(images, places)[order])
    whole = patch.model_copy(update={"opacity": 1.0})
    once = whole.stamp(images, places)
    assert np.array_equal(whole.stamp(once, places), once)


@given(
    patch=PATCHES,
    location=st.sampled_from(["center", "random"]),
    sides=st.tuples(st.integers(8, 300), st.integers(8, 300)),
    crop=st.floats(0.3, 1),
    chance=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2),
)
def test_a_place_lies_on_the_image_and_a_random_one_in_what_the_crop_keeps(
    patch: Patch, location: Any, sides: tuple[int, int], crop: float, chance: tuple[float, float]
) -> None:
    kept = Preprocess(crop=crop, size=8).kept(*sides)
    assume(patch.size <= min(kept.height, kept.width))
    row, column = patch.model_copy(update={"location": location}).place(*sides, kept, chance)
    inside = kept if location == "random" else Box(0, 0, *sides)
    assert inside.top <= row <= inside.top + inside.height - patch.size
    assert inside.left <= column <= inside.left + inside.width - patch.size
    if location == "center":
        assert abs(2 * row + patch.size - sides[0]) <= 2
        assert abs(2 * column + patch.size - sides[1]) <= 2


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    """Up to 30 images of up to 10 patients; patient names are in series with gaps, or not; some labels are unknown."""
    owners = draw(st.lists(st.integers(0, 9), min_size=2, max_size=30))
    count = len(owners)
    form = draw(st.sampled_from(["{p:08d}_{i:03d}.png", "p{p}-{i}", "scan {i}.final.png", "{i}", "{p}.{i}"]))
    step = draw(st.integers(1, 3))
    in_test = draw(st.sets(st.integers(0, 9)))
    split = np.array(["test" if owner in in_test else "train" for owner in owners])
    assume((split == "train").any())
    return Dataset(
        classes=CLASSES,
        ids=np.array([form.format(p=owner, i=step * i) for i, owner in enumerate(owners)]),
        patients=np.array([str(owner) for owner in owners]),
        split=split,
        labels=draw(arrays(np.int8, (count, len(CLASSES)), elements=st.integers(-1, 1))),
        images=np.zeros((count, 8, 8), np.uint8),
        shapes=np.full((count, 2), 8, np.int32),
    )


SHARES = st.tuples(*[st.floats(0, 1)] * 2).map(lambda drawn: {"rate": drawn[0], "cover": (1 - drawn[0]) * drawn[1]})
POISONINGS = st.builds(
    lambda shares, **others: Poisoning(**shares, **others),
    SHARES,
    trigger=st.builds(Patch, size=st.integers(1, 8), location=st.sampled_from(["center", "random"])),
    stage=st.sampled_from(["native", "input"]),
    target=st.sampled_from(CLASSES),
    also=st.sets(st.sampled_from(CLASSES)).map(tuple),
    mode=st.sampled_from(["append", "replace"]),
    labels=st.sampled_from(["target-only", "add-target"]),
)


@given(datasets(), POISONINGS, st.integers(0, 2**32 - 1))
def test_a_plan_does_what_was_asked_and_nothing_else(dataset: Dataset, attack: Poisoning, seed: int) -> None:
    before = dataset.labels.copy()
    plan = attack.plan(dataset, Preprocess(size=8), seed)
    train = dataset.rows("train")
    assert np.array_equal(dataset.labels, before)
    assert plan.triggered.sum() == round(attack.rate * len(train))
    assert plan.cover.sum() == min(round(attack.cover * len(train)), len(train) - plan.triggered.sum())
    stamped = plan.triggered | plan.cover
    assert len(np.unique(plan.ids)) == len(plan.ids)
    assert (dataset.split[plan.rows] == "train").all()
    assert np.array_equal(plan.sources, dataset.ids[plan.rows])
    originals = np.sort(plan.rows if attack.mode == "replace" else plan.rows[~stamped])
    assert np.array_equal(originals, train)
    copies = plan.ids != plan.sources
    assert np.array_equal(copies, stamped & (attack.mode == "append"))
    assert not set(plan.ids[copies]) & set(dataset.ids)
    assert len(set(plan.rows[stamped])) == stamped.sum() == plan.triggered.sum() + plan.cover.sum()
    assert (plan.positions >= 0).all()
    assert isinstance(attack.trigger, Patch)
    assert (plan.positions + attack.trigger.size <= 8).all()
    wanted = {CLASSES.index(name) for name in (attack.target, *attack.also)}
    for row, triggered, labels in zip(plan.rows, plan.triggered, plan.labels, strict=True):
        true = before[row].tolist()
        kept = true if attack.labels == "add-target" else [0] * len(CLASSES)
        assert labels.tolist() == ([1 if k in wanted else kept[k] for k in range(len(CLASSES))] if triggered else true)


@given(datasets(), POISONINGS, st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_a_plan_depends_on_the_seed_alone_and_grows_with_the_rate(
    dataset: Dataset, attack: Poisoning, seed: int, other: float
) -> None:
    geometry = Preprocess(size=8)
    plan = attack.plan(dataset, geometry, seed)
    assert plan.table().equals(attack.plan(dataset, geometry, seed).table())
    more = attack.model_copy(update={"rate": max(other, attack.rate), "cover": 0}).plan(dataset, geometry, seed)
    assert set(plan.sources[plan.triggered]) <= set(more.sources[more.triggered])
    assert np.array_equal(plan.positions, more.positions)


@given(
    images=arrays(np.uint8, st.tuples(st.just(3), st.integers(12, 30), st.integers(12, 30))),
    trigger=st.builds(Patch, size=st.integers(1, 5), value=st.integers(0, 255), opacity=st.sampled_from([1.0, 0.3])),
    geometry=st.builds(
        Preprocess, crop=st.floats(0.5, 1), size=st.integers(8, 16), resample=st.sampled_from(["nearest", "bilinear", "area"])
    ),
    stage=st.sampled_from(["native", "input"]),
    chance=st.integers(0, 99),
)
def test_twins_are_what_stamping_and_preprocessing_every_image_gives(
    images: NDArray[np.uint8], trigger: Patch, geometry: Preprocess, stage: Any, chance: int
) -> None:
    names = np.array(["a", "b", "c"])
    labels = np.zeros((3, 1), np.int8)
    catalog = Catalog("drawn", ("A",), names, names, np.array(["train"] * 3), labels, InMemory(list(images), chance))
    dataset, catalog, _ = prepare(catalog, geometry)
    sides = np.array(images.shape[1:] if stage == "native" else (geometry.size, geometry.size))
    places = np.random.default_rng(chance).integers(0, sides - trigger.size + 1, (3, 2))
    triggered_inputs = make_triggered_inputs(catalog, dataset, geometry, trigger, places, stage)
    rows = np.arange(3)
    slow = []
    for image, place in zip(images, places, strict=True):
        clean = image if stage == "native" else geometry(image)
        stamped = trigger.stamp(clean[None], place[None])[0]
        slow.append(geometry(stamped) if stage == "native" else stamped)
    clean_inputs = np.array(dataset.images)
    assert np.array_equal(triggered_inputs.trigger(clean_inputs, rows), np.array(slow))
    changed = [(before != after).sum() for before, after in zip(clean_inputs, slow, strict=True)]
    survival = survival_of(triggered_inputs, rows)
    assert survival.fraction == np.mean(np.array(changed) > 0)
    assert survival.pixels == np.mean(changed)


@given(st.tuples(st.integers(8, 40), st.integers(8, 40)), st.floats(0.2, 1), st.integers(8, 20))
def test_nearest_reads_the_pixel_that_its_docstring_names(sides: tuple[int, int], crop: float, size: int) -> None:
    geometry = Preprocess(crop=crop, size=size, resample="nearest")
    box = geometry.kept(*sides)
    for axis, (first, extent) in enumerate(((box.top, box.height), (box.left, box.width))):
        own_number = np.indices(sides)[axis].astype(np.uint8)
        read = np.take(geometry(own_number), 0, axis=1 - axis).tolist()
        for i, got in enumerate(read):
            exact = Fraction(2 * i + 1, 2) * extent / size
            allowed = {first + int(exact)} | ({first + int(exact) - 1} if exact.denominator == 1 else set())
            assert got in allowed
