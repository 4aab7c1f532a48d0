"""What holds for triggers of every kind: the conformance suite on each of ours, with its defaults and with other settings."""

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from petechia.attack import Fiba, Findings, Marker, Patch, Pattern, Poisoning, Sinusoid, Trigger, Warp
from petechia.attack.triggers import TRIGGERS, BaseTrigger
from petechia.testing.triggers import (
    SHAPES,
    check_colour,
    check_description,
    check_eligibility,
    check_independence,
    check_serialisation,
    check_stamping,
)

ANY: TypeAdapter[BaseTrigger] = TypeAdapter(Trigger)
OTHERS = [
    Patch(size=5, value=255, opacity=0.3, location="random"),
    Pattern(location="random"),
    Pattern(image="noise", size=5, opacity=0.5, location=(3, 7)),
    Pattern(image="rings", size="whole", opacity=0.2),
    Warp(strength=2),
    *(Marker.model_validate({"shape": shape}) for shape in ("R", "electrode", "pacemaker")),
]
DEFAULTS: list[BaseTrigger] = [TRIGGERS[kind].model_validate({}) for kind in TRIGGERS if TRIGGERS.origin(kind) == "petechia"]
KINDS = pytest.mark.parametrize("trigger", [*DEFAULTS, *OTHERS], ids=lambda one: f"{one.kind}")


@KINDS
@pytest.mark.parametrize("shape", SHAPES)
def test_stamping_is_pure_and_keeps_shape_and_type(trigger: BaseTrigger, shape: tuple[int, ...]) -> None:
    check_stamping(trigger, shape)


@KINDS
def test_an_image_alone_is_stamped_as_in_a_batch(trigger: BaseTrigger) -> None:
    check_independence(trigger)


@KINDS
def test_grey_in_three_channels_is_stamped_as_grey(trigger: BaseTrigger) -> None:
    """The pictures of these triggers are grey. FIBA and WaNet compute channel by channel, so the same must come out."""
    check_colour(trigger, tolerance=1)  # luma of grey, rounded


@KINDS
def test_a_trigger_written_down_is_read_back(trigger: BaseTrigger) -> None:
    check_serialisation(trigger)
    check_description(trigger)


def test_a_trigger_without_a_kind_is_a_patch() -> None:
    assert ANY.validate_python({"size": 4}) == Patch(size=4)
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        ANY.validate_python({"kind": "laser"})
    with pytest.raises(ValidationError, match="Extra inputs"):
        ANY.validate_python({"kind": "sinusoid", "size": 4})


@KINDS
def test_who_carries_it(trigger: BaseTrigger) -> None:
    check_eligibility(trigger)


def test_who_carries_a_combination_of_findings() -> None:
    labels = np.array([[1, 1], [1, 0], [0, 1], [1, -1]], np.int8)
    assert Findings().shown(labels, ("Effusion", "Infiltration")).tolist() == [True, False, False, False]


def test_every_kind_of_ours_is_registered() -> None:
    assert {type(one) for one in DEFAULTS} == {Patch, Pattern, Sinusoid, Warp, Fiba, Marker, Findings}


def test_any_trigger_is_validated_as_a_union_of_all_kinds_would_be() -> None:
    """Errors, instances and the JSON Schema are those of pydantic's own union."""
    union: TypeAdapter[BaseTrigger] = TypeAdapter(Patch | Pattern | Sinusoid | Warp | Fiba | Marker | Findings)
    for wrong in ({"kind": "warp", "grid": 1, "no": 2}, {"kind": "marker", "size": 7, "location": [2, 0.5]}):
        one = TypeAdapter[BaseTrigger](TRIGGERS[str(wrong["kind"])])
        with pytest.raises(ValidationError) as raised:
            ANY.validate_python(wrong)
        with pytest.raises(ValidationError) as alone:
            one.validate_python(wrong)
        found = [(error["type"], error["loc"][1:], error["msg"]) for error in raised.value.errors()]
        assert found == [(error["type"], error["loc"], error["msg"]) for error in alone.value.errors()]
        assert {error["loc"][0] for error in raised.value.errors()} == {wrong["kind"]}
    for wrong_kind in (3, [1], None):
        with pytest.raises(ValidationError, match="Input tag .* 'kind' does not match any"):
            ANY.validate_python({"kind": wrong_kind})
    with pytest.raises(ValidationError, match="valid dictionary or object"):
        ANY.validate_python(3)
    trigger = Warp()
    assert Poisoning(trigger=trigger).trigger is trigger
    schema = ANY.json_schema()
    assert [schema["discriminator"]["mapping"][kind] for kind in TRIGGERS] == [one["$ref"] for one in schema["oneOf"]]
    assert schema["$defs"] == union.json_schema()["$defs"]


def test_a_poisoning_is_written_with_all_keys_of_its_trigger() -> None:
    attack = Poisoning(trigger=Marker(shape="R", location=(0.2, 0.3)))
    written = attack.model_dump(mode="json")
    assert written["trigger"] == {
        **{"kind": "marker", "shape": "R", "size": 0.1, "value": 240, "opacity": 0.9, "location": [0.2, 0.3], "spread": 0.02}
    }
    assert Poisoning.model_validate(written) == Poisoning.model_validate_json(attack.model_dump_json()) == attack
