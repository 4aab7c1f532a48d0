"""What a model's features say about a dataset: within each class, and within its complement, who stands out from whom.

Backdoor defences compare an image with the others of its label. With one label an image that is the whole story; with
several it is not, and a stamp on 40 % of the images makes the clean ones of the target class the minority. So every class
is seen against the images that do not carry it, which are the reference of what is usual; and these among themselves, where
the triggered images of other targets are a minority again.

Each statistic takes coordinates along the directions in which the members' features differ most from the reference, and
gives scores in units of the reference's own spread. With `members` as their own reference they are the published,
single-label ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm
from sklearn.cluster import KMeans
from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.core.parallel import in_parallel, in_this_thread
from petechia.core.progress import SILENT, Progress
from petechia.data.catalog import Catalog
from petechia.models.classifier import Classifier

Array = NDArray[np.float64]
BATCH = 64  # images that go through the network at a time
CHUNK = 4096  # rows of the features that are in memory at a time
DIRECTIONS = 10  # along which features are compared
FEWEST = 20  # images of a class, or without it, of which something can be said
STEPS = 15  # of the robust fit; it hardly moves after ten
SHARPNESS = 4  # of the robust score: 0 is the length of the whitened feature, much more its part along one direction


def extract(
    catalog: Catalog,
    classifier: Classifier,
    file: Path,
    unread: Set[int] = frozenset(),
    progress: Progress = SILENT,
) -> NDArray[np.float32]:
    """Features of all images: the input of the last linear layer, or the logits of a model without a network.

    Args:
        catalog: N images.
        classifier: any; its classes need not be the catalog's.
        file: where the features are kept.
        unread: rows that cannot be decoded; their features are 0.
        progress: gets the phase "asking the model".

    Returns:
        float32 [N, D], on disk.

    Raises:
        PetechiaError: an image cannot be decoded, or the model answers with NaN.
    """
    rows = np.array([row for row in range(len(catalog)) if row not in unread], np.intp)
    progress.phase("asking the model", len(catalog))

    def work(some: NDArray[np.intp]) -> list[NDArray[np.uint8] | PetechiaError]:
        images = catalog.reader.read(rows[some])
        return [one if isinstance(one, PetechiaError) else classifier.prepare(one) for one in images]

    features: NDArray[np.float32] | None = None
    for some, images in _batches(rows, in_parallel(work, len(rows))):
        found = features_of(classifier, images)
        if features is None:
            features = np.memmap(file, np.float32, "w+", shape=(len(catalog), found.shape[1]))
        features[some] = found
        progress.advance(len(some))
    return np.zeros((len(catalog), 1), np.float32) if features is None else features


def _batches(
    rows: NDArray[np.intp], images: Iterator[NDArray[np.uint8] | PetechiaError]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.uint8]]]:
    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        batch = []
        for _ in some:
            image = next(images)
            if isinstance(image, PetechiaError):
                raise image
            batch.append(image)
        yield some, np.stack(batch)


def features_of(classifier: Classifier, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Of prepared images, uint8 [B, H, W] or [B, H, W, 3]: float32 [B, D].

    Raises:
        PetechiaError: the model answers with NaN.
    """
    if classifier.network is None:
        return classifier.logits(images).numpy()
    with _before_last_linear(classifier.network) as taken:
        logits = classifier.logits(images, len(images))
    found = taken[0].float().cpu() if taken else logits
    return found.reshape(len(found), -1, found.shape[-1]).mean(dim=1).numpy()  # of tokens, their mean


@contextmanager
def _before_last_linear(network: nn.Module) -> Iterator[list[Tensor]]:
    """A list that holds, after a pass, the input of the linear layer that was called last; empty where there is none."""
    taken: list[Tensor] = []

    def keep(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
        taken[:] = [given[0].detach()]

    here = in_this_thread(keep)
    handles = [module.register_forward_pre_hook(here) for module in network.modules() if isinstance(module, nn.Linear)]
    try:
        yield taken
    finally:
        for handle in handles:
            handle.remove()


def coordinates(
    features: NDArray[np.float32], members: NDArray[np.intp], reference: NDArray[np.intp], directions: int = DIRECTIONS
) -> tuple[Array, Array]:
    """Where members and reference lie along the directions in which the members are farthest from the reference's mean.

    Args:
        features: float32 [N, D]; may lie on a disk.
        members: int [n], rows.
        reference: int [m], rows; the members themselves, for what the papers do.
        directions: how many, at most.

    Returns:
        float64 [n, d] and [m, d], the direction of the largest spread last.
    """
    centre = sum((part.sum(axis=0) for part in _parts(features, reference)), np.zeros(features.shape[1])) / len(reference)
    scatter = np.zeros((features.shape[1], features.shape[1]))
    for part in _parts(features, members):
        scatter += (part - centre).T @ (part - centre)
    axes = np.linalg.eigh(scatter)[1][:, -directions:]
    along_members = np.concatenate([(part - centre) @ axes for part in _parts(features, members)])
    if reference is members:
        return along_members, along_members
    return along_members, np.concatenate([(part - centre) @ axes for part in _parts(features, reference)])


def _parts(features: NDArray[np.float32], rows: NDArray[np.intp]) -> Iterator[Array]:
    for start in range(0, len(rows), CHUNK):
        yield np.asarray(features[rows[start : start + CHUNK]], np.float64)


def spectral(members: Array, reference: Array) -> Array:
    """Distance along the first direction (spectral signatures, Tran et al. 2018, arXiv:1811.00636).

    Args:
        members: float64 [n, d], as `coordinates` gives them.
        reference: float64 [m, d].

    Returns:
        float64 [n], ≥ 0, in robust standard deviations of the reference.
    """
    return np.abs(_standardised(members[:, -1], reference[:, -1]))


def clusters(members: Array, reference: Array) -> Array:
    """Distance towards the stranger of two clusters (activation clustering, Chen et al. 2018, arXiv:1811.03728).

    The paper suspects the smaller cluster. Here it is the one whose centre is farther from the median of the reference,
    which is the smaller one where members are their own reference.

    Args:
        members: float64 [n, d], as `coordinates` gives them.
        reference: float64 [m, d].

    Returns:
        float64 [n], in robust standard deviations of the reference; 0 for one on the side of the other cluster.
    """
    if len(np.unique(members, axis=0)) < 2:
        return np.zeros(len(members))
    usual = np.median(reference, axis=0)
    centres = KMeans(2, n_init=4, random_state=0).fit(members).cluster_centers_.astype(float)
    near, far = sorted(centres, key=lambda centre: float(np.linalg.norm(centre - usual)))
    axis = far - near
    return np.maximum(_standardised(members @ axis, reference @ axis), 0)


def robust(members: Array, reference: Array) -> Array:
    """Quantum entropy score after whitening by a robust covariance (as SPECTRE, Hayase et al. 2021, arXiv:2104.11315).

    SPECTRE estimates the covariance of the clean images from within the class; here the reference gives it, by the minimum
    covariance determinant.

    Args:
        members: float64 [n, d], as `coordinates` gives them.
        reference: float64 [m, d].

    Returns:
        float64 [n], ≥ 0; the median of the reference has 1.
    """
    centre, covariance = robust_fit(reference)
    values, axes = np.linalg.eigh(covariance)
    seen = values > 1e-9 * max(values[-1], 1e-300)
    whiten = axes[:, seen] / np.sqrt(values[seen])
    if not seen.any():
        return np.zeros(len(members))
    white = (members - centre) @ whiten
    excess = white.T @ white / len(white) - np.eye(white.shape[1])
    weight = expm(SHARPNESS * excess / max(np.linalg.norm(excess, 2), 1e-9))

    def score(points: Array) -> Array:
        return np.asarray(np.einsum("ij,jk,ik->i", points, weight, points))

    usual = np.median(score((reference - centre) @ whiten))
    return np.asarray(np.sqrt(np.maximum(score(white), 0) / max(usual, 1e-300)))


def robust_fit(points: Array) -> tuple[Array, Array]:
    """Mean and covariance of the half of the points that lie closest together.

    These are concentration steps towards the minimum covariance determinant (Rousseeuw and Van Driessen 1999), from the
    median and the median absolute deviations.

    Args:
        points: float64 [m, d].

    Returns:
        float64 [d] and [d, d]; the covariance is that of the half, smaller than that of all.
    """
    # Not scikit-learn's fast_mcd, which finds the same optimum (determinants within 2.3 % at 500 points, 0.01 % at 100,000),
    # but takes 63 s for 100,000 points of 10 coordinates where this takes 1.3 s, draws at random, and fails in MinCovDet
    # where all points are the same. A scan fits up to twice for every class.
    centre = np.median(points, axis=0)
    covariance = np.diag(np.median(np.abs(points - centre), axis=0) ** 2)
    for _ in range(STEPS):
        away = points - centre
        distance = np.einsum("ij,jk,ik->i", away, np.linalg.pinv(covariance, hermitian=True), away)
        closest = points[np.argsort(distance, kind="stable")[: len(points) // 2 + 1]]
        centre, covariance = closest.mean(axis=0), np.atleast_2d(np.cov(closest.T, bias=True))
    return centre, covariance


def _standardised(values: Array, reference: Array) -> Array:
    """In robust standard deviations from the median of the reference; 0 where it does not spread."""
    middle = np.median(reference)
    spread = 1.4826 * np.median(np.abs(reference - middle)) or np.std(reference)
    return np.asarray((values - middle) / spread) if spread > 0 else np.zeros(len(values))


STATISTICS: dict[str, Callable[[Array, Array], Array]] = {"spectral": spectral, "clusters": clusters, "robust": robust}


class FeatureOutliers(NamedTuple):
    """How images stand out. A row an image.

    Attributes:
        scores: float64 [N, 3], the largest of each statistic over all classes and complements; 0 of an image in none.
        together: float64 [N], the largest mean over the statistics of log(1 + score).
        group: int [N], where that is: k for class k, K + k for its complement, -1 for an image in none.
    """

    scores: Array
    together: Array
    group: NDArray[np.intp]

    @property
    def rank(self) -> Array:
        """Share of the images that stand out less, float64 [N]."""
        return np.searchsorted(np.sort(self.together), self.together) / max(len(self.together), 1)


def feature_outliers(
    features: NDArray[np.float32],
    labels: NDArray[np.int8],
    usable: NDArray[np.bool_],
    progress: Progress = SILENT,
) -> FeatureOutliers:
    """Compare every class with its complement, and every complement with itself.

    Args:
        features: float32 [N, D]; may lie on a disk.
        labels: int8 [N, K]; where one is unknown, the image is in neither.
        usable: bool [N], images that have features.
        progress: advances by one for every class.
    """
    found = FeatureOutliers(np.zeros((len(labels), len(STATISTICS))), np.zeros(len(labels)), np.full(len(labels), -1, np.intp))
    for k in range(labels.shape[1]):
        members, rest = (np.flatnonzero(usable & (labels[:, k] == value)) for value in (1, 0))
        if len(rest) >= FEWEST:
            if len(members) >= FEWEST:
                _compare(found, features, members, rest, k)
            _compare(found, features, rest, rest, labels.shape[1] + k)
        progress.advance(1)
    return found


def _compare(
    found: FeatureOutliers, features: NDArray[np.float32], members: NDArray[np.intp], reference: NDArray[np.intp], group: int
) -> None:
    along = coordinates(features, members, reference)
    scores = np.stack([statistic(*along) for statistic in STATISTICS.values()], axis=1)
    found.scores[members] = np.maximum(found.scores[members], scores)
    together = np.log1p(scores).mean(axis=1)
    more = together > found.together[members]
    found.together[members[more]] = together[more]
    found.group[members[more]] = group
