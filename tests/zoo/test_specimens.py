from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from petechia.cli.commands import app
from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute
from petechia.study.progress import StudyProgress
from petechia.study.study import StudyDirectory, run_study
from petechia.zoo.design import load_design, members, runs_of
from petechia.zoo.specimens import CLEAN, Specimen, list_models, specimens

DESIGN = """
base: {arms: [attacked, control], heat: 0, bootstrap: 20, train: {epochs: 1}, preprocess: {size: 16}, compute: {threads: 1}}
halves:
  tune:
    {data: "phantom:images=700,size=16,seed=0", hosts: [{arch: test_resnet, seed: 0}], targets: [Edema, Mass], given: [1, 2]}
  judge:
    {data: "phantom:images=700,size=16,seed=1", hosts: [{arch: test_resnet, seed: 1}], targets: [Mass, Edema], given: [3, 4]}
attacks:
  - {trigger: {size: 4}}
  - {trigger: {size: 3, location: given, value: 255}, mode: replace}
"""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    (folder / "design.yaml").write_text(DESIGN)
    runs = runs_of(members(load_design(folder / "design.yaml")))
    assert not run_study(runs, StudyDirectory(folder / "zoo"), StudyProgress()).failures
    return folder / "zoo"


def test_every_attacked_model_is_there_and_every_clean_one_once(zoo: Path) -> None:
    found = list(specimens(zoo))
    assert [(one.half, one.arm) for one in found] == [
        ("tune", "attacked"),
        ("tune", "control"),
        ("tune", "attacked"),
        ("judge", "attacked"),
        ("judge", "control"),
        ("judge", "attacked"),
    ]
    assert {one.half for one in specimens(zoo, "judge")} == {"judge"}


def test_a_zoo_of_clean_models_alone(tmp_path: Path) -> None:
    (tmp_path / "design.yaml").write_text(
        DESIGN.replace("[attacked, control]", "[control]").partition("  judge:")[0] + "attacks: [{trigger: {size: 4}}]"
    )
    runs = runs_of(members(load_design(tmp_path / "design.yaml")))
    run_study(runs, StudyDirectory(tmp_path / "zoo"), StudyProgress())
    assert [(one.arm, one.excess) for one in specimens(tmp_path / "zoo")] == [("control", 0)]


def _first(zoo: Path) -> Specimen:
    return next(iter(specimens(zoo)))


def test_images_to_fit_and_to_judge_are_apart_unseen_in_training_and_without_the_target(zoo: Path) -> None:
    one = _first(zoo)
    fitted = {image.tobytes() for image in one.clean[np.arange(CLEAN)]}
    clean, triggered = one.judged(20)
    data = one.run_data.dataset
    trained = {data.images[row].tobytes() for row in data.rows("train")}
    judged = {image.tobytes() for image in clean[np.arange(len(clean))]}
    assert len(fitted) == len(one.clean) == CLEAN
    assert not fitted & judged
    assert not trained & (fitted | judged)
    assert (data.labels[clean.rows, one.run_data.target] == 0).all()
    differ = clean[np.arange(20)] != triggered[np.arange(20)]
    assert not differ[:, :6].any()
    assert differ[:, 6:10, 6:10].any(axis=(1, 2)).all()


def test_a_specimen_is_opened_after_its_last_epoch(zoo: Path) -> None:
    one = _first(zoo)
    classifier = one.classifier(Compute(threads=1).start())
    assert one.file.name == "epoch-01.safetensors"
    assert classifier.classes == one.run_data.dataset.classes


def test_an_attack_that_did_not_take_is_not_called_a_backdoor(zoo: Path) -> None:
    one = _first(zoo)
    assert one._replace(excess=0.5).backdoored
    assert not one._replace(excess=0.49).backdoored
    assert all(not specimen.backdoored for specimen in specimens(zoo) if specimen.arm == "control")


def test_the_command_lists_what_is_there(zoo: Path) -> None:
    result = CliRunner().invoke(app, ["zoo", str(zoo), "--describe"], env={"COLUMNS": "180"})
    assert result.exit_code == 0, result.output
    assert "6 models" in result.output
    assert [one.took for one in list_models(zoo).models].count(None) == 2


def test_a_zoo_that_is_not_there_is_explained(tmp_path: Path) -> None:
    with pytest.raises(PetechiaError, match="holds no study"):
        list(specimens(tmp_path))
