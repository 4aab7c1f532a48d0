"""The harness of the peers: any detector, ours or theirs, is judged by its findings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import nn

from benchmarks.peers import __main__ as harness
from benchmarks.peers import cleanse, scaling, sentinet, ted
from benchmarks.peers.measures import FPR, Scores, of_images, of_model, of_training_set
from benchmarks.peers.rules import Defence, ImageRule
from benchmarks.peers.table import markdown
from benchmarks.peers.training_sets import FeatureRanks, TrainingSet
from petechia.core.errors import PetechiaError
from petechia.detect.protocol import Calibration, Detector, Finding, ImagesUnderTest, ModelUnderTest
from petechia.detect.screen import ImageScreen
from tests.conftest import unasked
from tests.detect.screen.conftest import ByHand, opened, stamped

Images = NDArray[np.uint8]
RNG = np.random.default_rng(0)
CLEAN, JUDGED = (RNG.integers(0, 200, (count, 8, 8), dtype=np.uint8) for count in (150, 40))
TRIGGERED = JUDGED + np.uint8(20)


class Mean(Defence[Scores]):
    """The mean of each image, and a count of the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []

    def fit(self, clean: ImagesUnderTest) -> Scores:
        self.calls.append(("fit", len(clean.images)))
        return np.asarray(clean.images.mean(axis=(1, 2)))

    def ask(self, subject: ImagesUnderTest) -> Scores:
        self.calls.append(("ask", len(subject.images)))
        return np.asarray(subject.images.mean(axis=(1, 2)))


class Bright(ImageRule[Scores]):
    def values(self, fitted: Scores) -> dict[str, Any]:
        return {"usual": float(fitted.mean())}

    def scores(self, found: Scores, values: Mapping[str, Any]) -> Scores:
        return np.asarray(found - values["usual"])

    def own_verdict(self, found: Scores) -> NDArray[np.bool_]:
        return np.asarray(found > 115)


def _given(images: Images) -> ImagesUnderTest:
    return ImagesUnderTest(unasked("A", size=8), images)


def test_a_rule_is_measured_by_its_findings() -> None:
    rule: Detector[ImagesUnderTest] = Bright("bright", Mean())
    calibration = rule.calibrate([_given(CLEAN)])
    clean, triggered = (rule.examine(_given(some), calibration).findings for some in (JUDGED, TRIGGERED))
    found = of_images(clean, triggered)
    fitted, before, after = (images.mean(axis=(1, 2)) for images in (CLEAN, JUDGED, TRIGGERED))
    threshold = sorted(fitted)[int(np.ceil(0.99 * (len(fitted) - 1)))]
    assert found["auroc"]["value"] == pytest.approx(roc_auc_score(np.repeat([0, 1], 40), np.concatenate([before, after])))
    assert (found["tpr"]["hits"], found["fpr"]["hits"]) == ((after > threshold).sum(), (before > threshold).sum())
    assert 0 < found["tpr"]["hits"] <= found["tpr"]["of"] == 40
    assert (found["own_tpr"]["hits"], found["own_fpr"]["hits"]) == ((after > 115).sum(), (before > 115).sum())
    assert {one.false_positive_rate for one in clean} == {FPR}


def test_several_rules_ask_once_and_in_the_order_of_the_images() -> None:
    mean = Mean()
    for name in ("one", "two"):
        rule = Bright(name, mean)
        calibration = rule.calibrate([_given(CLEAN)])
        for images in (JUDGED, TRIGGERED[:30]):
            rule.examine(_given(images), calibration)
    assert mean.calls == [("fit", 150), ("ask", 40), ("ask", 30)]
    with pytest.raises(PetechiaError, match="for the detector 'two', not for 'one'"):
        Bright("one", mean).examine(_given(JUDGED), calibration)
    with pytest.raises(PetechiaError, match="one takes the clean images of one model"):
        Bright("one", mean).calibrate([])


def test_a_filter_is_measured_on_the_rows_that_its_findings_are_about() -> None:
    rows, scores = [5, 2, 9, 7], [1.0, 4.0, 3.0, 2.0]
    findings = [
        Finding(about=str(row), kind="image", score=one, flagged=one > 2.5) for row, one in zip(rows, scores, strict=True)
    ]
    truth = np.isin(np.arange(10), [2, 7])
    found = of_training_set(findings, truth)
    assert found["auroc"]["value"] == pytest.approx(0.75)  # of 2 and 7 against 5 and 9, three of four pairs are in order
    assert (found["recall"]["hits"], found["recall"]["of"]) == (1, 2)
    assert (found["precision"]["hits"], found["precision"]["of"]) == (1, 2)
    assert (found["clean_flagged"]["hits"], found["clean_flagged"]["of"]) == (1, 2)


def test_our_ranking_is_a_detector_of_training_sets() -> None:
    features = RNG.normal(size=(120, 4)).astype(np.float32)
    features[:10] += 25
    labels = np.zeros((120, 2), np.int8)
    labels[:60, 0] = 1
    ranks = FeatureRanks()
    findings = ranks.examine(TrainingSet(features, labels, 0), ranks.calibrate([])).findings
    assert [one.about for one in findings] == [str(row) for row in range(120)]
    assert not any(one.flagged for one in findings)
    assert of_training_set(findings, np.arange(120) < 10)["auroc"]["value"] > 0.9


def test_neural_cleanse_has_a_finding_for_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    triggers = iter([cleanse.Trigger(size, 1.0, 7) for size in (100.0, 10.0)])
    monkeypatch.setattr(cleanse, "reconstruct", lambda *_given: next(triggers))
    monkeypatch.setattr(cleanse, "anomaly", lambda sizes: np.where(sizes == 10, 3.0, 0.0))
    peer = cleanse.NeuralCleanse()
    found = of_model(
        peer.examine(ModelUnderTest(opened(ByHand()), np.zeros((2, 32, 32), np.uint8)), peer.calibrate([])).findings
    )
    assert found["flagged"] == ["Bright"]
    assert found["index"] == {"Target": 0.0, "Bright": 3.0}
    assert found["triggers"]["Bright"] == {"size": 10.0, "success": 1.0, "steps": 7}


def test_sentinet_scores_what_its_points_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def points(_classifier: object, images: Any, _hosts: object, _chance: object) -> sentinet.Points:
        confidence = images.numpy().mean(axis=(1, 2, 3)).astype(np.float64)
        return sentinet.Points(confidence**2, confidence)

    monkeypatch.setattr(sentinet, "points", points)
    results = {}
    for rule in sentinet.detectors():
        calibration = Calibration.model_validate_json(rule.calibrate([_given(CLEAN)]).model_dump_json())  # as from a file
        results[rule.name] = np.array([one.score for one in rule.examine(_given(JUDGED), calibration).findings])
    confidence = JUDGED.mean(axis=(1, 2)) / 255
    assert results["BackdoorBench"] == pytest.approx(confidence)
    assert results["fooled alone"] == pytest.approx(confidence**2)
    assert results["boundary"] == pytest.approx(np.zeros(40), abs=1e-6)  # they lie on the parabola


def test_ted_tells_a_black_square_from_clean_images() -> None:
    drawn = np.clip(150 + 20 * np.random.default_rng(0).normal(size=(90, 32, 32)), 0, 255).astype(np.uint8)
    classifier, clean, judged = opened(ByHand()), drawn[:60], drawn[60:]
    rule = ted.Unusual("TED++", ted.Trajectories())
    calibration = Calibration.model_validate_json(rule.calibrate([ImagesUnderTest(classifier, clean)]).model_dump_json())
    found = [
        rule.examine(ImagesUnderTest(classifier, some), calibration).findings for some in (judged, stamped(judged, 14, 20))
    ]
    assert of_images(*found)["auroc"]["value"] > 0.9


def test_scale_up_counts_brighter_copies_that_keep_their_label() -> None:
    classifier, images = opened(ByHand()), np.full((2, 32, 32), 30, np.uint8)  # dark: "Target" is likelier than "Bright"
    images[1] = stamped(np.full((1, 32, 32), 120, np.uint8), 14, 20)[0]  # a black square stays black
    labels, kept = scaling.ScaledPixels().ask(ImagesUnderTest(classifier, images))
    by_hand = []
    for image in images:
        scaled = [np.minimum(image.astype(int) * factor, 255).astype(np.uint8) for factor in (1, *scaling.FACTORS)]
        first, *others = classifier.logits(np.stack(scaled)).argmax(dim=1).tolist()
        by_hand.append(np.mean([one == first for one in others]))
    assert labels.tolist() == [0, 0]
    assert kept == pytest.approx(by_hand)
    assert kept[1] == 1 > kept[0]


def test_amplified_models_are_asked_for_the_first_answer() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    ).eval()
    norm: Any = network[1]
    with scaling.amplified([norm]):
        assert norm.weight.tolist() == [scaling.AMPLIFIED] * 4
    assert norm.weight.tolist() == [1.0] * 4
    classifier, images = opened(network), RNG.integers(0, 256, (6, 32, 32), dtype=np.uint8)
    defence = scaling.AmplifiedParameters()
    found = defence.fit(ImagesUnderTest(classifier, images))
    given = torch.from_numpy(images).float()[:, None] / 255
    with torch.inference_mode():
        label = network(given).argmax(dim=1)
        with scaling.amplified([norm]):
            sure = network(given).softmax(dim=1).gather(1, label[:, None])[:, 0]
    assert found == pytest.approx(sure.numpy(), abs=1e-4)  # one normalization: all amplified models are the same


def test_the_harness_takes_registered_detectors_as_well() -> None:
    (ours,) = harness.rules_of("screen").values()
    assert isinstance(ours, ImageScreen)
    assert "screen" in harness.registered()
    assert list(harness.rules_of("SentiNet")) == [("BackdoorBench",), ("boundary",), ("fooled alone",)]


def test_results_lie_where_the_tables_look_for_them() -> None:
    finding = {"value": 0.9, "low": 0.8, "high": 1.0, "hits": 9, "of": 10}
    ours = {"auroc": finding, "tpr": finding, "fpr": finding, "seconds": 1.0}
    judged = {"flagged": ["Mass"], "index": {"Mass": 3.0}, "triggers": {}, "seconds": 2.0}
    row = {"backdoored": True, "arm": "attacked", "asr": 1.0, "targets": ["Mass"], "screen": ours, "audit": judged}
    clean = row | {"backdoored": False, "arm": "control", "audit": judged | {"flagged": [], "index": {"Mass": 1.0}}}
    said = markdown({"a attacked": row, "a control": clean}, {})
    assert "| screen | – | 1 backdoored | 0.900 (0.900–0.900) | 9 of 10: 0.90 (" in said
    assert "| audit, backdoored | 1 | 1.00 | 1 of 1: 1.00" in said
