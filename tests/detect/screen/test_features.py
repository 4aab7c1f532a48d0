from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from threading import Thread

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.detect.screen.features import NEIGHBOURS, answered, has_maps, strangeness
from tests.detect.screen.conftest import ByHand, opened

Draw = Callable[[int, int], NDArray[np.uint8]]


def test_features_are_moments_of_the_last_map(draw: Draw) -> None:
    network, images = ByHand(), draw(5, 0)
    with torch.inference_mode():
        maps = network.halves(network.edges(torch.from_numpy(images).float()[:, None] / 255))
    expected = torch.cat([maps.mean(dim=(2, 3)), maps.flatten(2).std(dim=2)], dim=1).numpy()
    classifier = opened(network)
    logits, found = answered(classifier, images)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(logits, classifier.logits(images).numpy())


def test_another_thread_that_uses_the_network_meanwhile_is_not_heard(draw: Draw) -> None:
    network, images = ByHand(), draw(5, 0)
    alone = opened(network)

    def pass_by() -> None:
        with torch.inference_mode():
            network(torch.zeros(len(images), 1, *images.shape[1:]))

    def disturbed(batch: Tensor) -> Tensor:
        found: Tensor = network(batch)
        other = Thread(target=pass_by)
        other.start()
        other.join()
        return found

    for one, expected in zip(answered(replace(alone, answer=disturbed), images), answered(alone, images), strict=True):
        np.testing.assert_array_equal(one, expected)


def test_of_a_module_that_is_used_again_the_last_map_counts(draw: Draw) -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(1 if not n else 4, 4, 3, padding=1) for n in range(3))
            self.relu = nn.ReLU()
            self.head = nn.Linear(4, 2)

        def forward(self, images: Tensor) -> Tensor:
            for conv in self.convs:
                images = self.relu(conv(images))
            found: Tensor = self.head(images.mean(dim=(2, 3)))
            return found

    torch.manual_seed(0)
    network, images = Again(), draw(5, 0)
    pieces = opened(network)
    in_pieces = replace(pieces, answer=lambda batch: torch.cat([network(part) for part in torch.split(batch, 2)]))
    maps = torch.from_numpy(images).float()[:, None] / 255
    with torch.inference_mode():
        for conv in network.convs:
            maps = conv(maps).relu()
    expected = torch.cat([maps.mean(dim=(2, 3)), maps.flatten(2).std(dim=2)], dim=1).numpy()
    for classifier in (pieces, in_pieces):
        np.testing.assert_allclose(answered(classifier, images)[1], expected, atol=1e-5)


def test_a_black_box_has_none(draw: Draw) -> None:
    assert has_maps(opened(ByHand()))
    assert not has_maps(opened(ByHand(), blind=True))
    with pytest.raises(PetechiaError):
        answered(opened(ByHand(), blind=True), draw(2, 0))


def test_strangeness_is_the_distance_to_a_near_neighbour() -> None:
    rng = np.random.default_rng(0)
    known, given = (rng.normal(0, 3, (count, 6)).astype(np.float32) for count in (40, 7))
    scale = known.std(axis=0) + 1e-3 * np.abs(known).mean() + 1e-6
    nearest = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(known / scale)
    np.testing.assert_allclose(strangeness(given, known), nearest.kneighbors(given / scale)[0][:, -1], rtol=1e-5)


def test_a_clean_image_is_compared_with_the_others() -> None:
    known = np.random.default_rng(1).normal(size=(12, 3)).astype(np.float32)
    row = 4
    others = np.delete(known, row, axis=0)
    assert strangeness(known, known, own=True)[row] == strangeness(known[row : row + 1], others)[0]


def test_few_images_have_few_neighbours() -> None:
    assert np.isfinite(strangeness(np.zeros((2, 3), np.float32), np.ones((3, 3), np.float32))).all()
