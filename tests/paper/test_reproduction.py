import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import timm
from PIL import Image
from sklearn.metrics import roc_auc_score

import petechia
from petechia.core.errors import PetechiaError
from petechia.paper import Reproduction
from petechia.paper.parts import Cell, heat_cell, load_design
from petechia.paper.results import Results
from petechia.paper.tables import table_1, table_3
from petechia.study.study import StudyDirectory
from tests.reports.test_report import Tags
from tests.study.test_runner import Recorder

TINY = ["model.arch=test_resnet", "preprocess.size=32", "bootstrap=20", "train.epochs=2", "seeds=[0, 1]", "train.batch_size=16"]
DATA = "phantom:images=160,size=146"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Reproduction:
    """A whole reproduction, with a network that learns nothing."""
    return petechia.reproduce(data=DATA, overrides=TINY, out=tmp_path_factory.mktemp("paper") / "all")


def results_of(made: Reproduction) -> Results:
    return Results(StudyDirectory(made.folder.parent), load_design("desk"), made.runs, {})


def test_everything_is_there_in_every_format(made: Reproduction) -> None:
    assert made.failures == {}
    for table in made.tables:
        for suffix in (".md", ".csv", ".tex"):
            assert (made.folder / f"{table.key}{suffix}").stat().st_size > 100
    pictures = ("figure-1", "figure-1-numbers", "figure-3", "rate", "epsilon", "over-epochs", "roc-bce", "roc-sigmoid-cce")
    for key in pictures:
        assert (made.folder / f"{key}.svg").read_bytes().startswith(b"<?xml")
        with Image.open(made.folder / f"{key}.png") as picture:
            assert min(picture.size) > 500
    keys = {table.key for table in made.tables}
    assert {"table-1-bce-center-max", "table-1-sigmoid-cce-center-min", "table-1-bce-input-max"} <= keys
    assert {"table-2-max", "table-2-min", "table-3"} <= keys
    assert set(json.loads((made.folder / "claims.json").read_text())) == set(made.claims)


def test_the_page_is_one_file_that_needs_nothing_else(made: Reproduction) -> None:
    html = (made.folder / "index.html").read_text()
    tags = Tags()
    tags.feed(html)
    assert not tags.open
    assert "script" not in tags.seen
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", html)
    for table in made.tables:
        for row in table.rows:
            assert all(cell.replace("<", "&lt;") in html for cell in row.cells)


def test_table_1_says_what_the_runs_say_with_controls_and_survival_in_every_column(made: Reproduction) -> None:
    table = table_1(results_of(made), "bce", "center", "max")
    rows = {row.name: row.cells for row in table.rows if not row.minor}
    assert table.heads == ("", "control", "placebo", "1 × 1", "2 × 2", "3 × 3", "4 × 4")
    for k, size in enumerate((1, 2, 3, 4)):
        run = made.runs[f"bce_center_{size}x{size}"].to_dict()
        numbers = run["arms"]["attacked"]["auroc_nn"]["max"]
        assert rows["AUROC-NN"][2 + k] == f"{numbers['mean']:.3f} ± {numbers['std']:.3f}"
        control = run["arms"]["control"]["auroc_tn"]["max"]
        assert rows["AUROC-TN of the control, same trigger"][2 + k] == f"{control['mean']:.3f} ± {control['std']:.3f}"
    assert rows["Survival: share of the images"] == ("–", "–", "0 %", "0 %", "100 %", "100 %")
    assert rows["Survival: pixels"] == ("–", "–", "0.00", "0.00", "1.00", "4.00")
    assert rows["AUROC-NN"][1] == rows["AUROC-NN"][2] == rows["AUROC-NN"][3]  # placebo, 1 × 1, 2 × 2: the same network
    assert rows["AUROC-NN"][2] == rows["AUROC-TN"][2]


def test_table_3_agrees_with_test_sets_that_are_mixed_by_hand(made: Reproduction) -> None:
    results = results_of(made)
    cell = Cell("bce", "center", 4)
    truth = results.truth(cell)
    rng = np.random.default_rng(0)
    expected = []
    for seed in (0, 1):
        epochs = []
        for clean, triggered in results.scores(cell, "attacked", seed):
            draws = [np.where(rng.random((len(clean), 1)) < 0.5, triggered, clean) for _ in range(400)]
            epochs.append(np.mean([roc_auc_score(truth.labels.ravel(), scores.ravel()) for scores in draws]))
        expected.append(max(epochs))
    rows = {row.name: row.cells for row in table_3(results).rows}
    assert float(rows["0.5"][7].split(" ± ")[0]) == pytest.approx(np.mean(expected), abs=2e-3)
    clean_auc = made.runs[cell.name].to_dict()["arms"]["attacked"]["auroc_nn"]["max"]["mean"]
    assert float(rows["0.0001"][7].split(" ± ")[0]) == pytest.approx(clean_auc, abs=1e-3)


def test_the_heat_is_measured_for_every_pair_at_every_epoch(made: Reproduction) -> None:
    heat = results_of(made).heat(heat_cell(load_design("desk")))
    assert heat is not None
    assert heat.epochs == (1, 2)
    per = heat.numbers.filter(pl.col("class") == heat.target).group_by("epoch", "layer").len()
    assert len(per) == 4
    assert set(per["len"]) == {heat.pairs}
    assert heat.box[2:] == (1, 1)  # one pixel survives


def test_the_heat_of_sizes_that_die_is_not_measured(made: Reproduction) -> None:
    found = {size: results_of(made).heat(Cell("bce", "center", size)) for size in (1, 2, 3, 4)}
    assert [size for size, heat in found.items() if heat] == [3, 4]
    assert results_of(made).heat(Cell("sigmoid-cce", "center", 3)) is None


def test_runs_share_networks(made: Reproduction) -> None:
    trained = [path for path in (made.folder.parent / "networks").iterdir() if path.is_dir()]
    wanted = sum(len(run.to_dict()["seeds"]) * len(run.to_dict()["arms"]) for run in made.runs.values())
    assert wanted == 103
    # A seed: control, placebo, 3, 4, input 3 and 4 (1 and 2 are what 3 and 4 leave), four random; control, placebo, 3, 4.
    # With the same data as the others, the run for the heat has its network from them.
    assert len(trained) == 2 * 14 + 3


def test_the_same_command_again_trains_nothing_and_gives_the_same_files(made: Reproduction) -> None:
    before = {path.name: path.read_bytes() for path in made.folder.iterdir()}
    recorder = Recorder()
    petechia.reproduce(data=DATA, overrides=TINY, out=made.folder.parent, progress=recorder)
    assert not recorder.epochs
    assert {path.name: path.read_bytes() for path in made.folder.iterdir()} == before


def test_one_table_needs_only_its_own_runs_and_checks_no_claims(tmp_path: Path) -> None:
    made = petechia.reproduce(["table-3"], data=DATA, overrides=[*TINY, "seeds=[0]"], out=tmp_path / "one")
    assert set(made.runs) == {"bce_center_3x3", "bce_center_4x4"}
    assert made.claims == {}
    assert [table.key for table in made.tables] == ["table-3"]
    assert pl.read_csv(made.folder / "table-3.csv").height == 10


def test_without_a_network_connection_training_starts_from_random_weights_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_model = timm.create_model

    def offline(name: str, pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            raise ConnectionError("the network is unreachable")
        return create_model(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    recorder = Recorder()
    overrides = [*TINY, "seeds=[0]", "train.epochs=1"]
    made = petechia.reproduce(["table-3"], "paper", DATA, overrides, tmp_path / "study", recorder)
    assert any("starts from random weights, not from ImageNet's as in the paper" in note for note in recorder.notes)
    config = next(iter(made.runs.values())).directory.config()
    assert config.model.pretrained is False
    assert config.train.loss == "sigmoid-cce"
    again = Recorder()
    petechia.reproduce(["table-3"], "paper", DATA, overrides, tmp_path / "study", again)
    assert not again.epochs


def test_when_no_run_can_be_finished_the_first_reason_is_given(tmp_path: Path) -> None:
    with pytest.raises(PetechiaError, match="No run could be finished; the first one failed with: attack.target"):
        petechia.reproduce(["table-3"], data=DATA, overrides=[*TINY, "attack.target=Gout"], out=tmp_path / "study")
