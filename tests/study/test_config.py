from pathlib import Path

import pytest
import yaml

from petechia.attack import Patch, Sinusoid
from petechia.core.errors import PetechiaError
from petechia.study import Config, load_config
from petechia.study.config import known_keys

DESIGN = """
data: nih:/data/ChestX-ray14
preprocess: {crop: 0.6, size: 224, resample: nearest}
model: {arch: densenet121, pretrained: true}
attack:
  trigger: {kind: patch, size: 3, value: 0, location: center}
  stage: native
  target: Atelectasis
  rate: 0.4
  mode: append
  labels: target-only
train: {epochs: 12, batch_size: 32, loss: bce, optimizer: adam, lr: 1.0e-3, schedule: plateau}
seeds: [0, 1, 2, 3]
"""


def test_the_published_keys_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(DESIGN)
    config = load_config(tmp_path / "c.yaml")
    assert config.preprocess.crop == 0.6
    assert config.model.pretrained is True
    assert config.seeds == (0, 1, 2, 3)
    for key, value in (("loss", "sigmoid-cce"), ("schedule", "one-cycle")):
        assert getattr(load_config(overrides=[f"train.{key}={value}"]).train, key) == value
    for location in ("center", "random", [3, 4]):
        trigger = load_config(overrides=[f"attack.trigger.location={location}"]).attack.trigger
        assert trigger == Patch.model_validate({"location": location})


def test_later_sources_win(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("data: nih:/a\nattack: {rate: 0.1, trigger: {size: 2}}\n")
    config = load_config(tmp_path / "c.yaml", preset="paper", data="phantom", overrides=["attack.rate=0.2", "seeds=[5]"])
    assert config.data == "phantom"
    assert config.attack.rate == 0.2
    assert config.attack.trigger == Patch(size=2)
    assert config.preprocess.size == 224
    assert config.seeds == (5,)


def test_the_written_configuration_is_complete_and_reads_back(tmp_path: Path) -> None:
    config = load_config(overrides=["attack.trigger.location=[3, 4]", "model.pretrained=w.safetensors", "train.validation=0.2"])
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "c.yaml") == config
    content = yaml.safe_load(config.to_yaml())
    assert set(content) == set(Config.model_fields)
    assert content["attack"]["trigger"] == {"kind": "patch", "size": 3, "value": 0, "opacity": 1.0, "location": [3, 4]}


def test_desk_is_what_the_defaults_say() -> None:
    assert load_config() == Config()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("attack.rat=0.1", "'attack.rat' in the configuration is not a key; did you mean 'attack.rate'"),
        ("atack.rate=0.1", "'atack' .* did you mean 'attack'"),
        ("trigger.size=1", "'trigger' .* did you mean 'attack.trigger'"),
        ("epochs=3", "did you mean 'train.epochs'"),
        ("zzz=3", "is not a key; the keys are data, missing"),
        ("attack.rate=1.5", "attack.rate .* is 1.5: input should be less than or equal to 1"),
        ("attack.rate=-0.1", "greater than or equal to 0"),
        ("attack.rate=high", "attack.rate .* is 'high'"),
        ("attack.trigger.size=0", "attack.trigger.size .* is 0"),
        ("attack.trigger.location=left", "attack.trigger.location .* is 'left'"),
        ("attack.mode=add", "'append' or 'replace'"),
        ("preprocess.crop=0", "preprocess.crop"),
        ("train.batch_size=1", "train.batch_size"),
        ("seeds=[]", "seeds .* give at least one"),
        ("seeds=[1, 1]", "no value twice"),
        ("seeds=[-1]", "seeds .* greater than or equal to 0"),
        ("arms=[control, control]", "no value twice"),
        ("arms=[placcebo]", "'placebo'"),
        ("rate", "is not KEY=VALUE"),
        ("seeds=[1", "is not YAML"),
        ("attack=3", "attack in the configuration is 3"),
    ],
)
def test_bad_keys_and_values_get_a_sentence(override: str, said: str) -> None:
    with pytest.raises(PetechiaError, match=said):
        load_config(overrides=[override])


def test_bad_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    with pytest.raises(PetechiaError, match=r"c\.yaml cannot be read"):
        load_config(path)
    path.write_text("attack:\n  rate: [0.1\n")
    with pytest.raises(PetechiaError, match=r"c\.yaml, line 3, is not YAML"):
        load_config(path)
    path.write_text("- a\n- b\n")
    with pytest.raises(PetechiaError, match="does not contain keys"):
        load_config(path)
    path.write_text("atack: {}\n")
    with pytest.raises(PetechiaError, match=r"'atack' in .*c\.yaml is not a key"):
        load_config(path)
    path.write_text("!!python/object/apply:os.system ['touch /tmp/never']")
    with pytest.raises(PetechiaError, match="is not YAML"):
        load_config(path)
    path.write_text("")
    assert load_config(path) == Config()
    with pytest.raises(PetechiaError, match="no preset 'lab'"):
        load_config(preset="lab")


def test_known_keys_reach_the_leaves() -> None:
    assert {"data", "attack.trigger.size", "train.lr", "compute.device"} <= set(known_keys())


@pytest.mark.parametrize("order", [1, -1])
def test_another_kind_of_trigger_has_its_own_keys(order: int) -> None:
    overrides = ["attack.trigger.kind=sinusoid", "attack.trigger.frequency=3"][::order]
    assert load_config(preset="paper", overrides=overrides).attack.trigger == Sinusoid(frequency=3)
    values = {"attack.trigger.kind": "sinusoid", "attack.trigger.frequency": 3}
    assert load_config().with_values(dict([*values.items()][::order])).attack.trigger == Sinusoid(frequency=3)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["kind=sinusoid", "size=3"],
            "'attack.trigger.size' in .* is not a key of kind sinusoid; its keys are amplitude",
        ),
        (["kind=warp", "strenght=3"], "'attack.trigger.strenght' in .* is not a key of kind warp; did you mean 'strength'"),
        (["sise=3"], "'attack.trigger.sise' in .* is not a key of kind patch; did you mean 'size'"),
        (["kind=laser"], "attack.trigger.kind in .* is 'laser'; the kinds are 'patch', 'pattern'"),
        (["kind=pattern", "size=0"], "attack.trigger.size in .* is 0: input should be greater than 0"),
        (["kind=marker", "size=7"], "attack.trigger.size in .* is 7: input should be less than or equal to 0.5"),
    ],
)
def test_mistakes_in_triggers_are_explained(overrides: list[str], sentence: str) -> None:
    with pytest.raises(PetechiaError, match=sentence):
        load_config(overrides=[f"attack.trigger.{one}" for one in overrides])


def test_a_target_that_is_left_open_is_resolved_and_resumed() -> None:
    config = load_config()
    assert config.attack.target is None
    resolved = config.resolved(("Mass", "Edema"), "multi-label")
    assert resolved.attack.target == "Mass"
    assert config.with_defaults_from(resolved) == resolved
