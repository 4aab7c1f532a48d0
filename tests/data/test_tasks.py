from dataclasses import replace

import numpy as np
import pytest

from petechia.core.errors import PetechiaError
from petechia.data import open_source

MULTI = "phantom:images=300,size=32"


def test_a_phantom_whose_classes_exclude_each_other_has_the_images_with_at_most_one_finding() -> None:
    everything, one = open_source(MULTI), open_source(f"{MULTI},findings=3,task=multi-class")
    assert one.classes == (*everything.classes[:3], "No Finding")
    assert (one.labels.sum(axis=1) == 1).all()
    few = everything.labels[:, :3].sum(axis=1)
    assert one.ids.tolist() == everything.ids[few <= 1].tolist()
    np.testing.assert_array_equal(one.labels[:, :3], everything.labels[few <= 1, :3])
    image = next(one.reader.read(np.array([5])))
    np.testing.assert_array_equal(image, next(everything.reader.read(np.flatnonzero(few <= 1)[5:6])))


def test_a_binary_phantom_is_the_same_with_one_label() -> None:
    everything, one = open_source(MULTI), open_source(f"{MULTI},findings=1")
    assert (one.classes, one.task) == (everything.classes[:1], "multi-label")
    np.testing.assert_array_equal(one.labels, everything.labels[:, :1])
    assert one.reader.fingerprint() == everything.reader.fingerprint()


@pytest.mark.parametrize("option", ["findings=0", "findings=15", "task=ordinal"])
def test_what_a_phantom_cannot_be_labelled_with(option: str) -> None:
    with pytest.raises(PetechiaError, match=f"'{option.partition('=')[0]}' in the data source .* its keys are"):
        open_source(f"phantom:{option}")


def test_a_multi_class_collection_is_held_to_its_word() -> None:
    good = open_source(f"{MULTI},findings=2,task=multi-class")
    labels = good.labels.copy()
    labels[3] = -1  # nobody knows
    replace(good, labels=labels)
    for row in ([1, 1, 0], [0, 0, 0], [1, 0, -1]):
        labels[7] = row
        with pytest.raises(PetechiaError, match=f"but {good.ids[7]} does not show exactly one class"):
            replace(good, labels=labels)
    with pytest.raises(PetechiaError, match="multi-class with one class"):
        replace(good, classes=("A",), labels=np.ones((len(good), 1), np.int8))
