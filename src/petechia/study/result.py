"""The result of a finished run: the content of summary.json, typed."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError

from petechia.core.errors import PetechiaError
from petechia.core.files import refuse_links
from petechia.core.results import Number, Record, Result
from petechia.core.settings import first_problem
from petechia.data.not_read import EVERYTHING_READ, NotRead
from petechia.study.directory import RunDirectory, read_json

Statistic = Literal["last", "min", "max"]


class Estimate(Record):
    """A metric over seeds; NaN if undefined.

    Attributes:
        mean: mean over the seeds.
        std: sample standard deviation over the seeds; NaN for one seed.
        low: lower end of the 95 % bootstrap interval of the mean.
        high: upper end of the interval.
    """

    mean: Number
    std: Number
    low: Number
    high: Number


class Metric(Record):
    """A metric at the last epoch, and its extremes over all epochs."""

    last: Estimate
    min: Estimate
    max: Estimate

    def at(self, statistic: Statistic) -> Estimate:
        """Return one of the three estimates."""
        found: Estimate = getattr(self, statistic)
        return found


class TrainSurvival(Record):
    """How many triggered images differ from their clean originals, and in how many pixels.

    Attributes:
        fraction: share of the triggered images that differ from their clean originals.
        pixels: mean number of pixels that differ.
    """

    fraction: Number
    pixels: Number


class SizeSurvival(TrainSurvival):
    """Survival of a trigger of one size, in pixels a side; computed from the geometry."""

    size: int


class RunSurvival(TrainSurvival):
    """How much of the trigger is left in the inputs of the model.

    Attributes:
        fraction: share of the triggered test images that differ from their clean originals.
        pixels: mean number of pixels that differ.
        train: survival on the triggered training images.
        by_size: survival of other sizes of the trigger.
        applies: false if the trigger changes no pixel.
    """

    train: TrainSurvival
    by_size: tuple[SizeSurvival, ...]
    applies: bool = True


class ImageCounts(Record):
    """Numbers of images.

    Attributes:
        train: clean training images.
        poisoned_train: images in the poisoned training set.
        triggered_train: images in it that carry the trigger.
        cover_train: cover images in it.
        validation: images held out of training.
        test: test images.
        triggered_test: test images that can carry the trigger.
        test_without_target: of these, images that do not show the target class.
        native_shape: most frequent height and width of the files, in pixels.
        test_patients: patients in the test set.
    """

    train: int
    poisoned_train: int
    triggered_train: int
    cover_train: int = 0
    validation: int
    test: int
    triggered_test: int
    test_without_target: int
    native_shape: tuple[int, int]
    test_patients: int


class Run(Result):
    """A finished run. File: summary.json.

    Attributes:
        petechia: version of Petechia that made the run.
        data: data source.
        target: target class.
        trigger: description of the trigger.
        seeds: random seeds.
        images: numbers of images.
        arms: "attacked", "control", "placebo" → metric → its values. Metrics are asr_0.6, asr_0.9, false_trigger_0.6,
            false_trigger_0.9, auroc_nn, auroc_tt, auroc_tn; in a multi-class task also accuracy and balanced_accuracy.
        survival: how much of the trigger is left after preprocessing.
        seconds: phase → seconds.
        not_read: images that lie beside the run's and were not read.

    Examples:
        >>> run = petechia.run({"data": "phantom:images=400"})  # doctest: +SKIP
        >>> rate = run.arms["attacked"]["asr_0.9"].last.mean  # doctest: +SKIP
    """

    file_name: ClassVar[str] = "summary.json"

    schema_: int = Field(2, alias="schema")
    petechia: str
    data: str
    target: str
    trigger: str
    seeds: tuple[int, ...]
    images: ImageCounts
    arms: dict[str, dict[str, Metric]]
    survival: RunSurvival
    seconds: dict[str, float]
    not_read: NotRead = EVERYTHING_READ

    _directory: RunDirectory | None = PrivateAttr(None)

    @classmethod
    def read(cls, directory: RunDirectory) -> Self:
        """Read the result in a run directory.

        Raises:
            PetechiaError: the result is missing or damaged.
        """
        refuse_links(directory.path)
        content = read_json(directory.summary)
        try:
            found = cls.model_validate(content)
        except ValidationError as error:
            raise PetechiaError(
                f"{directory.summary} is missing or damaged ({first_problem(error)}); restore it, or start a new run in "
                f"another folder."
            ) from None
        found._directory = directory
        return found

    @property
    def directory(self) -> RunDirectory:
        """The files of the run.

        Raises:
            PetechiaError: the result was read from its JSON file alone.
        """
        if self._directory is None:
            raise PetechiaError("This result was read without its run directory; open the directory with Run.read.")
        return self._directory

    def verdict_line(self) -> str:
        """Return ASR(0.9) of every arm as a short text."""
        rates = (f"{arm} {metrics['asr_0.9'].last.mean:.3f}" for arm, metrics in self.arms.items())
        return f"ASR(0.9): {', '.join(rates)}"

    def _overview(self) -> list[tuple[str, str]]:
        rows = [("data", self.data), ("trigger", self.trigger), ("target class", self.target)]
        if self.survival.applies:
            rows.append(("trigger survival", _percent(self.survival.fraction)))
        names = {"asr_0.9": "ASR(0.9)", "false_trigger_0.9": "false-trigger rate (0.9)", "auroc_nn": "AUROC-NN"}
        for key, name in names.items():
            values = (f"{arm} {metrics[key].last.mean:.3f}" for arm, metrics in self.arms.items() if key in metrics)
            rows.append((name, ", ".join(values)))
        return [*rows, ("not looked at", f"{self.not_read.images:,} images")] if self.not_read.images else rows


def _percent(share: float) -> str:
    return "undefined" if share != share else f"{100 * share:.1f} %"  # noqa: PLR0124 (NaN)
