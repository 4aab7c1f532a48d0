"""What a finished run says: the content of summary.json, typed."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import PrivateAttr, ValidationError

from petechia.core.errors import PetechiaError
from petechia.core.results import Number, Record, Result
from petechia.core.settings import first_problem
from petechia.study.directory import RunDirectory, read_json

Statistic = Literal["last", "min", "max"]


class Estimate(Record):
    """A metric over seeds; NaN where it is undefined.

    Attributes:
        mean: over the seeds.
        std: sample standard deviation over the seeds; NaN for one seed.
        low: lower end of the 95 % bootstrap interval of the mean.
        high: upper end of the same.
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
        """One of the three."""
        found: Estimate = getattr(self, statistic)
        return found


class TrainSurvival(Record):
    """The share of triggered images that differ from their clean originals, and in how many pixels on average."""

    fraction: Number
    pixels: Number


class SizeSurvival(TrainSurvival):
    """The same for a trigger of one size, in pixels a side; from the geometry."""

    size: int


class RunSurvival(TrainSurvival):
    """What is left of the trigger in the inputs of the model.

    Attributes:
        fraction: share of the triggered test images that differ from their clean originals.
        pixels: in how many pixels they differ, on average.
        train: the same for the triggered training images.
        by_size: the same for other sizes of the trigger.
        applies: false where the trigger changes no pixel.
    """

    train: TrainSurvival
    by_size: tuple[SizeSurvival, ...]
    applies: bool = True


class ImageCounts(Record):
    """How many images there were.

    Attributes:
        train: clean training images.
        poisoned_train: images in the poisoned training set.
        triggered_train: of these, images that carry the trigger.
        cover_train: of these, cover images.
        validation: images held out of training.
        test: test images.
        triggered_test: test images that can carry the trigger.
        test_without_target: of these, images that do not show the target class.
        native_shape: most frequent height and width of the files, in pixels.
        test_patients: patients of the test images.
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
        petechia: version that made it.
        data: the data source.
        target: the target class.
        trigger: in words.
        seeds: one set of arms each.
        images: how many there were.
        arms: "attacked", "control", "placebo" → metric → its values. Metrics are asr_0.6, asr_0.9, false_trigger_0.6,
            false_trigger_0.9, auroc_nn, auroc_tt, auroc_tn; of a multi-class task also accuracy and balanced_accuracy.
        survival: what is left of the trigger.
        seconds: phase → seconds.

    Example:
        >>> run = petechia.run({"data": "phantom:images=400"})  # doctest: +SKIP
        >>> rate = run.arms["attacked"]["asr_0.9"].last.mean  # doctest: +SKIP
    """

    file_name: ClassVar[str] = "summary.json"

    petechia: str
    data: str
    target: str
    trigger: str
    seeds: tuple[int, ...]
    images: ImageCounts
    arms: dict[str, dict[str, Metric]]
    survival: RunSurvival
    seconds: dict[str, float]

    _directory: RunDirectory | None = PrivateAttr(None)

    @classmethod
    def read(cls, directory: RunDirectory) -> Self:
        """The result in a run directory.

        Raises:
            PetechiaError: it is missing or damaged.
        """
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
        """ASR(0.9) of every arm, in a few words."""
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
        return rows


def _percent(share: float) -> str:
    return "undefined" if share != share else f"{100 * share:.1f} %"  # noqa: PLR0124 (NaN)
