"""Everything that this package adds does what Petechia asks of it; the package must be installed."""

from pathlib import Path

import numpy as np
import pytest

from petechia.attack.triggers import TRIGGERS
from petechia.data import open_source
from petechia.detect.protocol import DETECTORS
from petechia.testing import check_detector, check_explanation, check_opener, check_source, check_trigger

CLASSES = np.array(["sick", "well"])


@pytest.fixture
def archive(tmp_path: Path) -> str:
    """A data set of 40 random images; in the first 8 the top left corner is the same."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 16, 16), dtype=np.uint8)
    images[:8, :4, :4] = images[0, :4, :4]
    np.savez(tmp_path / "set.npz", images=images, labels=rng.integers(0, 2, (40, 2)), classes=CLASSES)
    np.savez(tmp_path / "clean.npz", images=images[8:], labels=rng.integers(0, 2, (32, 2)), classes=CLASSES)
    return str(tmp_path / "set.npz")


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A linear model of images of 16 x 16 pixels."""
    weights = np.random.default_rng(0).normal(size=(2, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "weights.npz", weights=weights, classes=CLASSES)
    return f"linear:{tmp_path / 'weights.npz'}"


def test_trigger() -> None:
    check_trigger(TRIGGERS["ring"].model_validate({}))
    check_trigger(TRIGGERS["ring"].model_validate({"radius": 0.4, "width": 5}))


def test_source(archive: str) -> None:
    catalog = check_source(f"npz:{archive}")
    assert (len(catalog), catalog.classes) == (40, ("sick", "well"))


def test_model_and_explanation(model: str) -> None:
    classifier = check_opener(model)
    assert classifier.classes == ("sick", "well")
    check_explanation("slope", classifier, layers=["0"])


def test_detector(archive: str) -> None:
    clean, poisoned = open_source(f"npz:{archive.replace('set', 'clean')}"), open_source(f"npz:{archive}")
    check_detector(DETECTORS["same-corner"](), clean, [clean], poisoned, name="same-corner")
