from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.covariance import MinCovDet
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute
from petechia.data import Preprocess, open_source
from petechia.detect.scan.features import (
    STATISTICS,
    clusters,
    coordinates,
    extract,
    feature_outliers,
    features_of,
    robust,
    robust_fit,
    spectral,
)
from petechia.models.classifier import Classifier
from petechia.models.model import Architecture, create

RUNTIME = Compute(device="cpu", precision="fp32", threads=1).start()
Statistic = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
each_statistic = pytest.mark.parametrize("statistic", STATISTICS.values(), ids=STATISTICS)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def small() -> Classifier:
    return Classifier.of(create(Architecture(arch="test_resnet"), ("A", "B"), Preprocess(size=32), 0), RUNTIME)


def test_the_spectral_score_is_that_of_the_paper(rng: np.random.Generator) -> None:
    features = np.asarray(rng.normal(size=(60, 8)) @ rng.normal(size=(8, 8)) + 5, np.float32)
    rows = np.arange(60)
    found = spectral(*coordinates(features, rows, rows))
    centred = features - features.mean(axis=0)
    along = centred @ np.linalg.svd(centred)[2][0]  # Tran et al., algorithm 1
    distance = np.abs(along - np.median(along))
    assert found / found.max() == pytest.approx(distance / distance.max(), rel=1e-4)
    assert np.median(found) == pytest.approx(1 / 1.4826)


def test_coordinates_do_not_depend_on_how_much_is_read_at_a_time(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = np.asarray(rng.normal(size=(50, 6)), np.float32)
    rows = np.arange(20), np.arange(20, 50)
    whole = coordinates(features, *rows, directions=3)
    monkeypatch.setattr("petechia.detect.scan.features.CHUNK", 7)
    for one, other in zip(whole, coordinates(features, *rows, directions=3), strict=True):
        assert np.abs(one) == pytest.approx(np.abs(other))
        assert one.shape[1] == 3


@each_statistic
@pytest.mark.parametrize("share", [0.05, 0.8])
def test_strangers_in_a_class_are_found_even_as_its_majority(
    rng: np.random.Generator, statistic: Statistic, share: float
) -> None:
    reference, members = rng.normal(size=(600, 6)), rng.normal(size=(300, 6))
    strange = np.arange(300) < 300 * share
    members[strange, -1] += 8
    assert roc_auc_score(strange, statistic(members, reference)) > 0.99


@each_statistic
def test_a_single_label_view_takes_the_majority_for_usual(rng: np.random.Generator, statistic: Statistic) -> None:
    members = rng.normal(size=(300, 6))
    strange = np.arange(300) < 240
    members[strange, -1] += 8
    assert roc_auc_score(strange, statistic(members, members)) < 0.3


@each_statistic
def test_points_that_are_all_the_same_do_not_stand_out(statistic: Statistic) -> None:
    points = np.ones((30, 4))
    assert (statistic(points, points) == 0).all()


def test_the_robust_score_is_1_in_the_median_and_sees_all_directions(rng: np.random.Generator) -> None:
    points = rng.normal(size=(500, 4)) * [1, 10, 100, 1000]
    points[:20, 0] += 12  # hidden from all that do not whiten
    score = robust(points, points)
    assert np.median(score) == pytest.approx(1)
    assert score[:20].min() > score[20:].max()
    assert clusters(points, points)[:20].mean() < 2


def test_the_robust_fit_is_not_moved_by_a_third_of_the_points(rng: np.random.Generator) -> None:
    points = rng.normal(size=(600, 3)) * [1, 2, 3]
    points[:200] += 40
    centre, covariance = robust_fit(points)
    peer = MinCovDet(random_state=0, support_fraction=0.5).fit(points)
    assert centre == pytest.approx(peer.raw_location_, abs=0.3)
    assert np.diag(covariance) / np.trace(covariance) == pytest.approx([1 / 14, 4 / 14, 9 / 14], abs=0.1)


def test_the_class_in_which_images_stand_out_is_named(rng: np.random.Generator) -> None:
    labels = np.asarray(rng.random((400, 3)) < 0.3, np.int8)
    labels[0] = -1
    bad = np.arange(400) % 10 == 5
    labels[bad] = [0, 1, 0]
    features = np.asarray(rng.normal(size=(400, 12)), np.float32)
    features[bad, 3] += 9
    usable = np.arange(400) != 7
    found = feature_outliers(features, labels, usable)
    assert roc_auc_score(bad, found.together) > 0.99
    assert np.bincount(found.group[bad & (found.together > 0)]).argmax() == 1
    assert (found.group[[0, 7]] == -1).all()
    assert (found.scores[[0, 7]] == 0).all()
    assert found.rank[bad].min() > 0.85


@pytest.mark.parametrize("labels", [np.zeros((30, 0), np.int8), np.full((30, 2), -1, np.int8), np.ones((30, 2), np.int8)])
def test_without_a_complement_nothing_stands_out(labels: NDArray[np.int8]) -> None:
    found = feature_outliers(np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32), labels, np.ones(30, bool))
    assert (found.together == 0).all()


def test_features_are_the_input_of_the_last_linear_layer(small: Classifier, rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (3, 32, 32), dtype=np.uint8)
    assert isinstance(small.network, nn.Module)
    inner = small.network.network
    assert isinstance(inner, nn.Module)
    found = features_of(small, images)
    last = [module for module in inner.modules() if isinstance(module, nn.Linear)][-1]
    with torch.inference_mode():
        logits = last(torch.from_numpy(found))
    assert logits.numpy() == pytest.approx(small.logits(images).numpy(), abs=1e-5)
    assert not any(module._forward_pre_hooks for module in inner.modules())


def test_a_black_box_gives_its_logits(small: Classifier, rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (3, 32, 32), dtype=np.uint8)
    box = Classifier("box", small.classes, small.preprocess, small.answer, RUNTIME)
    assert features_of(box, images) == pytest.approx(small.logits(images).numpy())


def test_a_model_that_answers_nan_is_refused(small: Classifier, tmp_path: Path) -> None:
    def nan(images: Tensor) -> Tensor:
        return torch.full((len(images), 2), torch.nan)

    box = Classifier("box", small.classes, small.preprocess, nan, RUNTIME)
    with pytest.raises(PetechiaError, match="NaN"):
        extract(open_source("phantom:images=60,size=32"), box, tmp_path / "features")


def test_features_of_a_dataset_lie_in_its_order(small: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petechia.detect.scan.features.BATCH", 7)
    catalog = open_source("phantom:images=60,size=48")
    found = extract(catalog, small, tmp_path / "features", {4})
    assert (found[4] == 0).all()
    for row in (0, 5, 13, len(catalog) - 1):
        image = next(catalog.reader.read(np.array([row])))
        assert isinstance(image, np.ndarray)
        assert found[row] == pytest.approx(features_of(small, small.preprocess(image)[None])[0], abs=1e-5)
