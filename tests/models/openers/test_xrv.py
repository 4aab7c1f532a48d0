"""Models of torchxrayvision. Networks with random weights are written as the releases are; the real weights are not needed."""

import hashlib
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute
from petechia.data import Preprocess
from petechia.models.openers import open_classifier
from petechia.models.openers.xrv import DIGESTS

RUNTIME = Compute(device="cpu", precision="fp32").start()
RNG = np.random.default_rng(0)
NAME = "densenet121-res224-chex"


@pytest.fixture
def package() -> Any:
    return pytest.importorskip("torchxrayvision", reason="torchxrayvision is not installed")


@pytest.fixture
def weights(package: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cached weights of a model: a pickle of a whole network, as in the releases."""
    torch.manual_seed(0)
    network = package.models.DenseNet(weights=None).eval()
    network.classifier.weight.data *= 0.05  # otherwise all scores are 0 or 1
    file = tmp_path / Path(package.models.model_urls[NAME]["weights_url"]).name
    torch.save(network, file)
    real = package.models.get_weights

    def cached(weights: str, cache_dir: str | None = None) -> str:
        return str(file) if cache_dir is None else real(weights, cache_dir)

    monkeypatch.setattr(package.models, "get_weights", cached)
    return file


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_scores_are_those_of_the_package(package: Any, weights: Path) -> None:
    theirs = package.models.get_model(NAME, cache_dir=str(weights.parent))
    images = RNG.integers(0, 256, (2, 224, 224), np.uint8)
    with torch.inference_mode():
        wanted = theirs(torch.from_numpy((2 * (images / 255) - 1) * 1024).float()[:, None]).numpy()
    named = [k for k, target in enumerate(theirs.targets) if target]
    found = open_classifier(f"xrv:{NAME}:{digest(weights)}", RUNTIME)
    assert found.classes == tuple(theirs.targets[k] for k in named)
    assert "" not in found.classes
    assert found.identified() == (f"xrv:{NAME}", digest(weights))
    ours = found.logits(images).numpy()
    points = found.require_network().get_buffer("shift").numpy()[named]
    scores = 1 / (1 + np.exp(-(ours + points)))  # before the operating points
    point = 1 / (1 + np.exp(-points))
    bent = np.where(scores < point, scores / (2 * point), 1 - (1 - scores) / (2 * (1 - point)))
    np.testing.assert_allclose(bent, wanted[:, named], atol=1e-4)
    assert ((ours > 0) == (wanted[:, named] > 0.5)).all()


@pytest.mark.parametrize("shape", [(300, 400), (401, 300), (225, 300), (224, 224)])
def test_images_are_cropped_as_the_package_does(package: Any, weights: Path, shape: tuple[int, int]) -> None:
    preprocess = open_classifier(f"xrv:{NAME}:{digest(weights)}", RUNTIME).preprocess
    assert preprocess == Preprocess(crop="square", size=224, resample="area")
    image = RNG.integers(0, 256, shape, np.uint8)
    theirs = package.datasets.XRayCenterCrop()(image[None].astype(np.float32))[0].astype(np.uint8)
    top, left, height, width = preprocess.kept(*shape)
    assert np.array_equal(image[top : top + height, left : left + width], theirs)
    assert np.array_equal(preprocess(image), Preprocess(size=224, resample="area")(theirs))


def test_a_pickle_of_unknown_digest_is_not_opened(package: Any, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proof = weights.parent / "it ran"
    weights.write_bytes(pickle.dumps(Malice(proof)))
    with pytest.raises(PetechiaError, match=rf"does not know its SHA-256; .* give xrv:{NAME}:{digest(weights)}\."):
        open_classifier(f"xrv:{NAME}", RUNTIME)
    monkeypatch.setitem(DIGESTS, weights.name, "0" * 64)
    with pytest.raises(PetechiaError, match=f"has the SHA-256 {digest(weights)} instead of 0000"):
        open_classifier(f"xrv:{NAME}", RUNTIME)
    with pytest.raises(PetechiaError, match="instead of 1111"):
        open_classifier(f"xrv:{NAME}:{'1' * 64}", RUNTIME)
    with pytest.raises(PetechiaError, match="give the SHA-256 of its weights, 64 digits"):
        open_classifier(f"xrv:{NAME}:123", RUNTIME)
    assert not proof.exists()
    pickle.loads(weights.read_bytes())  # noqa: S301 (the malice is real)
    assert proof.exists()


class Malice:
    """Writes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


def test_a_known_digest_needs_no_words(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DIGESTS, weights.name, digest(weights))
    assert open_classifier(f"xrv:{NAME}", RUNTIME).preprocess.size == 224


def test_without_weights_or_package(package: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(package.models, "get_weights", offline)
    with pytest.raises(PetechiaError, match="weights of xrv:densenet121-res224-nih are not available .* put the file https"):
        open_classifier("xrv:densenet121-res224-nih", RUNTIME)
    with pytest.raises(PetechiaError, match="has no model 'densenet'; its models are densenet121-res224-all"):
        open_classifier("xrv:densenet", RUNTIME)
    monkeypatch.setitem(sys.modules, "torchxrayvision", None)
    with pytest.raises(PetechiaError, match="pip install 'petechia.xrv.'"):
        open_classifier("xrv:densenet121-res224-nih", RUNTIME)
