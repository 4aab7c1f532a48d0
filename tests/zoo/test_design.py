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
    assert len(members(design)) == sum(max(len(design.attacks), len(half.hosts)) for half in design.halves.values())
    assert len({half.data for half in design.halves.values()}) == len(design.halves)


def test_a_damaged_design_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "zoo.yaml"
    file.write_text("base: {}\nhalves: {tune: {hosts: []}}\nattacks: []\n")
    with pytest.raises(PetechiaError, match="is not the design of a zoo: halves"):
        load_design(file)


def test_every_host_is_trained_if_there_are_fewer_attacks(tmp_path: Path) -> None:
    file = tmp_path / "zoo.yaml"
    hosts = ", ".join(f"{{arch: test_resnet, seed: {seed}}}" for seed in range(3))
    half = f"{{data: 'phantom:images=100', hosts: [{hosts}], targets: [Edema, Mass], given: [2, 4]}}"
    file.write_text(f"base: {{arms: [control]}}\nhalves: {{tune: {half}}}\nattacks: [{{trigger: {{size: 2}}}}]\n")
    assert [member.config.seeds for member in members(load_design(file)).values()] == [(0,), (1,), (2,)]


def test_any_trigger_and_a_host_with_settings_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "zoo.yaml"
    file.write_text(
        """
base: {arms: [attacked], train: {epochs: 1}}
halves:
  tune:
    data: phantom:images=100
    hosts:
      - {arch: resnet18, seed: 0}
      - {arch: test_resnet, seed: 1, settings: {data: "phantom:images=50", preprocess: {size: 32}}}
    targets: [Edema, Mass]
    given: [20, 44]
attacks:
  - {trigger: {kind: sinusoid, frequency: 4}, stage: input}
  - {trigger: {kind: pattern, image: checkerboard, location: given}}
  - {trigger: {size: 2, location: [3, 5]}}
"""
    )
    found = members(load_design(file))
    assert set(found) == {
        "tune-01_sinusoid_rate-0.4_resnet18-0",
        "tune-02_pattern_rate-0.4_test_resnet-1",
        "tune-03_2x2_given_rate-0.4_resnet18-0",
    }
    wave, board, square = (found[name].config for name in sorted(found))
    assert (wave.attack.trigger.kind, wave.attack.stage, wave.data) == ("sinusoid", "input", "phantom:images=100")
    assert (board.data, board.preprocess.size, board.model.arch) == ("phantom:images=50", 32, "test_resnet")
    assert board.attack.trigger.model_dump()["location"] == (20, 44)
    assert square.attack.trigger.model_dump()["location"] == (3, 5)


def test_a_trigger_that_is_none_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "zoo.yaml"
    half = "{data: phantom, hosts: [{arch: resnet18, seed: 0}], targets: [Edema, Mass], given: [1, 2]}"
    file.write_text(f"base: {{}}\nhalves: {{tune: {half}}}\nattacks: [{{trigger: {{kind: swirl}}}}]\n")
    with pytest.raises(PetechiaError, match="swirl"):
        members(load_design(file))
