"""A screen computes in pieces, with the same result, and others use the network in between."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from petechia.core.runtime import Compute
from petechia.data import Preprocess
from petechia.detect.screen import Screen
from petechia.models.classifier import Classifier
from petechia.models.model import Architecture, create
from petechia.viewer import pacing
from petechia.viewer.networks import Network
from petechia.viewer.pacing import EXPLAINING, FITTING, Pace, paced
from petechia.viewer.screens import Screens
from petechia.viewer.work import Abandoned, Turns

CLEAN = np.random.default_rng(0).integers(0, 256, (30, 32, 32), np.uint8)


@pytest.fixture
def classifier() -> Classifier:
    model = create(Architecture(arch="test_resnet"), ("A", "B"), Preprocess(size=32), 0)
    return Classifier.of(model, Compute(threads=1, device="cpu", precision="fp32").start())


def test_in_pieces_the_answer_is_the_same_and_the_network_is_only_used_in_turn(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "PIECE", 4 * 32**2)
    turns, sizes, out_of_turn = Turns(), [], []

    def watch(_module: Any, inputs: Any) -> None:
        sizes.append(len(inputs[0]))
        out_of_turn.append(not turns._taken)

    whole = Screen.fit(classifier, CLEAN, 0.1)
    hook = classifier.require_network().register_forward_pre_hook(watch)
    pieces = Screen.fit(paced(classifier, Pace(turns, FITTING, lambda: None)), CLEAN, 0.1)
    hook.remove()
    assert not any(out_of_turn)
    assert not turns._taken
    assert len(sizes) > 100
    assert np.allclose(pieces.conformal.clean, whole.conformal.clean, atol=1e-3)
    assert pieces.conformal.threshold == pytest.approx(whole.conformal.threshold, abs=1e-3)
    own = replace(pieces, classifier=paced(classifier, Pace(turns, FITTING, lambda: None))).explain(CLEAN[3] // 2)
    assert own.suspicion == pytest.approx(whole.explain(CLEAN[3] // 2).suspicion, abs=1e-3)


def test_gradients_come_back_in_pieces(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "PIECE", 4 * 32**2)
    steps: list[int] = []
    slow = paced(classifier, Pace(Turns(), FITTING, lambda: steps.append(1)))
    images = classifier.tensor(CLEAN[:12])
    slopes = []
    for one in (classifier, slow):
        point = images.clone().requires_grad_()
        with one.runtime.autocast():
            (slope,) = torch.autograd.grad(one.answer(point)[:, 0].sum(), point)
        slopes.append(slope)
    assert torch.allclose(slopes[0], slopes[1], atol=1e-5)
    assert len(steps) == 1 + 2 + 2  # start, and between three pieces on both ways


def test_contexts_within_each_other_take_one_turn(classifier: Classifier) -> None:
    turns = Turns()
    slow = paced(classifier, Pace(turns, FITTING, lambda: None))
    slow.answer(classifier.tensor(CLEAN))  # without a turn, nobody's turn is given away
    with slow.runtime.autocast(), slow.runtime.autocast():
        assert turns._taken
    assert not turns._taken


def test_an_explanation_goes_between_the_pieces_of_a_screen(classifier: Classifier) -> None:
    turns, went, began = Turns(), threading.Event(), threading.Event()

    def go_between() -> None:
        began.wait(10)
        turns.take(EXPLAINING)
        went.set()
        turns.give()

    thread = threading.Thread(target=go_between)
    thread.start()
    pieces: list[bool] = []

    def check() -> None:
        began.set()
        pieces.append(went.is_set())

    Screen.fit(paced(classifier, Pace(turns, FITTING, check)), CLEAN, 0.1)
    thread.join(10)
    assert True in pieces[: len(pieces) // 2]  # long before the screen was fitted


def test_an_abandoned_screen_stops_and_leaves_the_turn_and_the_network_as_they_were(classifier: Classifier) -> None:
    turns, left = Turns(), [5]

    def check() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Abandoned

    screens = Screens([lambda: CLEAN], lambda _network: classifier)
    network = Network("model", 0, 0)
    choice = screens.choose(CLEAN[0] // 2)
    with pytest.raises(Abandoned):
        screens.fit(network, choice, Pace(turns, FITTING, check))
    assert not turns._taken
    assert screens.fitted(network, choice) is None
    assert not any(module._forward_hooks or module.training for module in classifier.require_network().modules())
    fitted = screens.fit(network, choice, Pace(turns, FITTING, lambda: None))
    assert screens.fitted(network, choice) is fitted
    assert fitted.classifier is classifier
    assert screens.fit(network, choice, Pace(turns, FITTING, pytest.fail)) is fitted  # not computed again


def test_few_screens_are_kept(tmp_path: Path, classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petechia.viewer.screens.Screen.fit", lambda one, *_rest: Screen(one, None, None, None, ()))  # type: ignore[arg-type]
    screens = Screens([lambda: CLEAN], lambda _network: classifier)
    for epoch in range(6):
        screens.fit(Network("model", 0, epoch), (0, ()), Pace(Turns(), FITTING, lambda: None))
    assert [screens.fitted(Network("model", 0, epoch), (0, ())) is not None for epoch in range(6)] == [False] * 2 + [True] * 4
