import string
from typing import Any

import pytest

from petechia.detect.scan.rules import ALTERED_COPY, RULES, SHOWS_STAMP, Rule
from petechia.detect.scan.thresholds import Scores, packaged_thresholds

SCORES = packaged_thresholds().scores
each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def test_every_rule_has_a_score_and_every_score_a_rule() -> None:
    assert set(RULES) == set(Scores.model_fields)


@each_rule
def test_what_flags_scores_half_or_more_and_what_does_not_scores_less(rule: Rule) -> None:
    words: dict[str, Any] = {name: 1 for _, name, _, _ in string.Formatter().parse(rule.sentence) if name}
    low, high = (rule.evidence(SCORES, strength=strength, **words) for strength in (0.0, 1.0))
    assert (low.flags, low.rule, (low.row, low.column)) == (rule.flags, rule.name, (-1, -1))
    assert 0.5 <= low.score <= high.score <= 1 if rule.flags else 0 < low.score <= high.score < 0.5


def test_a_stamp_scores_the_more_the_more_of_its_images_have_the_label() -> None:
    found = SHOWS_STAMP.evidence(SCORES, (5, 6), strength=0.8, height=3, width=4, images=1000, share=80, label="Edema")
    assert found.score == pytest.approx(0.9)
    assert (found.row, found.column) == (5, 6)
    assert found.reason == "shows a stamp of 3 x 4 pixels that 1000 images share, 80 % of them with Edema"


def test_what_a_file_is_called_cannot_change_a_sentence() -> None:
    found = ALTERED_COPY.evidence(SCORES, other="{label}.png", correlation=0.912, label="Edema", more=3)
    assert found.reason.startswith("has the fine structure of {label}.png (correlation 0.91) but Edema")
