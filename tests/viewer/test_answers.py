import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from petechia.core.errors import PetechiaError
from petechia.core.runtime import Runtime
from petechia.data import Preprocess
from petechia.models.classifier import Classifier
from petechia.viewer.answers import MOST_TOGETHER, Answer, Answers
from petechia.viewer.networks import Network
from petechia.viewer.work import Turns

NETWORK = Network("model", 0, 0)
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 16, 16), np.uint8)


class Counted(nn.Sequential):
    """A small network that counts the images of each pass. An image that is all black breaks it."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(256, 3))
        self.passes: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes.append(len(images))
        found: torch.Tensor = super().forward(images)  # type: ignore[no-untyped-call]
        return torch.where(images.flatten(1).any(dim=1, keepdim=True), found, torch.nan)


@pytest.fixture
def network() -> Counted:
    return Counted().eval()


def answers_of(network: Counted, turns: Turns) -> Answers:
    classifier = Classifier("a", ("A", "B", "C"), Preprocess(size=16), network, Runtime(torch.device("cpu"), False), network)
    return Answers(lambda _: classifier, turns)


def ask_at_once(network: Counted, *questions: tuple[NDArray[np.uint8], int | None, str]) -> list[object]:
    """Ask while somebody else has the turn, so that all questions wait; return the answers, or the errors."""
    turns = Turns()
    answers = answers_of(network, turns)
    found: list[object] = [None] * len(questions)

    def asking(number: int) -> Callable[[], None]:
        def ask() -> None:
            inputs, target, method = questions[number]
            try:
                found[number] = answers.explain(inputs, NETWORK, target, method)
            except PetechiaError as error:
                found[number] = error

        return ask

    answers.explain(IMAGES[-1:], NETWORK, 0, "gradcam")  # finds the layers
    network.passes.clear()
    turns.take(0)
    threads = [threading.Thread(target=asking(number)) for number in range(len(questions))]
    for thread in threads:
        thread.start()
    while len(turns._tickets) < len(questions):
        threading.Event().wait(0.01)
    turns.give()
    for thread in threads:
        thread.join(20)
    return found


def same(found: object, target: int, expected: list[Answer]) -> bool:
    assert isinstance(found, tuple)
    explained, answers = found
    return explained == target and all(
        np.allclose(one.scores, other.scores, atol=1e-6)
        and all(np.allclose(one.maps[layer], other.maps[layer], atol=1e-6) for layer in other.maps)
        for one, other in zip(answers, expected, strict=True)
    )


def test_questions_that_wait_are_answered_in_one_pass_as_each_alone(network: Counted) -> None:
    targets = [0, 2, None, 1]
    found = ask_at_once(network, *((IMAGES[2 * k : 2 * k + 2], target, "gradcam") for k, target in enumerate(targets)))
    assert max(network.passes) == 8
    for k, target in enumerate(targets):
        alone = answers_of(network, Turns()).explain(IMAGES[2 * k : 2 * k + 2], NETWORK, target, "gradcam")
        assert same(found[k], *alone)


def test_an_image_that_several_ask_for_is_explained_once(network: Counted) -> None:
    ask_at_once(network, *((np.stack([IMAGES[0], IMAGES[k]]), 0, "gradcam") for k in (1, 2, 3)))
    assert sum(network.passes) == 4


def test_a_pass_is_bounded_and_other_methods_have_their_own(network: Counted) -> None:
    rng = np.random.default_rng(1)
    many = [(rng.integers(0, 256, (4, 16, 16), np.uint8), 0, "gradcam") for _ in range(6)]
    ask_at_once(network, *many)
    assert max(network.passes) == MOST_TOGETHER
    assert sum(network.passes) == 24
    ask_at_once(network, (IMAGES[:2], 0, "gradcam"), (IMAGES[:2], 0, "layercam"))
    assert network.passes == [2, 2]


def test_an_answer_that_is_not_finite_is_an_error_for_its_reader_alone(network: Counted) -> None:
    good, bad = (IMAGES[:1], 0, "gradcam"), (np.zeros((1, 16, 16), np.uint8), 0, "gradcam")
    found = ask_at_once(network, good, bad, good)
    assert isinstance(found[1], PetechiaError)
    assert isinstance(found[0], tuple)
    assert isinstance(found[2], tuple)
