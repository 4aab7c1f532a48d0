import numpy as np
import pytest
import torch
from torch import Tensor

from petechia.detect.audit import examine_model
from petechia.detect.audit.hosts import Hosts
from petechia.models.classifier import Classifier
from tests.detect.audit.conftest import ByHand, Images, opened


def test_hosts_are_images_with_their_logits(clean: Images) -> None:
    classifier = opened(ByHand())
    hosts = Hosts.of(classifier, clean[:6])
    with torch.inference_mode():
        logits = ByHand()(torch.from_numpy(clean[:6])[:, None] / 255)
    torch.testing.assert_close(hosts.logits, logits)
    np.testing.assert_allclose(hosts.spread, logits.numpy().std(axis=0, ddof=1), rtol=1e-5)
    rows = np.array([4, 1])
    some = hosts.take(rows)
    assert len(some) == 2
    assert torch.equal(some.images, hosts.images[rows])
    assert torch.equal(some.logits, hosts.logits[rows])


def test_an_audit_asks_about_its_hosts_once(clean: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = opened(ByHand())
    hosts = classifier.tensor(clean[np.linspace(0, len(clean) - 1, 24).round().astype(int)])
    asked = []
    logits = Classifier.logits

    def recorded(self: Classifier, images: Tensor | Images) -> Tensor:
        asked.append(isinstance(images, Tensor) and images.shape == hosts.shape and torch.equal(images, hosts))
        return logits(self, images)

    monkeypatch.setattr(Classifier, "logits", recorded)
    examine_model(classifier, clean)
    assert sum(asked) == 1
