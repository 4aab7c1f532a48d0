import numpy as np
import pytest
import torch

from petechia.core.runtime import Compute, Runtime
from petechia.data import Preprocess, Selection
from petechia.models.feeding import Feed
from petechia.models.model import Architecture, create
from petechia.models.scoring import Predictor, predict
from tests.conftest import Steps
from tests.core.rerunning import Rerunning

TINY = Architecture(arch="test_resnet")
CLASSES = ("A", "B", "C")
GEOMETRY = Preprocess(size=32)


def test_predict_gives_probabilities_in_order_whatever_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Compute(precision="fp32").start()
    images = np.random.default_rng(0).integers(0, 256, (30, 32, 32), dtype=np.uint8)
    model = runtime.to_device(create(TINY, CLASSES, GEOMETRY, 0))
    rows = np.arange(30)[::-1]
    whole = predict(model, Selection(images, rows), runtime)
    monkeypatch.setattr("petechia.models.scoring.images_at_once", lambda *_: 7)
    seen = Steps()
    parts = predict(model, Selection(images, rows), runtime, seen)
    assert seen == [7, 7, 7, 7, 2]
    assert whole.dtype == np.float32
    assert np.allclose(whole, parts, atol=1e-5)
    with torch.inference_mode():
        by_hand = model(torch.from_numpy(images[::-1].copy()).float()[:, None].to(runtime.device) / 255).sigmoid().cpu().numpy()
    assert np.allclose(whole, by_hand, atol=1e-5)
    assert predict(model, Selection(images, rows[:0]), runtime).shape == (0, 3)


def test_a_recorded_predictor_gives_the_same_scores_and_follows_the_weights() -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 32, 32), dtype=np.uint8)
    model = create(TINY, CLASSES, GEOMETRY, 0)
    recorder = Rerunning()
    recorded = Predictor(model, Runtime(torch.device("cpu"), bf16=False, recorder=recorder))
    plain = Runtime(torch.device("cpu"), bf16=False)
    feed = Feed(images, plain)
    for _ in range(5):
        assert np.array_equal(recorded(feed), predict(model, images, plain))
    assert len(recorder.recorded) == 2  # 256 images, and the 44 that are left
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    assert np.array_equal(recorded(feed), predict(model, images, plain))
