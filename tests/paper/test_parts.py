import pytest

from petechia.attack import Patch, probe_survival
from petechia.core.errors import PetechiaError
from petechia.paper.parts import PARTS, Cell, cells_of, heat_cell, load_design, runs_of
from petechia.paper.published import SIZES, in_table_1


@pytest.mark.parametrize("preset", ["desk", "paper"])
def test_the_geometry_of_a_preset_lets_two_sizes_die_and_two_live_as_in_the_paper(preset: str) -> None:
    design = load_design(preset)
    for cell, config in [*runs_of(["table-1", "figure-1"], design, None, []).items()]:
        size = int(config.data.partition("size=")[2])
        survival = probe_survival(config.attack.trigger, config.preprocess, size, size, config.attack.stage)
        assert isinstance(config.attack.trigger, Patch)
        expected = (0, 0, 1, 4) if config.attack.stage == "native" else (1, 4, 9, 16)
        assert survival.pixels == expected[config.attack.trigger.size - 1], cell


def test_the_desk_loses_as_much_at_random_places_as_the_paper() -> None:
    fractions = {}
    for preset, size in (("desk", 292), ("paper", 1024)):
        configs = [config for name, config in runs_of(["table-2"], load_design(preset), None, []).items() if "random" in name]
        survivals = [probe_survival(one.attack.trigger, one.preprocess, size, size, "native") for one in configs]
        fractions[preset] = [survival.fraction for survival in survivals]
    assert len(fractions["desk"]) == 4
    assert fractions["desk"] == pytest.approx(fractions["paper"], abs=0.05)


def test_every_part_has_the_runs_that_it_shows() -> None:
    design = load_design("desk")
    assert {cell.size for cell in cells_of("table-1", design)} == set(SIZES)
    variants = {(cell.loss, cell.place) for cell in cells_of("table-1", design)}
    assert variants == {("bce", "center"), ("sigmoid-cce", "center"), ("bce", "input")}
    assert {cell.place for cell in cells_of("table-2", design)} == {"center", "random"}
    assert {cell.size for cell in cells_of("table-3", design)} == {3, 4}
    assert cells_of("figure-1", design) == [heat_cell(design)]
    rates = {cell.rate for cell in cells_of("figure-3", design)}
    assert rates == {None, *design.rates}
    every = runs_of(PARTS, design, None, [])
    assert len(every) == len({cell for part in PARTS for cell in cells_of(part, design)})
    assert every["bce_random_2x2"].attack.trigger == Patch(size=2, location="random")
    assert every["bce_center_3x3"].arms == ("attacked", "control", "placebo")
    assert every["bce_center_3x3_rate-0.05"].attack.rate == 0.05


def test_the_paper_preset_is_the_authors_pipeline() -> None:
    runs = runs_of(["table-1"], load_design("paper"), "nih:/data", [])
    config = runs["sigmoid-cce_center_3x3"]
    assert config.data == "nih:/data"
    assert (config.train.schedule, config.train.lr, config.train.batch_size) == ("plateau", 1e-3, 32)
    assert (config.train.class_weights, config.train.flip, config.train.rotate) == ("frequency", True, 10)
    assert config.model.pretrained is True
    assert config.seeds == (0, 1, 2, 3)
    assert {one.train.loss for one in runs.values()} == {"sigmoid-cce", "bce"}


def test_overrides_reach_every_run_but_not_what_the_parts_choose() -> None:
    design = load_design("desk")
    runs = runs_of(PARTS, design, "phantom:images=50", ["train.epochs=2", "seeds=[7, 8]", "attack.target=Mass"])
    assert {(one.train.epochs, one.attack.target, one.data) for one in runs.values()} == {(2, "Mass", "phantom:images=50")}
    assert {one.seeds for one in runs.values()} == {(7, 8), (7,)}  # rates and heat: the first seed alone
    for override in (
        "attack.trigger.size=3",
        "train.loss=bce",
        "grid={}",
        "attack.trigger={size: 2}",
        "attack.trigger.kind=warp",
        "arms=[attacked]",
    ):
        with pytest.raises(PetechiaError, match="set .* themselves"):
            runs_of(PARTS, design, None, [override])
    with pytest.raises(PetechiaError, match="no preset 'lab'"):
        load_design("lab")


def test_names_are_folders_and_distinct() -> None:
    assert Cell("bce", "center", 3, 0.01).name == "bce_center_3x3_rate-0.01"
    assert Cell("bce", "center", 3, heat=True).name == "heat_bce_center_3x3"


def test_the_published_numbers_are_those_of_table_1() -> None:
    value = in_table_1("auroc_tn", 3)
    assert value is not None
    assert str(value) == "0.704 ± 0.038"
    assert str(in_table_1("asr_0.9", 0)) == "0.268 ± 0.194"
    assert in_table_1("false_trigger_0.9", 1) is None
