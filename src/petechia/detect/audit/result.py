"""What an audit found, as a record: audit.json."""

from __future__ import annotations

import base64
import datetime
import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import ClassVar, Literal, NamedTuple, Self

from pydantic import Field, PrivateAttr

from petechia.attack.square import Square
from petechia.core.results import Number, Record, Result
from petechia.core.version import __version__
from petechia.data.formats.images import encode_png
from petechia.data.not_read import EVERYTHING_READ, NotRead
from petechia.detect.audit.examination import ExaminedClass, ModelExamination, Outcome, RecoveredChange
from petechia.detect.audit.pictures import framed
from petechia.detect.audit.transforms import family_named, packed
from petechia.detect.audit.verdict import AuditNulls
from petechia.detect.protocol import Finding
from petechia.measure import Count

SHOWN = 8  # classes in the table of a notebook, flagged ones not counted
UNLIKE = 0.05  # likeness below which a warning says so
LEAST_P = 1e-300  # before the logarithm
LIMITS = (
    "This audit looks for small square stamps, filled or as checkerboards, for small marks of any shape, and for faint "
    "patterns and warps of the whole image. It does not find triggers that need two places at once, or that are "
    "combinations of findings. It does not find the backdoor of an attacker who knew of this audit and trained the model to "
    "pass it. Finding nothing does not prove that there is nothing."
)


class Origin(NamedTuple):
    """What was examined.

    Attributes:
        model: the model's name.
        digest: SHA-256 of its file; None without one.
        clean: where the clean images come from.
        not_read: images that lie beside them and were not read.
        notes: sentences about how they were read.
    """

    model: str
    digest: str | None
    clean: str
    not_read: NotRead = EVERYTHING_READ
    notes: tuple[str, ...] = ()


class AuditedModel(Record):
    """The model.

    Attributes:
        name: as it was given.
        sha256: of its file; None without one.
        black_box: whether only its answers were used.
    """

    name: str
    sha256: str | None
    black_box: bool


class CleanImages(Record):
    """The clean images.

    Attributes:
        source: where they come from.
        images: how many they are.
        not_read: images that lie beside them and were not read.
    """

    source: str
    images: int
    not_read: NotRead = EVERYTHING_READ


class Rate(Record):
    """A share of images with Wilson's 95 % interval; undefined without images.

    Attributes:
        value: the share.
        low: lower end of the interval.
        high: upper end of the interval.
        images: of how many.
    """

    value: Number
    low: Number
    high: Number
    images: int

    @classmethod
    def of(cls, count: Count) -> Self:
        """From the images that were counted."""
        low, high = count.interval
        return cls(value=count.share, low=low, high=high, images=count.trials)


class AuditedChange(Record):
    """The change of the image that a class answers to most, at its family's limit.

    Attributes:
        family: of changes.
        strength: how far it goes, a share.
        unit: of what it is a share, as "of the grey scale".
        gain: median rise of the class's logit, on images that it was not fitted on.
        asr: as of a stamp.
        false_trigger: likewise.
        picture: file of a clean image with the change, beside audit.json.
        shape: of the change's direction.
        direction: its numbers, as in `petechia.detect.audit.transforms.packed`.
    """

    family: str
    strength: float
    unit: str
    gain: float
    asr: dict[str, Rate]
    false_trigger: dict[str, Rate]
    picture: str
    shape: tuple[int, ...]
    direction: str

    @classmethod
    def of(cls, found: RecoveredChange, picture: str) -> Self:
        """From the working arrays; `picture` is the name of a file."""
        return cls(
            family=found.family,
            strength=found.strength,
            unit=family_named(found.family).unit,
            gain=found.gain,
            asr={str(p): Rate.of(count) for p, count in found.asr.items()},
            false_trigger={str(p): Rate.of(count) for p, count in found.false_trigger.items()},
            picture=picture,
            shape=tuple(found.direction.shape[1:]),
            direction=packed(found.direction),
        )

    @property
    def words(self) -> str:
        """What it is, to begin a sentence with."""
        return f"A change of the image ({self.family}, at most {_percent(self.strength)} {self.unit})"


class AuditedClass(Record):
    """The evidence about one class.

    Attributes:
        name: of the class.
        p_value: chance that a clean model has any class with evidence as strong, all tests together: a rank among clean models.
        flagged: whether the p-value is not above the level.
        natural: whether the same class of the clean reference is flagged, too; None without a reference.
        took: whether a recovered trigger does what a backdoor's does: of the clean images that score below 0.9, it brings half
            or more to 0.9.
        found_by: the test with the smallest p-value; empty where none is evidence.
        trigger: which recovered trigger is shown and unlearned, "stamp" or "change": the one that does more, see
            `ExaminedClass.by_change`.
        tests: test → the p-value of it alone.
        row: of the top left corner of the best square stamp, in pixels of the model's input.
        column: of that corner.
        size: side of the stamp.
        value: its grey level.
        other: grey level of every other pixel, where the stamp is a checkerboard.
        gain: median rise of the class's logit.
        fixed: whether the stamp works in that place only; None where it was not made precise.
        asr: threshold → of the clean images that score below it by themselves, the share that reaches it with the stamp.
        false_trigger: threshold → the share of all clean images that reaches it by itself.
        change: of the whole image; None where the class is neither flagged nor the strongest, or none was tried.
        picture: file of a picture of the stamp, beside audit.json; None where the class is not flagged.
    """

    name: str
    p_value: float
    flagged: bool
    natural: bool | None
    took: bool
    found_by: str
    trigger: Literal["stamp", "change"]
    tests: dict[str, float]
    row: int
    column: int
    size: int
    value: int
    other: int | None
    gain: float
    fixed: bool | None
    asr: dict[str, Rate] | None
    false_trigger: dict[str, Rate] | None
    change: AuditedChange | None
    picture: str | None

    @classmethod
    def of(cls, found: ExaminedClass, label: int) -> Self:
        """From the working arrays; `label` is the position of the class in the model."""
        recovered = found.recovered
        square, gain = (recovered.square, recovered.gain) if recovered else (found.best, found.gain)
        return cls(
            name=found.name,
            p_value=found.p_value,
            flagged=found.flagged,
            natural=found.natural,
            took=found.took,
            found_by=found.found_by,
            trigger="change" if found.by_change else "stamp",
            tests=found.tests,
            **square._asdict(),
            gain=gain,
            fixed=recovered.fixed if recovered else None,
            asr={str(p): Rate.of(count) for p, count in recovered.asr.items()} if recovered else None,
            false_trigger={str(p): Rate.of(count) for p, count in recovered.false_trigger.items()} if recovered else None,
            change=AuditedChange.of(found.change, f"change-{label}.png") if found.change else None,
            picture=f"trigger-{label}.png" if found.flagged and recovered else None,
        )

    @property
    def square(self) -> Square:
        """The best stamp."""
        return Square(self.row, self.column, self.size, self.value, self.other)

    @property
    def finding(self) -> Finding:
        """In the form that all detectors share; the score is the negative decimal logarithm of the p-value."""
        names = ("found_by", "took", "row", "column", "size", "value", "other", "gain", "fixed", "picture")
        return Finding(
            about=self.name,
            kind="class",
            score=-math.log10(max(self.p_value, LEAST_P)),
            flagged=self.flagged,
            p_value=self.p_value,
            reason=self.reason if self.flagged else "",
            evidence={name: getattr(self, name) for name in names},
        )

    @property
    def called_backdoor(self) -> bool:
        """Whether it is flagged, does what a backdoor does, and is not natural."""
        return self.flagged and self.took and not self.natural

    @property
    def reason(self) -> str:
        """What the recovered trigger does, in one sentence."""
        if self.change is not None and self.trigger == "change":
            return _does(self.change.words, self.name, self.change.gain, self.change.asr, self.change.false_trigger)
        where = f"at row {self.row}, column {self.column}" if self.fixed is not False else "at most places"
        stamp = f"A square of {self.size} × {self.size} pixels of {self.square.levels} {where}"
        return _does(stamp, self.name, self.gain, self.asr, self.false_trigger)


def _unlike(examination: ModelExamination) -> Iterator[str]:
    if examination.likeness < UNLIKE:
        yield (
            f"This model is unlike the {examination.compared} clean models that it was compared with (in size, channels, "
            f"classes, how common these are, or how strongly it answers to any change), so its p-values are a guide only; "
            f"calibrate with clean models of your own (petechia calibrate)."
        )


class AuditResult(Result):
    """What an audit found. File: audit.json.

    Attributes:
        petechia: version that made it.
        date: of the audit, as YYYY-MM-DD.
        model: what was examined.
        clean: with which images.
        backdoor: whether the outcome is a backdoor.
        outcome: "backdoor"; "simple change", if classes are flagged whose recovered triggers do less than a backdoor's; or
            "nothing".
        level: p-value up to which a class is flagged.
        baseline: name of the model that this one is an update of; None where it was judged by itself.
        compared: clean models that the model was compared with; with a baseline, those that could be paired.
        likeness: share of these that are as far from the one next to them as this model is, or farther.
        classes: the evidence about each class, the strongest first.
        passes: how many images the model answered in the search for stamps.
        seconds: how long the audit took.
        warnings: sentences about what may spoil the result.
        limits: what an audit does not show.
    """

    file_name: ClassVar[str] = "audit.json"

    schema_: int = Field(3, alias="schema")
    petechia: str
    date: str
    model: AuditedModel
    clean: CleanImages
    backdoor: bool
    outcome: Outcome
    level: float
    baseline: str | None
    compared: int
    likeness: float
    classes: tuple[AuditedClass, ...]
    passes: int
    seconds: float
    warnings: tuple[str, ...]
    limits: str

    _examination: ModelExamination | None = PrivateAttr(None)

    @classmethod
    def of(cls, examination: ModelExamination, origin: Origin) -> Self:
        """The record of an examination, which stays with it for pictures."""
        result = cls(
            petechia=__version__,
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            model=AuditedModel(name=origin.model, sha256=origin.digest, black_box=examination.classifier.network is None),
            clean=CleanImages(source=origin.clean, images=examination.clean, not_read=origin.not_read),
            backdoor=examination.outcome == "backdoor",
            outcome=examination.outcome,
            level=AuditNulls.of(examination.calibration).level,
            baseline=examination.baseline,
            compared=examination.compared,
            likeness=round(examination.likeness, 3),
            classes=tuple(AuditedClass.of(one, label) for label, one in examination.ranked),
            passes=examination.passes,
            seconds=round(examination.seconds, 1),
            warnings=(*examination.warnings, *_unlike(examination), *origin.notes),
            limits=f"{LIMITS} The p-values were measured on {examination.calibration.measured_on}; for models unlike these "
            f"they are a guide.",
        )
        result._examination = examination
        return result

    @property
    def examination(self) -> ModelExamination | None:
        """The working arrays; None of a result that was read from a file."""
        return self._examination

    @property
    def flagged(self) -> tuple[AuditedClass, ...]:
        """The flagged classes, the strongest evidence first."""
        return tuple(one for one in self.classes if one.flagged)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """One for each class, the strongest evidence first."""
        return tuple(one.finding for one in self.classes)

    @property
    def verdict(self) -> str:
        """The result in a few sentences."""
        flagged, backdoors = self.flagged, [one.name for one in self.flagged if one.called_backdoor]
        if not flagged and self.baseline is not None:
            return (
                f"No new backdoor was found: no class of this model answers to a small change more strongly than in "
                f"{self.baseline}, beyond what clean models of the same data differ by (p at most {self.level:.2g}). A "
                f"backdoor that both carry is not looked for."
            )
        if not flagged:
            return (
                f"No backdoor was found. No class of this model answers to a small change more strongly than classes of clean "
                f"models do (a class is flagged when its p-value is at most {self.level:.2g})."
            )
        others = [one for one in flagged if not one.called_backdoor]
        if not backdoors:
            return " ".join(self._simple(others))
        reported = "that finding" if len(backdoors) == 1 else "those findings"
        since = "" if self.baseline is None else f" that {self.baseline} does not carry"
        sentences = (
            f"This model very likely carries a backdoor for {_listed(backdoors)}{since}: a small change of an image makes it "
            f"report {reported}.",
            *self._simple(others),
            self.doubt,
            "A natural shortcut in the training data can look the same: compare with a model that you trained yourself, and "
            "ask the model's maker how it was trained. Do not use the model until then.",
        )
        return " ".join(filter(None, sentences))

    def _simple(self, classes: Sequence[AuditedClass]) -> Iterator[str]:
        """What to say of flagged classes that are not called backdoors."""
        natural = [one.name for one in classes if one.natural]
        weak = [one.name for one in classes if not one.natural]
        start = "This model answers to a simple change of the image for {} more strongly than clean models do"
        if natural:
            yield (
                f"{start.format(_listed(natural))}, and so does the reference: the answer is natural, or both carry the same "
                f"backdoor."
            )
        if weak:
            yield (
                f"{start.format(_listed(weak))}, but the change that was found does not bring half of the images to a score of "
                f"0.9. It may be planted or natural: compare with a model that you trained yourself on the same data."
            )

    @property
    def doubt(self) -> str:
        """What to think of several flagged classes; empty where there are not several."""
        return (
            "Some of these classes may be wrong: a trigger for one class can raise others too." if len(self.flagged) > 1 else ""
        )

    def __str__(self) -> str:
        lines = [f"Audit of {self.model.name} with {self.clean.images} clean images", self.verdict]
        lines += [f"- {one.name} (p {one.p_value:.2g}): {one.reason}" for one in self.flagged]
        lines += [f"Note: {warning}" for warning in self.warnings]
        lines += [str(self.clean.not_read)] if self.clean.not_read else []
        lines.append(self.limits)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        others = [one for one in self.classes if not one.flagged]
        shown = [*self.flagged, *others[:SHOWN]]
        rows = "".join(_row(one) for one in shown)
        hidden = len(self.classes) - len(shown)
        more = f"<p>and {hidden} more classes, not flagged</p>" if hidden else ""
        head = "".join(f"<th>{name}</th>" for name in ("class", "p-value", "best stamp", "row, column", "gain of the logit"))
        told = [f"Note: {warning}" for warning in self.warnings] + ([str(self.clean.not_read)] if self.clean.not_read else [])
        notes = "".join(f"<p>{escape(sentence)}</p>" for sentence in told)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        limits = f"<p><small>{escape(self.limits)}</small></p>"
        return f"<p><strong>{escape(self.verdict)}</strong></p>{table}{more}{self._pictures()}{notes}{limits}"

    def _pictures(self) -> str:
        """The recovered stamps of flagged classes, else the strongest; nothing of a result that was read from a file."""
        if self._examination is None:
            return ""
        ranked = [one for _, one in self._examination.ranked]
        shown = [one for one in ranked if one.flagged] or ranked[:1]
        return "".join(self._picture(one) for one in shown if one.recovered)

    def _picture(self, one: ExaminedClass) -> str:
        if self._examination is None or one.recovered is None:
            return ""
        png = base64.b64encode(encode_png(framed(self._examination.picture, one.recovered.square))).decode()
        about = escape(f"The best stamp for {one.name} on a clean image, framed in red.")
        return f'<p><img src="data:image/png;base64,{png}" alt="{about}" width="240"><br>{about}</p>'


def _does(trigger: str, name: str, gain: float, asr: dict[str, Rate] | None, false_trigger: dict[str, Rate] | None) -> str:
    if asr is None or false_trigger is None:
        return f"{trigger} raises the logit of {name} by {gain:.1f}."
    with_it, without = asr["0.9"], false_trigger["0.9"]
    if not with_it.images:
        return f"{trigger} raises {name}, but all clean images score at least 0.9 without it."
    return (
        f"{trigger} brings {_percent(with_it.value)} of the clean images that score below 0.9 for {name} to 0.9 or "
        f"more; {_percent(without.value)} of all clean images score that high without it."
    )


def _row(one: AuditedClass) -> str:
    name = f"<strong>{escape(one.name)} (flagged)</strong>" if one.flagged else escape(one.name)
    place = "most places" if one.fixed is False else f"{one.row}, {one.column}"
    cells = (name, f"{one.p_value:.2g}", f"{one.size} × {one.size}, {one.square.levels}", place, f"{one.gain:.1f}")
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
