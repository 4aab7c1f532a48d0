"""The thresholds and scores of the scan, as its calibration file gives them."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Self

from pydantic import Field

from petechia.core.results import Record
from petechia.detect.protocol import Calibration

NAME = "scan"  # of the detector and of its calibration file
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class NearDuplicateLimits(Record):
    """When two images count as the same but for a small box.

    Attributes:
        block_difference: grey levels by which the mean of a block may move when a file is encoded anew.
        encoding_noise: grey levels by which encoding anew may move a pixel.
        recurring_pairs: pairs with the same stamp from which on it is known to be one.
    """

    block_difference: Positive
    encoding_noise: Annotated[int, Field(ge=0, le=255)]
    recurring_pairs: Count


class StampLimits(Record):
    """When a recurring pattern counts as a stamp.

    Attributes:
        level: probability that any pattern of a clean dataset is found tied to a label.
        fewest_images: images in which a pattern recurs.
        odds: factor by which a stamp raises the odds of its label. Side markers and devices go with a label too, but less.
        overwritten_odds: the same where the pattern also raises the odds that the label is the only finding by `single_odds`.
        single_odds: an attacker who overwrites labels leaves one finding; a disease or a device comes with others as well.
        neighbourhood: pixels around a place. A stamp has one place; anatomy lies a little elsewhere on every image.
        prominence: how many times as frequent a stamp is at its place, at least, as things of its size are around it.
        alike: grey levels, each the side of a cell: by how much the quarters of a stamp may differ from image to image.
        alike_odds: the odds of a pattern that is alike only in this way, at no fixed place, unless it overwrites labels.
    """

    level: Probability
    fewest_images: Count
    odds: Positive
    overwritten_odds: Positive
    single_odds: Positive
    neighbourhood: Count
    prominence: Positive
    alike: tuple[Count, ...] = (8, 16, 32)
    alike_odds: Positive = 200


class SearchLimits(Record):
    """When an image counts as showing a known stamp.

    Attributes:
        contrast: grey levels between a stamp and its surroundings from which on it is seen.
        chance: share of the images with the stamp's pixels at its place but no contrast that may show them by chance.
        smallest_wandering: pixels of the smallest stamp without a fixed place that is searched for; a smaller one is found
            in any noise.
        usual: share of a stamp's images that must look as it does; the others may be something else.
        margin: factor by which an image may differ more than those do.
        tightest: grey levels of the least tolerance, where the grey levels of the stamp vary.
        loosest: grey levels of the largest tolerance at which a stamp is searched for.
        seen_by_chance: share of the images without the label that may show the stamp with as much contrast.
    """

    contrast: Positive
    chance: Probability
    smallest_wandering: Count
    usual: Probability = 0.8
    margin: Positive = 1.5
    tightest: Annotated[int, Field(ge=0, le=255)] = 24
    loosest: Annotated[int, Field(ge=0, le=255)] = 40
    seen_by_chance: Probability = 0.01


class CopyLimits(Record):
    """When images count as altered copies.

    Attributes:
        level: probability that copies of a clean dataset are found tied to a label.
        correlations: of the fine structure, from which on two images may be copies; each is tested.
        odds: factor by which copies must raise the odds that the label is on one side alone.
        deviations: median absolute deviations below the median correlation at which a pair is no longer one of them.
    """

    level: Probability
    correlations: Annotated[tuple[Probability, ...], Field(min_length=1)]
    odds: Positive
    deviations: Positive


class TextureLimits(Record):
    """When images share a pattern, over the whole image or at one place.

    Attributes:
        level: probability that a pattern of a clean dataset is found tied to a class as the only finding.
        deviations: by how many an image must be more like a pattern over the whole image than images without the label are;
            each is tested.
        placed_deviations: the same of a pattern at one place.
        odds: factor by which the pattern raises the odds of that label.
        single_odds: factor by which, among the images with the class, it raises the odds that the class is the only finding.
    """

    level: Probability = 0.01
    deviations: Annotated[tuple[Positive, ...], Field(min_length=1)] = (4, 6)
    placed_deviations: Annotated[tuple[Positive, ...], Field(min_length=1)] = (2.5, 3, 4, 6)
    odds: Positive = 20
    single_odds: Positive = 5


class LabelLimits(Record):
    """What labels count for in the ranking.

    Attributes:
        level: p-value from which on a vector of labels is in excess among the training images.
        excess_weight: weight of that excess.
        jump_weight: weight of how unusual the labels are for the patient.
        separation: standard deviations by which images with a class must score above those without, for a label of it to be
            doubted.
        doubt_weight: weight of such a doubt; the rest is that of the two others.
        reported_doubt: log odds from which on a doubt is reported.
    """

    level: Probability
    excess_weight: Probability
    jump_weight: Probability
    separation: Positive = 2.0
    doubt_weight: Probability = 0.5
    reported_doubt: float = 2.0


class FeatureLimits(Record):
    """What features count for.

    Attributes:
        reported_rank: share of the images that must stand out less, for an image to be reported as standing out.
    """

    reported_rank: Probability


class Score(Record):
    """The score of a rule: base + span × strength of the evidence, which is between 0 and 1."""

    base: Probability
    span: Probability = 0.0


class Scores(Record):
    """One score a rule; see `petechia.detect.scan.rules`."""

    near_duplicate_other_labels: Score
    near_duplicate_known_stamp: Score
    near_duplicate_same_labels: Score
    exact_duplicate_written_labels: Score
    exact_duplicate_other_labels: Score
    exact_duplicate_same_labels: Score
    shows_stamp: Score
    altered_copy: Score
    weakly_associated: Score
    near_duplicate_no_labels: Score = Score(base=0.8)  # not in calibrations of version 0.1
    shared_texture: Score = Score(base=0.8)


class HintWeights(Record):
    """How hints order images: those with equal evidence, and those without any.

    Attributes:
        label_weight: of the labels in a hint.
        feature_weight: of the features in a hint, where there is a model.
        flagged_factor: by which the score of a flagged image is multiplied, to make room for the hint.
        flagged_hint: what a full hint adds to the score of a flagged image.
        unflagged_most: the highest score of evidence that does not flag.
        unflagged_hint: what a full hint adds to the score of an image that is not flagged.
    """

    label_weight: Positive
    feature_weight: Positive
    flagged_factor: Probability
    flagged_hint: Probability
    unflagged_most: Probability
    unflagged_hint: Probability


class CleanCheck(Record):
    """What the scan flags on clean datasets.

    Attributes:
        images: number of images.
        flagged: how many of them are flagged.
        share: the same as a share.
    """

    images: Count
    flagged: Annotated[int, Field(ge=0)]
    share: Probability


class ScanThresholds(Record):
    """Everything that decides what a scan flags, and how it ranks.

    Attributes:
        near_duplicates: limits of the search for near-duplicates.
        stamps: limits of the search for stamps.
        search: limits of the search for a known stamp.
        copies: limits of the search for altered copies.
        textures: limits of the search for patterns that images share.
        labels: weights of the labels.
        features: limits of the features.
        scores: of the rules.
        hints: weights of the hints.
        clean: what is flagged on clean datasets; None where `DatasetScan.calibrate` was given none.
    """

    near_duplicates: NearDuplicateLimits
    stamps: StampLimits
    search: SearchLimits
    copies: CopyLimits
    labels: LabelLimits
    features: FeatureLimits
    scores: Scores
    hints: HintWeights
    textures: TextureLimits = TextureLimits()  # not in calibrations of version 0.1
    clean: CleanCheck | None = None

    @classmethod
    def of(cls, calibration: Calibration) -> Self:
        """The thresholds of a calibration.

        Raises:
            PetechiaError: it is another detector's, or a value is missing or wrong.
        """
        return calibration.read(NAME, cls)


def packaged_calibration() -> Calibration:
    """The calibration that comes with Petechia."""
    return Calibration.packaged(NAME)


@cache
def packaged_thresholds() -> ScanThresholds:
    """The thresholds that come with Petechia."""
    return ScanThresholds.of(packaged_calibration())
