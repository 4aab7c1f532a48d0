from pathlib import Path

import pytest

from petechia.attack import Patch
from petechia.core.errors import PetechiaError
from petechia.zoo.design import load_design, members


def test_the_halves_share_no_host_no_given_place_and_no_attack_with_its_target() -> None:
    found = members(load_design())
    tune, judge = ([m.config for m in found.values() if m.half == half] for half in ("tune", "judge"))
    assert len(tune) == len(judge) == 16
    assert not {(c.model.arch, c.seeds) for c in tune} & {(c.model.arch, c.seeds) for c in judge}
    assert not {c.attack.model_dump_json() for c in tune} & {c.attack.model_dump_json() for c in judge}


def test_the_zoo_holds_what_its_design_promises() -> None:
    configs = [member.config for member in members(load_design()).values()]
    assert len({(c.model.arch, c.seeds) for c in configs}) >= 12
    triggers = [c.attack.trigger for c in configs if isinstance(c.attack.trigger, Patch)]
    assert len(triggers) == len(configs)
    assert {t.size for t in triggers} >= {1, 2, 3, 4}
    assert {t.value for t in triggers} == {0, 128, 255}
    assert any(t.opacity < 1 for t in triggers)
    assert {c.attack.rate for c in configs} == {0.01, 0.05, 0.4}
    assert any(c.attack.also for c in configs)
    assert {c.attack.mode for c in configs} == {"append", "replace"}


def test_overrides_reach_every_member() -> None:
    assert {m.config.train.epochs for m in members(load_design(), ("train.epochs=1",)).values()} == {1}


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[2] / "benchmarks" / "designs").glob("*.yaml")), ids=lambda f: f.stem
)
def test_the_designs_of_the_benchmarks_are_sound_and_their_halves_share_no_images(file: Path) -> None:
    design = load_design(file)
    assert len(members(design)) == 2 * len(design.attacks)
    assert len({half.data for half in design.halves.values()}) == 2


def test_a_damaged_design_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "zoo.yaml"
    file.write_text("base: {}\nhalves: {tune: {hosts: []}}\nattacks: []\n")
    with pytest.raises(PetechiaError, match="is not the design of a zoo: halves"):
        load_design(file)
