import pytest

from petechia.saliency import METHODS
from petechia.viewer.methods import offered_methods
from petechia.viewer.subject import Subject
from tests.viewer.conftest import client_of
from tests.viewer.test_app import ask, open_test


@pytest.mark.parametrize("name", [one["name"] for one in offered_methods()])
def test_every_method_that_is_offered_answers(subject: Subject, name: str) -> None:
    assert name in METHODS
    client = client_of(subject)
    answer = ask(client, open_test(client)["image"], method=name)
    assert answer.status_code == 200
    assert set(answer.json()["maps"]) == {"last", "middle"}


def test_names_and_labels_are_distinct() -> None:
    offered = offered_methods()
    assert len({one["name"] for one in offered}) == len({one["label"] for one in offered}) == len(offered)
