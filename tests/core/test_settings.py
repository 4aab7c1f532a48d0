from __future__ import annotations

import pytest
from pydantic import ValidationError

from petechia.core.errors import PetechiaError
from petechia.core.settings import LARGEST, Settings, first_problem
from petechia.models.model import Architecture, Description
from petechia.models.openers.card import Card
from petechia.study import load_config


class Example(Settings):
    number: int = 0
    place: tuple[int, int] | str = (0, 0)


def test_giants_are_refused_and_large_numbers_are_not() -> None:
    assert Example(number=LARGEST, place=(-LARGEST, 3)).number == LARGEST
    for giant in (10**20, 2**63, -(10**30), int("9" * 4000)):
        for values in ({"number": giant}, {"place": (0, giant)}):
            with pytest.raises(ValidationError) as caught:
                Example.model_validate(values)
            assert "give a smaller number" in first_problem(caught.value)


@pytest.mark.parametrize(
    "override",
    ["attack.target=1e400", "attack.target=100000000000000000000", "attack.trigger.location=[100000000000000000000, 3]",
     "attack.trigger.size=100000000000000000000", "bootstrap=100000000000000000000", "compute.threads=100000000000000000000",
     "train.batch_size=1e20", "heat=100000000000000000000", "seeds=59:59", "bootstrap=59:59", f"{'.'.join('a' * 3000)}=1",
     f"attack.{'.' * 3000}=1", "train.epochs=" + "9" * 5000],
)  # fmt: skip
def test_overrides_that_cannot_be(override: str) -> None:
    with pytest.raises(PetechiaError) as caught:
        load_config(overrides=[override])
    assert len(str(caught.value)) < 600


def test_classes_of_one_name_are_refused() -> None:
    said = "two classes are named 'A'; give each a name of its own"
    with pytest.raises(ValidationError, match=said):
        Card(classes=("A", "B", "A"))
    with pytest.raises(ValidationError, match=said):
        Description(architecture=Architecture(), classes=("A", "A"), preprocess=load_config().preprocess, mean=(0,), std=(1,))
