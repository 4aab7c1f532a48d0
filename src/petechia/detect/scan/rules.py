"""The rules of the scan: every kind of evidence, whether it flags an image, and the sentence that says so.

Scores are in the calibration file, under the names of the rules.
"""

from __future__ import annotations

from dataclasses import dataclass

from petechia.detect.scan.ledger import Evidence
from petechia.detect.scan.thresholds import Scores


@dataclass(frozen=True)
class Rule:
    """A kind of evidence.

    Attributes:
        name: of the rule, and of its score in the calibration.
        flags: whether evidence of this kind suffices to flag an image.
        sentence: what it says of an image, with the names of what differs from image to image in braces.
    """

    name: str
    flags: bool
    sentence: str

    def evidence(self, scores: Scores, place: tuple[int, int] = (-1, -1), strength: float = 0.0, **words: object) -> Evidence:
        """Evidence of this kind.

        Args:
            scores: of the rules.
            place: row and column of the stamp; -1 where there is none.
            strength: 0 … 1, for rules whose score depends on it.
            words: what the sentence says of this image.
        """
        score = getattr(scores, self.name)
        return Evidence(self.name, score.base + score.span * strength, self.flags, self.sentence.format(**words), *place)


NEAR_DUPLICATE_OTHER_LABELS = Rule(
    "near_duplicate_other_labels", True, "is {other} but for {height} x {width} pixels, and is labelled otherwise"
)
NEAR_DUPLICATE_KNOWN_STAMP = Rule(
    "near_duplicate_known_stamp", True, "is {other} but for {height} x {width} pixels, as in pairs labelled otherwise"
)
NEAR_DUPLICATE_NO_LABELS = Rule(  # without labels, a box that recurs from pair to pair is all that can be known
    "near_duplicate_no_labels", True, "is {other} but for {height} x {width} pixels, as in {pairs} pairs without labels"
)
NEAR_DUPLICATE_SAME_LABELS = Rule(
    "near_duplicate_same_labels", False, "is {other} but for {height} x {width} pixels, with the same labels"
)
EXACT_DUPLICATE_WRITTEN_LABELS = Rule(  # with the labels that most near-duplicates have which contradict their originals
    "exact_duplicate_written_labels", True, "has the same pixels as {other}, and is labelled otherwise"
)
EXACT_DUPLICATE_OTHER_LABELS = Rule(
    "exact_duplicate_other_labels", False, "has the same pixels as {other}, and is labelled otherwise"
)
EXACT_DUPLICATE_SAME_LABELS = Rule("exact_duplicate_same_labels", False, "has the same pixels as {other}, with the same labels")
SHOWS_STAMP = Rule(  # its strength is the share of the stamp's images that have its label
    "shows_stamp",
    True,
    "shows a stamp of {height} x {width} pixels that {images} images share, {share:.0f} % of them with {label}",
)
ALTERED_COPY = Rule(
    "altered_copy",
    True,
    "has the fine structure of {other} (correlation {correlation:.2f}) but {label} among its labels, as {more} more such "
    "copies have",
)
SHARED_TEXTURE = Rule(
    "shared_texture",
    True,
    "shows a faint pattern {where} that {images} images share, {share:.0f} % of them with {label} as the only finding",
)
WEAKLY_ASSOCIATED = Rule(  # its strength is the share of the labels that chance does not explain
    "weakly_associated",
    False,
    "shows a pattern of {height} x {width} pixels that {images} images share and that is weakly associated with {label} "
    "({share:.0f} % of them, {usual:.0f} % of all)",
)
RULES = {
    rule.name: rule
    for rule in (
        NEAR_DUPLICATE_OTHER_LABELS,
        NEAR_DUPLICATE_KNOWN_STAMP,
        NEAR_DUPLICATE_NO_LABELS,
        NEAR_DUPLICATE_SAME_LABELS,
        EXACT_DUPLICATE_WRITTEN_LABELS,
        EXACT_DUPLICATE_OTHER_LABELS,
        EXACT_DUPLICATE_SAME_LABELS,
        SHOWS_STAMP,
        ALTERED_COPY,
        SHARED_TEXTURE,
        WEAKLY_ASSOCIATED,
    )
}

# Hints have no score of their own and flag nothing: they order images, see `petechia.detect.scan.hints`.
LABEL_HINT = "has labels that are more frequent among training images than among the others"
DOUBTFUL_LABEL = "is labelled with {label}, but looks as images without it do"
FEATURE_OUTLIER = "stands out in the model's features among {among} ({scores})"
