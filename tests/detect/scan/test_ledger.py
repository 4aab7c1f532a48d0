import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from petechia.detect.scan.ledger import Evidence, Ledger, Suspect

WEAK = Evidence("weak", 0.2, False, "looks like another")
STAMP = Evidence("stamp", 0.9, True, "shows a stamp", 3, 4)
COPY = Evidence("copy", 1.0, True, "is a copy", 5, 6)


def amounts_to(*evidence: Evidence) -> Suspect:
    ledger = Ledger(1)
    ledger.extend((0, one) for one in evidence)
    return ledger.suspect(0)


def test_without_evidence_nothing_is_suspected() -> None:
    assert amounts_to() == Suspect(0.0, False, "", -1, -1)


@pytest.mark.parametrize("order", [(STAMP, COPY), (COPY, STAMP)])
def test_the_strongest_evidence_leads_and_every_reason_for_a_flag_is_given(order: tuple[Evidence, Evidence]) -> None:
    assert amounts_to(*order) == Suspect(1.0, True, "is a copy; shows a stamp", 5, 6)


@pytest.mark.parametrize("order", [(STAMP, WEAK), (WEAK, STAMP)])
def test_evidence_that_does_not_flag_adds_nothing_to_evidence_that_does(order: tuple[Evidence, Evidence]) -> None:
    assert amounts_to(*order) == Suspect(0.9, True, "shows a stamp", 3, 4)


def test_of_equal_evidence_the_first_leads_and_a_reason_is_given_once() -> None:
    assert amounts_to(STAMP, STAMP._replace(row=7)) == Suspect(0.9, True, "shows a stamp", 3, 4)


def test_all_evidence_is_kept_in_order() -> None:
    ledger = Ledger(3)
    ledger.extend([(1, WEAK), (2, COPY), (1, STAMP)])
    assert [ledger.evidence(index) for index in range(3)] == [(), (WEAK, STAMP), (COPY,)]
    assert ledger.flagged.tolist() == [False, True, True]
    assert [suspect.score for suspect in ledger.suspects] == [0.0, 0.9, 1.0]


def test_an_image_that_is_not_there_is_an_error() -> None:
    for index in (-1, 2):
        with pytest.raises(IndexError, match="no image"):
            Ledger(2).add(index, WEAK)


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1), st.booleans()), max_size=20))
def test_the_score_is_the_highest_of_an_images_evidence(rows: list[tuple[int, float, bool]]) -> None:
    ledger = Ledger(5)
    for number, (index, score, flags) in enumerate(rows):
        ledger.add(index, Evidence("any", score, flags, f"reason {number}"))
    best = np.zeros(5)
    for index, score, _ in rows:
        best[index] = max(best[index], score)
    assert [suspect.score for suspect in ledger.suspects] == best.tolist()
