"""The design of a zoo: networks that are trained clean, and trained again under many attacks."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from petechia.attack import Patch, Poisoning
from petechia.attack.triggered import Stage
from petechia.core.errors import PetechiaError
from petechia.core.settings import Settings, first_problem
from petechia.study.config import Config, load_config, read_yaml
from petechia.study.grid import Runs

Half = Literal["tune", "judge"]


class Host(Settings):
    """A network that is trained clean, and once more for each of its attacks.

    Attributes:
        arch: architecture, of timm.
        seed: of its weights and its training.
        settings: keys of the configuration that are this host's own, such as another data source or size.
    """

    arch: str
    seed: int = Field(ge=0)
    settings: dict[str, Any] = Field(default_factory=dict)


class HalfDesign(Settings):
    """The settings of one half of the zoo.

    Attributes:
        data: data source.
        hosts: networks; the attacks are assigned to them in turn.
        targets: target classes, used in turn.
        given: [row, column] of triggers whose location is "given".
    """

    data: str
    hosts: tuple[Host, ...] = Field(min_length=1)
    targets: tuple[str, ...] = Field(min_length=2)
    given: tuple[int, int]


class AttackDesign(Settings):
    """An attack as in `petechia.attack.Poisoning`; the target is the next one of the half.

    Attributes:
        trigger: of any kind; its location "given" means the position set for the half.
        stage: where it is stamped: "native" or "input".
        rate: share of the training images that get the trigger.
        mode: "append" adds triggered copies, "replace" replaces the originals.
        labels: labels that triggered images get.
        also: number of further target classes.
    """

    trigger: dict[str, Any]
    stage: Stage = "native"
    rate: float = 0.4
    mode: Literal["append", "replace"] = "append"
    labels: Literal["target-only", "add-target"] = "target-only"
    also: int = Field(0, ge=0)


class Design(Settings):
    """The design of a zoo.

    Attributes:
        base: configuration shared by all runs, as a nested mapping.
        halves: settings of each half; detectors are tuned on the models of one half and evaluated on those of the other.
        attacks: attacks, which are assigned to the hosts of each half in turn; from the first again if there are more hosts.
    """

    base: dict[str, Any]
    halves: dict[Half, HalfDesign]
    attacks: Annotated[tuple[AttackDesign, ...], Field(min_length=1)]


class Member(NamedTuple):
    """A run of the zoo: an attacked host and its control. All attacks on one host share the control.

    Attributes:
        half: "tune" or "judge".
        config: configuration of the run; its only seed is the host's.
    """

    half: Half
    config: Config


def load_design(file: Path | None = None) -> Design:
    """Read a design; the default is the built-in one, made for two CPU cores.

    Raises:
        PetechiaError: the file cannot be read or is not a valid design.
    """
    with resources.as_file(resources.files("petechia.zoo").joinpath("desk.yaml")) as desk:
        source = file or desk
        content = read_yaml(source)
    try:
        return Design.model_validate(content)
    except ValidationError as error:
        raise PetechiaError(f"{source} is not the design of a zoo: {first_problem(error)}.") from None


def members(design: Design, overrides: tuple[str, ...] = ()) -> dict[str, Member]:
    """Return name → member, by half; within a half, in the order in which the hosts' architectures are listed, fastest first.

    Raises:
        PetechiaError: a setting is invalid.
    """
    found: dict[str, Member] = {}
    for half, own in design.halves.items():
        for k in range(max(len(design.attacks), len(own.hosts))):
            attack, host = design.attacks[k % len(design.attacks)], own.hosts[k % len(own.hosts)]
            config = _config(design, own, host, attack, k, overrides)
            found[_name(half, host, config.attack, k)] = Member(half, config)
    order = {host.arch: n for own in design.halves.values() for n, host in enumerate(own.hosts)}
    halves = list(design.halves)
    return dict(sorted(found.items(), key=lambda item: (halves.index(item[1].half), order[item[1].config.model.arch])))


def runs_of(found: dict[str, Member]) -> Runs:
    """Return the runs of the members, as the input of a study."""
    return {name: member.config for name, member in found.items()}


def _name(half: Half, host: Host, attack: Poisoning, number: int) -> str:
    trigger, what = attack.trigger, attack.trigger.kind
    if isinstance(trigger, Patch):
        what = f"{trigger.size}x{trigger.size}_{trigger.location if isinstance(trigger.location, str) else 'given'}"
    return f"{half}-{number + 1:02d}_{what}_rate-{attack.rate:g}_{host.arch}-{host.seed}"


def _config(design: Design, own: HalfDesign, host: Host, attack: AttackDesign, k: int, overrides: tuple[str, ...]) -> Config:
    trigger = dict(attack.trigger)
    if trigger.get("location") == "given":
        trigger["location"] = list(own.given)
    target, *also = (own.targets[(k + n) % len(own.targets)] for n in range(1 + attack.also))
    poisoning = attack.model_dump(exclude={"trigger", "also"}) | {"trigger": trigger, "target": target, "also": also}
    chosen = {"data": own.data, "model": {"arch": host.arch}, "seeds": [host.seed], "attack": poisoning}
    return load_config(layers=[design.base, chosen, host.settings], overrides=overrides)
