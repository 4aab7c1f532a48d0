"""What a repair did to a model, as a record: repair.json."""

from __future__ import annotations

from math import isnan
from typing import Any, ClassVar, Self

from pydantic import Field, PrivateAttr

from petechia.core.errors import PetechiaError
from petechia.core.results import Number, Record, Result
from petechia.data.not_read import EVERYTHING_READ, NotRead
from petechia.detect.repair.known_trigger import Known
from petechia.detect.repair.methods import Method
from petechia.detect.repair.outcome import Effect, RepairOutcome, change
from petechia.measure import Count
from petechia.measure.bootstrap import interval
from petechia.models.model import Model


class ValueWithInterval(Record):
    """A number with its 95 % interval; undefined where it could not be measured.

    Attributes:
        value: the number.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    value: Number
    low: Number
    high: Number


class CountedShare(Record):
    """A share of images with Wilson's 95 % interval.

    Attributes:
        hits: images that count.
        of: all images.
        value: the share; undefined without images.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    hits: int
    of: int
    value: Number
    low: Number
    high: Number

    @classmethod
    def of_count(cls, count: Count) -> Self:
        """From the images that were counted."""
        low, high = count.interval
        return cls(hits=count.hits, of=count.trials, value=count.share, low=low, high=high)


class TriggerEffect(Record):
    """What a trigger does to a model.

    Attributes:
        trigger: the trigger.
        asr_06: of the images without the class, those that score at least 0.6 for it with the trigger. `asr_0.6` in the file.
        asr_09: the same for 0.9.
        false_trigger_06: those that score at least 0.6 for it without the trigger. `false_trigger_0.6` in the file.
        false_trigger_09: the same for 0.9.
    """

    trigger: Known
    asr_06: CountedShare = Field(alias="asr_0.6")
    asr_09: CountedShare = Field(alias="asr_0.9")
    false_trigger_06: CountedShare = Field(alias="false_trigger_0.6")
    false_trigger_09: CountedShare = Field(alias="false_trigger_0.9")

    @classmethod
    def of(cls, effect: Effect) -> Self:
        """From the counts."""
        shares = {f"asr_{p}": CountedShare.of_count(count) for p, count in effect.asr.items()}
        shares |= {f"false_trigger_{p}": CountedShare.of_count(count) for p, count in effect.false_trigger.items()}
        return cls.model_validate({"trigger": effect.trigger, **shares})


class MeasuredModel(Record):
    """A model, measured on images that it was not repaired with.

    Attributes:
        images: how many.
        auroc_nn: micro-average AUROC on clean images; undefined without labels.
        triggers: what each known trigger does.
    """

    images: int
    auroc_nn: ValueWithInterval
    triggers: tuple[TriggerEffect, ...]

    @classmethod
    def of(cls, outcome: RepairOutcome) -> Self:
        """From the measurement."""
        effects = tuple(TriggerEffect.of(effect) for effect in outcome.effects)
        return cls(images=outcome.images, auroc_nn=_with_interval(outcome.auroc, *interval(outcome.draws)), triggers=effects)


class RepairedFile(Record):
    """The model that was repaired.

    Attributes:
        file: as it was given.
        sha256: of the file; None where there is none.
    """

    file: str
    sha256: str | None


class RepairResult(Result):
    """What a repair did. File: repair.json, or NAME.repair.json beside the repaired NAME.safetensors.

    Attributes:
        petechia: version that made it.
        model: what was repaired.
        clean: where the clean images come from.
        method: how it was repaired.
        settings: of the method, with what it did.
        before: the model as it was.
        after: the repaired model, on the same images.
        auroc_nn_change: by how much the AUROC on clean images rose.
        not_read: images that lie beside the clean ones and were not read.
    """

    file_name: ClassVar[str] = "repair.json"

    schema_: int = Field(2, alias="schema")
    petechia: str
    model: RepairedFile
    clean: str
    method: Method
    settings: dict[str, Any]
    before: MeasuredModel
    after: MeasuredModel
    auroc_nn_change: ValueWithInterval
    not_read: NotRead = EVERYTHING_READ

    _model: Model | None = PrivateAttr(None)

    def keep_model(self, model: Model) -> None:
        """Keep the repaired model with the result; `save` writes it as repaired.safetensors."""
        self._model = model
        self.attach("repaired.safetensors", model.to_bytes)

    @property
    def repaired_model(self) -> Model:
        """The repaired model.

        Raises:
            PetechiaError: the result was read from its JSON file alone.
        """
        if self._model is None:
            raise PetechiaError("This result was read without its model; load the .safetensors file beside it.")
        return self._model

    def _overview(self) -> list[tuple[str, str]]:
        pairs = zip(self.before.triggers, self.after.triggers, strict=True)
        changes = [(f"ASR(0.9) for {old.trigger.target}", _arrow(old.asr_09, new.asr_09)) for old, new in pairs]
        return [
            ("model", self.model.file),
            ("method", self.method),
            *changes,
            ("AUROC-NN", _arrow(self.before.auroc_nn, self.after.auroc_nn)),
            ("measured on", f"{self.after.images:,} images that it was not repaired with"),
        ]


def auroc_change(before: RepairOutcome, after: RepairOutcome) -> ValueWithInterval:
    """By how much the AUROC on clean images rose; both on the same images."""
    return _with_interval(*change(before, after))


def _with_interval(value: float, low: float, high: float) -> ValueWithInterval:
    return ValueWithInterval(value=value, low=low, high=high)


def _arrow(before: CountedShare | ValueWithInterval, after: CountedShare | ValueWithInterval) -> str:
    return " → ".join("undefined" if isnan(one.value) else f"{one.value:.3f}" for one in (before, after))
