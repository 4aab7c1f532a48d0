from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petechia.attack import Patch
from petechia.core.errors import PetechiaError
from petechia.study import StudyProgress
from petechia.study.config import load_config, make_config
from petechia.study.grid import NetworkTask, add_tasks, digest, expand
from petechia.study.run_data import load_run_data
from tests.conftest import DYING, SMALL


def grid(**values: Any) -> dict[str, Any]:
    return SMALL | {"grid": values}


def test_every_combination_is_a_run_with_a_name_for_a_folder() -> None:
    config = make_config(
        SMALL
        | {"grid": {"attack.trigger.size": [1, 3], "attack.trigger.location": ["center", [2, 5]], "seeds": [[0], [0, 1]]}},
        "",
    )
    runs = expand(config)
    assert len(runs) == 8
    assert "size-3_location-2-5_seeds-0-1" in runs
    chosen = runs["size-3_location-2-5_seeds-0-1"]
    assert chosen.attack.trigger == Patch(size=3, location=(2, 5))
    assert chosen.seeds == (0, 1)
    assert chosen.grid == {}
    assert chosen.train == config.train
    assert all(Path(name).name == name for name in runs)


def test_names_tell_keys_of_the_same_last_part_apart() -> None:
    runs = expand(make_config(SMALL | {"grid": {"preprocess.size": [32], "attack.trigger.size": [2]}}, ""))
    assert list(runs) == ["preprocess.size-32_attack.trigger.size-2"]


def test_a_configuration_without_a_grid_is_one_run() -> None:
    config = make_config(SMALL, "")
    assert list(expand(config).values()) == [config]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"attack.trigger.sise": [1]}, "'attack.trigger.sise' is not a key; did you mean 'attack.trigger.size'"),
        ({"attack.rate": []}, "'attack.rate' has no values"),
        ({"grid": [1]}, "'grid' is not a key"),
        ({"attack.rate": 0.1}, "grid"),
        ({"attack.rate": [0.1, 0.1]}, "same run twice"),
        ({"attack.trigger.location": ["center", "centre"]}, "attack.trigger.location"),
        ({"attack.rate": [2]}, "attack.rate in the grid"),
    ],
)
def test_bad_grids_are_one_sentence(values: dict[str, Any], said: str) -> None:
    with pytest.raises(PetechiaError, match=said):
        expand(make_config(SMALL | {"grid": values}, "my.yaml"))


def test_a_grid_can_stand_in_a_file_and_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text("grid: {attack.trigger.size: [1, 2]}\n")
    assert len(expand(load_config(file))) == 2
    assert len(expand(load_config(overrides=["grid={attack.rate: [0.1, 0.2, 0.4]}"]))) == 3


def tasks_of(runs: dict[str, Any]) -> dict[str, NetworkTask]:
    tasks: dict[str, NetworkTask] = {}
    for name, config in runs.items():
        add_tasks(tasks, name, config, load_run_data(config, StudyProgress()))
    return tasks


def test_networks_that_would_come_out_the_same_are_trained_once() -> None:
    arms = ["attacked", "control", "placebo"]
    tasks = tasks_of(expand(make_config(DYING | {"arms": arms, "grid": {"attack.trigger.size": [1, 2, 3, 4]}}, "")))
    users = sorted(sorted((name, arm) for name, arm, _ in task.needed_by) for task in tasks.values())
    every = [f"size-{size}" for size in (1, 2, 3, 4)]
    assert users == [
        sorted([("size-1", "attacked"), ("size-2", "attacked"), *((name, "placebo") for name in every)]),
        [(name, "control") for name in every],
        [("size-3", "attacked")],
        [("size-4", "attacked")],
    ]
    control = next(task for task in tasks.values() if task.arm == "control")
    assert [images for _, _, images in control.needed_by[:2]] == ["clean", "clean"]
    assert len(control.triggered) == 2  # 3 × 3 and 4 × 4 survive, each in its own way


@pytest.mark.parametrize(
    ("change", "networks"),
    [
        ({"attack.trigger.value": [0, 255]}, 3),
        ({"attack.target": ["Mass", "Effusion"]}, 3),
        ({"attack.rate": [0.2, 0.4]}, 3),
        ({"attack.labels": ["target-only", "add-target"]}, 3),
        ({"attack.mode": ["append", "replace"]}, 3),
        ({"train.loss": ["bce", "sigmoid-cce"]}, 4),
        ({"model.arch": ["test_resnet", "test_vit"]}, 4),
        ({"seeds": [[0], [1]]}, 4),
        ({"data": ["phantom:images=160,size=32", "phantom:images=170,size=32"]}, 4),
        ({"bootstrap": [20, 30]}, 2),
    ],
)
def test_what_a_network_depends_on_tells_networks_apart_and_nothing_else_does(change: dict[str, Any], networks: int) -> None:
    assert len(tasks_of(expand(make_config(SMALL | {"grid": change}, "")))) == networks


def test_digests_look_at_type_shape_and_content() -> None:
    zeros = np.zeros(4, np.uint8)
    assert digest() == "clean"
    several = [digest(zeros), digest(zeros.reshape(2, 2)), digest(zeros.view(np.int8)), digest(zeros[:2], zeros[2:])]
    assert len(set(several)) == 4
    assert digest(zeros) == digest(np.zeros(8, np.uint8)[::2])
