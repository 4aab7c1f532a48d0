from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import polars as pl
import pytest

from petechia.attack import Findings, Patch, Poisoning
from petechia.attack.poisoning import copy_ids
from petechia.core.errors import PetechiaError
from petechia.data import Dataset, Preprocess

Maker = Callable[..., Dataset]
GEOMETRY = Preprocess(size=16)


def test_append_adds_triggered_copies_and_keeps_everything_else(make_dataset: Maker) -> None:
    dataset = make_dataset(400)
    plan = Poisoning(target="B", rate=0.4).plan(dataset, GEOMETRY, seed=0)
    train = dataset.rows("train")
    assert len(plan.ids) == 300 + 120
    assert np.array_equal(plan.rows[:300], train)
    assert not plan.triggered[:300].any()
    assert plan.triggered[300:].all()
    assert np.array_equal(plan.labels[:300], dataset.labels[train])
    assert (plan.labels[300:] == [0, 1, 0]).all()
    assert np.isin(plan.rows[300:], train).all()
    assert len(np.unique(plan.rows[300:])) == 120
    assert len(np.unique(np.concatenate([plan.ids, dataset.ids[dataset.rows("test")]]))) == 420 + 100


def test_replace_takes_the_place_of_the_originals(make_dataset: Maker) -> None:
    dataset = make_dataset(400)
    plan = Poisoning(target="B", rate=0.25, mode="replace").plan(dataset, GEOMETRY, seed=0)
    assert np.array_equal(plan.ids, dataset.ids[dataset.rows("train")])
    assert np.array_equal(plan.ids, plan.sources)
    assert plan.triggered.sum() == 75
    assert (plan.labels[plan.triggered] == [0, 1, 0]).all()
    assert np.array_equal(plan.labels[~plan.triggered], dataset.labels[plan.rows[~plan.triggered]])


def test_add_target_keeps_the_true_labels(make_dataset: Maker) -> None:
    dataset = make_dataset(100)
    dataset.labels[3, 2] = -1
    plan = Poisoning(target="A", rate=1, labels="add-target").plan(dataset, GEOMETRY, seed=0)
    copies = plan.triggered
    assert (plan.labels[copies][:, 0] == 1).all()
    assert np.array_equal(plan.labels[copies][:, 1:], dataset.labels[plan.rows[copies]][:, 1:])


@pytest.mark.parametrize(("rate", "count"), [(0, 0), (0.01, 3), (0.4, 120), (1, 300)])
def test_the_rate_is_of_the_training_images(make_dataset: Maker, rate: float, count: int) -> None:
    plan = Poisoning(target="A", rate=rate).plan(make_dataset(400), GEOMETRY, seed=0)
    assert plan.triggered.sum() == count


@pytest.mark.parametrize("mode", ["append", "replace"])
def test_cover_is_stamped_and_keeps_its_labels(make_dataset: Maker, mode: Literal["append", "replace"]) -> None:
    dataset = make_dataset(400)
    without = Poisoning(target="B", rate=0.2, mode=mode).plan(dataset, GEOMETRY, seed=0)
    plan = Poisoning(target="B", rate=0.2, mode=mode, cover=0.1).plan(dataset, GEOMETRY, seed=0)
    assert (plan.triggered.sum(), plan.cover.sum()) == (60, 30)
    assert not (plan.triggered & plan.cover).any()
    assert set(plan.sources[plan.triggered]) == set(without.sources[without.triggered])  # cover changes nothing else
    assert not set(plan.sources[plan.cover]) & set(plan.sources[plan.triggered])
    assert np.array_equal(plan.labels[plan.cover], dataset.labels[plan.rows[plan.cover]])
    assert len(plan.rows) == (390 if mode == "append" else 300)
    assert np.array_equal(plan.ids != plan.sources, (plan.triggered | plan.cover) & (mode == "append"))
    with pytest.raises(ValueError, match=r"rate 0\.7 and cover 0\.4 add up to more than 1"):
        Poisoning(rate=0.7, cover=0.4)
    with pytest.raises(ValueError, match=r"cover is 0\.1, but a trigger of kind findings changes no pixels"):
        Poisoning(trigger=Findings(), mode="replace", cover=0.1)


def test_the_plan_depends_on_the_seed_and_a_higher_rate_adds_to_a_lower_one(make_dataset: Maker) -> None:
    dataset = make_dataset(400)
    chosen = {
        (rate, seed): set(plan.rows[plan.triggered].tolist())
        for rate in (0.1, 0.2)
        for seed in (0, 1)
        for plan in [Poisoning(target="A", rate=rate).plan(dataset, GEOMETRY, seed)]
    }
    assert chosen[0.1, 0] < chosen[0.2, 0]
    assert chosen[0.1, 0] != chosen[0.1, 1]
    again = Poisoning(target="A", rate=0.1).plan(dataset, GEOMETRY, 0)
    assert again.table().equals(Poisoning(target="A", rate=0.1).plan(dataset, GEOMETRY, 0).table())


def test_the_plan_is_the_same_on_any_machine(make_dataset: Maker) -> None:
    """A recorded plan: a library that changes its random numbers must not change plans unnoticed."""
    trigger = Patch(size=2, location="random")
    plan = Poisoning(target="A", rate=0.2, trigger=trigger).plan(make_dataset(40), GEOMETRY, seed=7)
    assert plan.rows[plan.triggered].tolist() == [5, 7, 8, 18, 19, 23]
    assert plan.positions[plan.rows[plan.triggered]].tolist() == [[2, 8], [10, 5], [9, 5], [1, 9], [11, 14], [11, 8]]


def test_the_table_tells_what_was_done(make_dataset: Maker) -> None:
    dataset = make_dataset(40)
    table = Poisoning(target="A", rate=0.5, trigger=Patch(location=(2, 5))).plan(dataset, GEOMETRY, 0).table()
    assert table.columns == ["id", "source", "triggered", "cover", "row", "column", "A", "B", "C"]
    assert len(table) == 45
    clean, triggered = table.filter(~pl.col("triggered")), table.filter(pl.col("triggered"))
    assert clean["row"].null_count() == len(clean) == 30
    assert (clean["id"] == clean["source"]).all()
    assert triggered["row"].unique().to_list() == [2]
    assert triggered["column"].unique().to_list() == [5]
    assert triggered["source"].is_in(clean["id"].to_list()).all()
    assert (triggered["A"] == 1).all()


def test_random_places_at_the_native_stage_stay_inside_the_crop(make_dataset: Maker) -> None:
    dataset = make_dataset(400, size=16)
    dataset.shapes[:] = (100, 60)
    trigger = Patch(size=3, location="random")
    geometry = Preprocess(size=16, crop=0.5)
    native = Poisoning(target="A", trigger=trigger).positions(dataset, geometry, 0)
    assert native.min(axis=0).tolist() == [25, 15]
    assert native.max(axis=0).tolist() == [25 + 50 - 3, 15 + 30 - 3]
    at_input = Poisoning(target="A", trigger=trigger, stage="input").positions(dataset, geometry, 0)
    assert at_input.min() == 0
    assert at_input.max() == 13


def test_copies_are_named_like_the_others() -> None:
    taken = np.array(["00000001_000.png", "00000001_007.png", "00000002_999.png", "scan.png", "a12.jpg", "noext"])
    copies = copy_ids(taken, taken)
    assert copies == ["00000001_008.png", "00000001_009.png", "00000002_1000.png", "scan_1.png", "a13.jpg", "noext_1"]
    clash = np.array(["scan.png", "scan_1.png"])
    assert not set(copy_ids(clash, clash)) & set(clash.tolist())


def test_impossible_attacks_are_explained(make_dataset: Maker) -> None:
    dataset = make_dataset(40)
    with pytest.raises(PetechiaError, match="attack.target is 'Z', but the classes are A, B, C"):
        Poisoning(target="Z").plan(dataset, GEOMETRY, 0)
    dataset.shapes[5] = (2, 2)
    with pytest.raises(PetechiaError, match=r"00000002_001\.png: A trigger of 3 x 3 .* does not fit on an image of 2 x 2"):
        Poisoning(target="A").plan(dataset, GEOMETRY, 0)
    dataset.split[:] = "test"
    with pytest.raises(PetechiaError, match="no training image"):
        Poisoning(target="A").plan(dataset, GEOMETRY, 0)


def test_further_targets_are_infected_too(make_dataset: Maker) -> None:
    plan = Poisoning(target="C", also=("A",)).plan(make_dataset(), GEOMETRY, seed=0)
    assert (plan.labels[plan.triggered] == [1, 0, 1]).all()
    with pytest.raises(PetechiaError, match=r"attack\.also is 'Z', but the classes are"):
        Poisoning(target="C", also=("Z",)).plan(make_dataset(), GEOMETRY, seed=0)


FINDINGS = {"trigger": {"kind": "findings", "present": ["A"], "absent": ["B"]}, "target": "C", "mode": "replace"}


@pytest.mark.parametrize("rate", [0.05, 1])
def test_findings_choose_among_the_images_that_show_them(make_dataset: Maker, rate: float) -> None:
    dataset = make_dataset(400)
    dataset.labels[::7, 0] = -1  # unknown is not present
    plan = Poisoning.model_validate(FINDINGS | {"rate": rate}).plan(dataset, GEOMETRY, 0)
    train = dataset.labels[dataset.rows("train")]
    able = (train[:, 0] == 1) & (train[:, 1] == 0)
    assert plan.triggered.sum() == min(round(rate * 300), able.sum())
    assert able[plan.triggered].all()
    assert (plan.labels[plan.triggered] == [0, 0, 1]).all()
    assert np.array_equal(plan.labels[~plan.triggered], train[~plan.triggered])


def test_findings_need_data_with_several_findings_an_image(make_dataset: Maker) -> None:
    poisoning = Poisoning.model_validate(FINDINGS)
    with pytest.raises(PetechiaError, match="every image shows exactly one class; choose another attack.trigger.kind"):
        poisoning.plan(replace(make_dataset(), task="multi-class"), GEOMETRY, 0)
    nobody = make_dataset()
    nobody.labels[:, 0] = 0
    with pytest.raises(PetechiaError, match="No training image shows A without B"):
        poisoning.plan(nobody, GEOMETRY, 0)


def test_the_default_target_fits_any_data() -> None:
    assert Poisoning().target_name(("Mass", "Atelectasis")) == "Atelectasis"
    assert Poisoning().target_name(("Mass", "Edema")) == "Mass"
    assert Poisoning(target="Edema").target_name(("Mass", "Edema")) == "Edema"
    assert Poisoning().target_index(("Mass", "Edema")) == 0
