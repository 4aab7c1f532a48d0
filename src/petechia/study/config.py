"""The configuration of a run or study: one YAML file, one pydantic model, every key can be overridden."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, field_validator

from petechia.attack import Poisoning
from petechia.attack.triggers import TRIGGERS, BaseTrigger
from petechia.core.budget import limit, read_file
from petechia.core.errors import PetechiaError, first_line, printable, shown
from petechia.core.runtime import Compute
from petechia.core.settings import Settings
from petechia.core.task import Task
from petechia.core.yaml_text import load_yaml, to_yaml
from petechia.data import Preprocess
from petechia.data.formats.locate import Missing
from petechia.data.shards import OnError
from petechia.models.model import Architecture
from petechia.models.training import Loss, Training

Arm = Literal["attacked", "control", "placebo"]
DEEPEST = 10  # sections within sections, more than there are
PRESETS = ("desk", "paper")  # desk is the defaults of `Config`: the phantom, minutes on two cores


class Config(Settings):
    """Everything that determines a run.

    Attributes:
        data: data source; see `petechia.data.open_source`.
        missing: how to handle images that a table lists but the folder lacks.
        on_error: how to handle images that cannot be decoded.
        preprocess: geometry of the victim's input.
        model: network of the victim.
        attack: poisoning of the training data.
        train: training of the victim.
        arms: models to train for each seed: "attacked"; "control", without poison; "placebo", with the plan's images and
            infected labels but no stamp.
        seeds: random seeds; each arm is trained once per seed.
        bootstrap: number of resamples of the patients, for the intervals.
        heat: number of pairs of a clean and a triggered test image to explain after training; 0 for none.
        compute: device, precision and threads.
        grid: key → values. A configuration with a grid describes a study, with one run for every combination of values.
    """

    data: str = "phantom"
    missing: Missing = "error"
    on_error: OnError = "error"
    preprocess: Preprocess = Preprocess()
    model: Architecture = Architecture()
    attack: Poisoning = Poisoning()
    train: Training = Training()
    arms: tuple[Arm, ...] = ("attacked", "control")
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = (0,)
    bootstrap: int = Field(200, ge=20, le=100_000)
    heat: int = Field(64, ge=0)
    compute: Compute = Compute()
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)

    @field_validator("seeds", mode="before")
    @classmethod
    def _one_seed(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value

    @field_validator("arms", "seeds")
    @classmethod
    def _distinct(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if not value or len(set(value)) < len(value):
            raise ValueError("give at least one value, and no value twice")
        return value

    @field_validator("grid")
    @classmethod
    def _values_for_known_keys(cls, grid: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        known = [key for key in known_keys() if key != "grid"]
        for key, values in grid.items():
            if key not in known:
                near = difflib.get_close_matches(key, known, 1, 0.4)
                raise ValueError(f"{shown(key)} is not a key" + (f"; did you mean {near[0]!r}?" if near else ""))
            if not values:
                raise ValueError(f"{shown(key)} has no values; list some, or leave it out")
        return grid

    def with_values(self, values: Mapping[str, Any], where: str = "the configuration") -> Config:
        """Return a copy with some dotted keys set.

        Raises:
            PetechiaError: a value is not allowed.
        """
        chosen: dict[str, Any] = {}
        for key, value in values.items():
            chosen = _merge(chosen, _nested(key, value))
        return make_config(_merge(self.model_dump(mode="json"), chosen), where)

    def resolved(self, classes: tuple[str, ...], task: Task) -> Config:
        """Return a copy in which everything that depends on the data is filled in.

        Args:
            classes: class names of the data.
            task: task of the data.

        Raises:
            PetechiaError: the training or the attack does not suit the task.
        """
        self.attack.check(classes, task)
        return self._with(self.train.loss_for(task, len(classes)), self.attack.target_name(classes))

    def with_defaults_from(self, found: Config) -> Config:
        """Return a copy in which everything that depends on the data is taken from a configuration resolved earlier."""
        return self._with(self.train.loss or found.train.loss, self.attack.target or found.attack.target)

    def _with(self, loss: Loss | None, target: str | None) -> Config:
        train, attack = self.train.model_copy(update={"loss": loss}), self.attack.model_copy(update={"target": target})
        return self.model_copy(update={"train": train, "attack": attack})

    def to_yaml(self) -> str:
        """Return the whole configuration as YAML, including all defaults."""
        return to_yaml(self.model_dump(mode="json"))


def load_config(
    file: Path | None = None,
    preset: str = "desk",
    data: str | None = None,
    overrides: Sequence[str] = (),
    layers: Sequence[Mapping[str, Any]] = (),
) -> Config:
    """Combine a configuration from preset, layers, file, data source and KEY=VALUE overrides; later values win.

    Raises:
        PetechiaError: a key is unknown (the nearest known one is named), or a value is not allowed.
    """
    if preset not in PRESETS:
        raise PetechiaError(f"There is no preset {preset!r}; the presets are {', '.join(PRESETS)}.")
    merged: dict[str, Any] = {}
    if preset != "desk":
        text = resources.files("petechia.study").joinpath(f"presets/{preset}.yaml").read_text(encoding="utf-8")
        merged = load_yaml(text)
    for layer in layers:
        merged = _merge(merged, layer)
    if file is not None:
        merged = _merge(merged, read_yaml(file))
    if data is not None:
        merged = _merge(merged, {"data": data})
    chosen: dict[str, Any] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise PetechiaError(f"--set {shown(override)} is not KEY=VALUE, as in --set attack.rate=0.1.")
        if key.count(".") > DEEPEST:
            raise PetechiaError(f"{shown(key)} of --set is not a key; no key has more than {DEEPEST} dots.")
        chosen = _merge(chosen, _nested(key.strip(), _scalar(override, value)))
    return make_config(_merge(merged, chosen), str(file) if file else "the configuration")


def make_config(values: Mapping[str, Any], where: str) -> Config:
    """Validate a nested mapping.

    Raises:
        PetechiaError: a key is unknown (the nearest known one is named), or a value is not allowed.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise PetechiaError(_sentence(error, where)) from None


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML file that contains a mapping.

    Raises:
        PetechiaError: the file cannot be read, or contains something else.
    """
    try:
        content = load_yaml(read_file(file, "config_bytes", "check the path of the configuration").decode())
    except PetechiaError:
        raise
    except OSError as error:
        raise PetechiaError(f"{file} cannot be read ({error.strerror}); check the path of the configuration.") from None
    except Exception as error:  # not only YAML errors: also those of int() and datetime(), and RecursionError
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}," if mark else ""
        raise PetechiaError(f"{file}{line} is not YAML ({first_line(error)}); correct it.") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise PetechiaError(f"{file} does not contain keys and values; see the README for an example.")
    if _is_endless(content):
        raise PetechiaError(
            f"{file} expands to more than {limit('config_values'):,} values through nested aliases; write them out."
        )
    return content


def _is_endless(content: Any) -> bool:
    """Return whether YAML aliases expand to too many values, or form a cycle."""
    waiting, counted = [content], 1
    while waiting:
        one = waiting.pop()
        inside = [*one, *one.values()] if isinstance(one, dict) else one if isinstance(one, list | tuple | set) else ()
        counted += len(inside)
        if counted > limit("config_values"):
            return True
        waiting.extend(inside)
    return False


def known_keys(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Yield all dotted keys of the configuration. For a section with several kinds, yield the keys of every kind."""
    for name, field in model.model_fields.items():
        yield prefix + name
        keys = (known_keys(part, f"{prefix}{name}.") for part in _parts(field.annotation))
        yield from dict.fromkeys(chain.from_iterable(keys))


def _parts(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that a field can contain."""
    if annotation is BaseTrigger:
        return list(TRIGGERS.values())
    options = get_args(annotation) or (annotation,)
    return [one for one in options if isinstance(one, type) and issubclass(one, BaseModel)]


def _merge(base: Any, top: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(top, dict)):
        return top
    if "kind" in top and top["kind"] != base.get("kind", top["kind"]):  # settings of another kind do not apply
        return top
    return base | {key: _merge(base[key], value) if key in base else value for key, value in top.items()}


def _nested(key: str, value: Any) -> dict[str, Any]:
    first, dot, rest = key.partition(".")
    return {first: _nested(rest, value) if dot else value}


def _located(location: tuple[int | str, ...]) -> tuple[str, type[BaseModel] | None]:
    """Return the dotted key of an error and, for a section with several kinds, the kind that it concerns.

    Pydantic puts the kind among the keys.
    """
    keys: list[str] = []
    parts: list[type[BaseModel]] = [Config]
    kind = None
    for step in map(str, location):
        if len(parts) > 1:
            (kind,) = parts = [one for one in parts if one.model_fields["kind"].default == step]
            continue
        keys.append(printable(step))
        field = parts[0].model_fields.get(step) if parts else None
        parts = _parts(field.annotation) if field else []
    return ".".join(keys), kind


def _scalar(override: str, value: str) -> Any:
    try:
        return load_yaml(value)
    except Exception:  # as in `read_yaml`, YAML raises many types
        raise PetechiaError(f"The value in --set {shown(override)} is not YAML; quote it.") from None


def _sentence(error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    known = list(known_keys())
    key, kind = _located(first["loc"])
    if first["type"] == "union_tag_invalid":
        return f"{key}.kind in {where} is {shown(first['input'].get('kind'))}; the kinds are {first['ctx']['expected_tags']}."
    if first["type"] == "extra_forbidden" and kind:
        keys = [name for name in kind.model_fields if name != "kind"]
        near = difflib.get_close_matches(key.rpartition(".")[2], keys, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"its keys are {', '.join(keys)}."
        return f"{key!r} in {where} is not a key of kind {kind.model_fields['kind'].default}; {hint}"
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, known, 1, 0.5) or difflib.get_close_matches(
            key.split(".")[-1], [k.split(".")[-1] for k in known], 1, 0.5
        )
        hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(k for k in known if '.' not in k)}."
        return f"{key!r} in {where} is not a key; {hint}"
    while key not in known and "." in key:  # pydantic adds the branch of a union and positions in a list
        key = key.rpartition(".")[0]
    message = first["msg"].removeprefix("Value error, ")
    return f"{key} in {where} is {shown(first['input'])}: {message[0].lower()}{printable(message[1:], 500)}."
