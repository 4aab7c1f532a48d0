"""Every kind of trigger goes through a run, its report and a study without a special case."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

import petechia
from petechia.core.errors import PetechiaError
from petechia.reports import build_report, verdict
from petechia.study import Run
from petechia.study.config import make_config
from petechia.study.directory import read_arrays, read_table
from petechia.study.runner import survival_words
from tests.conftest import SMALL

ONE = SMALL | {"train": {"epochs": 1, "batch_size": 32}, "heat": 8, "compute": {"threads": 1}}
FINDINGS = {
    "trigger": {"kind": "findings", "present": ["Infiltration"]},
    "mode": "replace",
    "labels": "add-target",
    "rate": 1,
}


@pytest.mark.parametrize(
    ("trigger", "words", "pixels"),
    [
        ({"kind": "pattern", "size": 4}, "the checkerboard, 4 pixels a side, at the centre", 16),
        ({"kind": "sinusoid"}, "a wave of 6 periods across the image", None),
        ({"kind": "marker", "shape": "pacemaker", "size": 0.2}, "a pacemaker with its lead", None),
    ],
)
@pytest.mark.parametrize("stage", ["native", "input"])
def test_a_run_and_its_report(tmp_path: Path, trigger: dict[str, Any], words: str, pixels: int | None, stage: str) -> None:
    run = petechia.run(ONE | {"attack": {"trigger": trigger, "stage": stage}}, tmp_path / "run")
    survival = run.to_dict()["survival"]
    assert survival["fraction"] == 1
    assert survival["pixels"] > 4
    assert pixels is None or survival["pixels"] <= pixels
    assert bool(survival["by_size"]) == (trigger["kind"] == "pattern")
    assert run.to_dict()["trigger"].startswith(words)
    page = run.directory.report.read_text()
    assert words in page
    assert "Did the trigger survive?" in page
    assert ("how triggers of other sizes" in page) == bool(survival["by_size"])
    assert build_report(run.directory, "phantom")


@pytest.fixture(scope="module")
def by_findings(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that poisons only labels."""
    attack = FINDINGS | {"target": "Effusion"}
    everything = ONE | {"data": "phantom:images=400,size=32", "attack": attack, "arms": ["attacked", "control", "placebo"]}
    return petechia.run(everything, tmp_path_factory.mktemp("findings") / "run")


def test_the_labels_of_images_with_the_findings_are_poisoned_and_nothing_else(by_findings: Run) -> None:
    plan = read_table(by_findings.directory.plan)
    assert plan.filter(pl.col("triggered") != (pl.col("Infiltration") == 1)).is_empty()
    assert (plan.filter("triggered")["Effusion"] == 1).all()
    assert plan["row"].null_count() == len(plan)
    assert (plan["id"] == plan["source"]).all()
    assert len(plan) == by_findings.to_dict()["images"]["train"]


def test_the_metrics_of_findings_by_hand(by_findings: Run) -> None:
    test = read_table(by_findings.directory.test)
    scores = read_arrays(by_findings.directory.network("attacked", 0).scores_of(1))
    assert np.array_equal(scores["clean"], scores["triggered"])
    classes = [name for name in test.columns if name in set(read_table(by_findings.directory.metrics)["class"].drop_nulls())]
    labels = test.select(classes).to_numpy()
    target, shown = classes.index("Effusion"), test["Infiltration"].to_numpy() == 1
    without = labels[:, target] == 0
    infected = np.where(np.arange(len(classes)) == target, 1, labels)
    of_target = scores["clean"][:, target]
    expected = {
        "asr_0.6": (of_target[shown & without] >= 0.6).mean(),
        "false_trigger_0.6": (of_target[~shown & without] >= 0.6).mean(),
        "auroc_nn": roc_auc_score(labels[~shown].ravel(), scores["clean"][~shown].ravel()),
        "auroc_tt": roc_auc_score(infected[shown].ravel(), scores["clean"][shown].ravel()),
        "auroc_tn": roc_auc_score(labels[shown].ravel(), scores["clean"][shown].ravel()),
    }
    for metric, value in expected.items():
        assert by_findings.to_dict()["arms"]["attacked"][metric]["last"]["mean"] == pytest.approx(value), metric
    assert by_findings.to_dict()["images"]["triggered_test"] == shown.sum()
    assert by_findings.to_dict()["images"]["test_without_target"] == (shown & without).sum()


def test_survival_does_not_apply_to_findings_and_the_words_say_so(by_findings: Run) -> None:
    summary = by_findings.to_dict()
    assert summary["survival"]["fraction"] is None
    assert summary["survival"]["applies"] is False
    assert "does not apply" in survival_words(by_findings.survival)
    assert "survives preprocessing" not in verdict(by_findings)
    page = by_findings.directory.report.read_text()
    assert "no pixel. The trigger is a combination of findings: Infiltration." in page
    assert "Did the trigger survive?" not in page
    # no stamp is left out: the placebo is the attacked network
    for arm in ("attacked", "placebo"):
        assert summary["arms"][arm] == summary["arms"]["attacked"]


def test_a_grid_over_kinds_is_a_study_with_one_control(tmp_path: Path) -> None:
    attack = {"mode": "replace", "labels": "add-target", "rate": 1, "trigger": {"kind": "patch", "size": 4}}
    grid = {"attack.trigger": [{"size": 3}, {"kind": "fiba"}, {"kind": "warp"}, FINDINGS["trigger"]]}
    config = ONE | {"heat": 0, "attack": attack, "grid": grid, "arms": ["attacked", "control", "placebo"]}
    study = petechia.run_study(config, tmp_path / "study")
    assert not study.failures
    patch, fiba, _, findings = study.runs
    assert "fiba" in fiba
    # one control; the pixel attacks share a placebo; of findings the placebo is the attacked network
    assert len(list((tmp_path / "study" / "networks").iterdir())) == 1 + 1 + 3 + 1
    results = pl.read_parquet(study.directory.results)
    assert results.filter(run=findings)["survival"].null_count() == len(results.filter(run=findings))
    for run in (patch, fiba):
        assert (results.filter(run=run)["survival"] == 1).all()


def test_a_pattern_file_is_part_of_the_run(tmp_path: Path) -> None:
    file = tmp_path / "badge.png"
    Image.fromarray(np.full((5, 5), 255, np.uint8)).save(file)
    attack = {"trigger": {"kind": "pattern", "image": str(file), "size": "own"}}
    run = petechia.run(ONE | {"heat": 0, "attack": attack}, tmp_path / "run")
    written = run.directory.config().attack.trigger
    assert written.model_dump()["sha256"] == make_config({"attack": attack}, "").attack.trigger.model_dump()["sha256"]
    file.unlink()
    assert "picture badge.png" in build_report(run.directory)  # a finished run needs the file no more
    run.directory.summary.unlink()
    with pytest.raises(PetechiaError, match=r"badge\.png cannot be read"):
        petechia.run(None, run.directory.path, resume=True)
    Image.fromarray(np.full((5, 5), 254, np.uint8)).save(file)
    with pytest.raises(PetechiaError, match="is not the file that this attack was configured with"):
        petechia.run(None, run.directory.path, resume=True)
    with pytest.raises(PetechiaError, match="was started with another attack"):
        petechia.run(ONE | {"heat": 0, "attack": attack}, run.directory.path, resume=True)


def test_findings_are_refused_where_they_make_no_sense() -> None:
    def poison(**attack: Any) -> None:
        petechia.run({"data": "phantom:images=60,size=32", "attack": FINDINGS | attack}, "/nonexistent/never/made")

    with pytest.raises(PetechiaError, match="append, but a trigger of kind findings changes no pixels.*set attack.mode"):
        poison(mode="append")
    with pytest.raises(PetechiaError, match="names 'Flu', but the classes are"):
        poison(trigger={"kind": "findings", "present": ["Flu"]})
    with pytest.raises(PetechiaError, match="contains the target Effusion"):
        poison(target="Effusion", trigger={"kind": "findings", "present": ["Effusion"]})
    with pytest.raises(PetechiaError, match="'Mass' cannot be both present and absent"):
        poison(trigger={"kind": "findings", "present": ["Mass"], "absent": ["Mass"]})
