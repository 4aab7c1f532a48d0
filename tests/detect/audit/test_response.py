import numpy as np
import torch

from petechia.attack.square import Square
from petechia.detect.audit.hosts import Hosts
from petechia.detect.audit.response import (
    LEVELS,
    SIZES,
    _groups,
    all_squares,
    gains_of,
    naive_response,
    paint_groups,
    place_leads,
    refine,
    response_map,
    stamp_response,
)
from tests.conftest import Steps
from tests.detect.audit.conftest import COLUMN, ROW, SIDE, SIZE, ByHand, Images, opened


def test_stamps_are_put_as_a_loop_puts_them(clean: Images) -> None:
    hosts = opened(ByHand()).tensor(clean[:3])
    groups = [[Square(0, 0, 2, 255), Square(20, 5, 3, 128)], [Square(29, 29, 3, 0), Square(9, 4, 3, 255, 0)]]
    slow = torch.stack([hosts.clone() for _ in groups])
    for number, group in enumerate(groups):
        for row, column, size, value, other in group:
            for r in range(row, row + size):
                for c in range(column, column + size):
                    level = other if other is not None and (r - row + c - column) % 2 else value
                    slow[number, :, :, r, c] = level / 255
    assert torch.equal(paint_groups(hosts, groups), slow)


def test_every_stamp_is_in_one_group_far_from_the_others() -> None:
    groups = list(_groups(64, SIZES, LEVELS))
    members = [stamp for group in groups for stamp in group]
    assert len(members) == len(set(members))
    assert set(members) == set(all_squares(64))
    for group in groups[::97]:
        for one in group:
            gaps = [max(abs(one.row - other.row), abs(one.column - other.column)) - one.size for other in group if other != one]
            assert min(gaps) >= 11


def test_gains_are_medians_over_the_carriers(clean: Images) -> None:
    classifier = opened(ByHand())
    hosts = Hosts.of(classifier, clean[:5])
    images, before = hosts.images, hosts.logits
    group = [Square(ROW, COLUMN, SIZE, 0)]
    slow = [
        np.median(
            [float(classifier.logits(paint_groups(images[b : b + 1], [group])[0])[0, k] - before[b, k]) for b in range(5)]
        )
        for k in range(5)
    ]
    np.testing.assert_allclose(gains_of(classifier, hosts, [group])[0], slow, atol=1e-5)


def test_group_testing_finds_what_the_naive_search_finds_with_a_tenth_of_the_work(clean: Images) -> None:
    classifier = opened(ByHand())
    hosts = Hosts.of(classifier, clean[:24])
    told = Steps()
    kinds = (1, 3), ((0, None), (255, None))
    quick = stamp_response(classifier, hosts, *kinds, progress=told)
    naive = naive_response(classifier, hosts, *kinds)
    assert quick.best(0)[1] == naive.best(0)[1]
    assert naive.best(0)[0] in quick.squares
    assert 10 * quick.passes < naive.passes
    assert sum(told) == quick.passes


def test_a_found_stamp_is_made_precise(clean: Images) -> None:
    classifier = opened(ByHand())
    hosts = Hosts.of(classifier, clean[:24])
    for found in (Square(ROW - 1, COLUMN - 1, 5, 0), Square(ROW - 2, COLUMN, 5, 0), Square(ROW, COLUMN, 3, 0)):
        assert refine(classifier, hosts, 0, found) == Square(ROW, COLUMN, SIZE, 0)


def test_a_map_of_responses_has_the_gain_of_each_place(clean: Images) -> None:
    classifier = opened(ByHand())
    hosts = Hosts.of(classifier, clean[:4])
    kind = Square(ROW, COLUMN, SIZE, 0)
    found = response_map(classifier, hosts, 0, kind, cells=10)
    step = -(-(SIDE - SIZE + 1) // 10)
    assert found.shape == (10, 10)
    assert int(found.argmax()) == ROW // step * 10 + COLUMN // step
    corner = kind._replace(row=ROW % step, column=COLUMN % step)
    assert found[0, 0] == gains_of(classifier, hosts, [[corner]])[0, 0]


def test_a_place_leads_where_the_trigger_works_nowhere_else(clean: Images) -> None:
    found = {}
    for anywhere in (False, True):
        classifier = opened(ByHand(anywhere=anywhere))
        hosts = Hosts.of(classifier, clean[:24])
        response = stamp_response(classifier, hosts, sizes=(SIZE,), levels=((0, None),))
        found[anywhere] = place_leads(classifier, hosts, response)
        by_hand = gains_of(classifier, hosts, [[one] for one in all_squares(SIDE, (SIZE,), ((0, None),))])[:, 0].max()
        assert 5 < by_hand < 60
    assert found[False][0] > 4  # of at most 10
    assert abs(found[True][0]) < 0.5
    assert (np.abs(found[False][1:]) < 0.5).all()  # a mean answers to a square anywhere
    assert found[False].shape == (5,)
