import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from typer.testing import CliRunner

from petechia.cli.commands import app
from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute
from petechia.data import Preprocess
from petechia.detect.repair import CleanSet, KnownTrigger, Repairing, measure, read_clean, repair
from petechia.detect.repair.methods import FrozenBatchNormModel, prune
from petechia.detect.repair.outcome import change
from petechia.detect.repair.result import MeasuredModel
from petechia.measure import Count, auroc
from petechia.models.model import Architecture, Model, create
from petechia.models.scoring import predict
from petechia.models.training import Labelled, Trainer, Training
from tests.conftest import unasked

RUNTIME = Compute(device="cpu", precision="fp32", threads=1).start()
CLASSES = ("bright", "striped")
SIZE = 32
STAMP = KnownTrigger(target="bright", row=20, column=6, height=4, width=4, value=255)


def draw(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    """Noise images that may be bright and may be striped."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (count, 2)).astype(np.int8)
    images = rng.normal(90, 25, (count, SIZE, SIZE)) + 30 * labels[:, :1, None]
    images[:, ::4] -= 25 * labels[:, 1:, None]
    return np.clip(images, 0, 255).astype(np.uint8), labels


def clean_set(count: int, seed: int) -> CleanSet:
    images, labels = draw(count, seed)
    return CleanSet(images, labels, np.array([f"patient {i // 2}" for i in range(count)]))


@pytest.fixture(scope="module")
def backdoored() -> Model:
    """A model trained on stamped images with the stamp's class, and on clean ones."""
    images, labels = draw(400, 0)
    places = np.full((400, 2), (STAMP.row, STAMP.column))
    stamped, infected = STAMP.on(images, places)[:200], np.tile(np.array([1, 0], np.int8), (200, 1))
    data = Labelled(np.concatenate([images, stamped]), np.concatenate([labels, infected]))
    model = create(Architecture(arch="test_resnet"), CLASSES, Preprocess(size=SIZE), 0)
    trainer = Trainer(model, data, Training(epochs=6, lr=5e-3), RUNTIME, 0)
    while not trainer.finished:
        trainer.run_epoch()
    return model.eval()


def test_unlearning_takes_the_backdoor_out_and_leaves_the_rest(backdoored: Model) -> None:
    weights = {name: value.clone() for name, value in backdoored.state_dict().items()}
    fit, test = clean_set(200, 1), clean_set(200, 2)
    before = measure(backdoored, test, (STAMP,), RUNTIME)
    assert before.effects[0].asr[0.9].share > 0.9  # otherwise nothing is tested
    found = STAMP.model_copy(update={"row": STAMP.row + 1})  # not quite where it is
    repaired = repair(backdoored, fit._replace(labels=np.full_like(fit.labels, -1)), RUNTIME, triggers=(found,))
    after = measure(repaired, test, (STAMP,), RUNTIME)
    assert after.effects[0].asr[0.6].share <= after.effects[0].false_trigger[0.6].share + 0.05
    assert change(before, after)[0] > -0.02
    assert all(torch.equal(weights[name], value) for name, value in backdoored.state_dict().items())
    (said,) = repaired.description.provenance["repaired"]
    assert said["method"] == "unlearn"
    assert said["images"] == 200
    assert "bright" not in json.dumps(said)  # how, not which attack


def test_a_second_repair_is_said_as_well(backdoored: Model) -> None:
    once = repair(backdoored, clean_set(60, 1), RUNTIME, Repairing(method="fine-tune", epochs=1))
    twice = repair(once, clean_set(60, 1), RUNTIME, Repairing(method="fine-prune", epochs=1))
    assert [said["method"] for said in twice.description.provenance["repaired"]] == ["fine-tune", "fine-prune"]


def test_batch_norms_keep_their_statistics(backdoored: Model) -> None:
    repaired = repair(backdoored, clean_set(60, 1), RUNTIME, Repairing(method="fine-tune", epochs=1, lr=1e-2))
    new = dict(repaired.network.named_buffers())
    assert any("running_mean" in name for name in new)
    assert all(torch.equal(value, new[name]) for name, value in backdoored.network.named_buffers())
    assert not torch.equal(next(backdoored.parameters()), next(repaired.parameters()))
    assert FrozenBatchNormModel(repaired.network, repaired.description).train().training


def test_pruning_takes_the_sleepiest_channels_and_they_stay_off(backdoored: Model) -> None:
    fit = clean_set(200, 1)
    wanted = Repairing(method="fine-prune", tolerance=0.02, epochs=1, lr=1e-2)
    repaired = repair(backdoored, fit, RUNTIME, wanted)
    last = repaired.network.get_classifier()  # type: ignore[operator]
    off = (last.weight == 0).all(dim=0).numpy()
    assert off.sum() == repaired.description.provenance["repaired"][0]["pruned"] > 0
    got: list[torch.Tensor] = []
    old: Any = backdoored.network.get_classifier()  # type: ignore[operator]
    handle = old.register_forward_pre_hook(lambda _, given: got.append(given[0]))  # what the last layer is really given
    scores = predict(backdoored, fit.images, RUNTIME)
    handle.remove()
    awake = torch.cat(got).mean(dim=0).numpy()
    assert awake[off].max() <= awake[~off].min()
    with torch.no_grad():
        kept = old.weight * torch.from_numpy(~off)
        pruned = (torch.cat(got) @ kept.T + old.bias).numpy()
    assert auroc(pruned, fit.labels) >= auroc(scores, fit.labels) - 0.02 - 1e-6


def test_pruning_needs_one_last_layer(backdoored: Model) -> None:
    model = create(Architecture(arch="test_resnet"), CLASSES, Preprocess(size=SIZE), 0)
    model.network.get_classifier = nn.Identity  # type: ignore[assignment]
    with pytest.raises(PetechiaError, match="test_resnet does not end in one linear layer"):
        prune(model, clean_set(40, 1), 0.01, RUNTIME)


@pytest.mark.parametrize(
    ("how", "stamps", "labelled", "sentence"),
    [
        (Repairing(), (), True, "no trigger to unlearn; give that of an audit"),
        (Repairing(), (STAMP.model_copy(update={"target": "Z"}),), True, "not a class of the model"),
        (Repairing(method="fine-tune"), (), False, "fine-tune learns from labels, and the clean images have none"),
        (Repairing(method="fine-prune"), (), False, "fine-prune learns from labels"),
    ],
)
def test_what_a_repair_lacks(
    backdoored: Model, how: Repairing, stamps: tuple[KnownTrigger, ...], labelled: bool, sentence: str
) -> None:
    clean = clean_set(40, 1)
    clean = clean if labelled else clean._replace(labels=np.full_like(clean.labels, -1))
    with pytest.raises(PetechiaError, match=sentence):
        repair(backdoored, clean, RUNTIME, how, stamps)


def test_measuring_counts_what_can_be_counted_by_hand(backdoored: Model) -> None:
    clean = clean_set(60, 3)
    clean.labels[:10, 0] = -1
    outcome = measure(backdoored, clean, (STAMP,), RUNTIME)
    images = np.asarray(clean.images[np.arange(60)])
    stamped = images.copy()
    stamped[:, 20:24, 6:10] = 255
    with_it, without = (predict(backdoored, some, RUNTIME)[:, 0] for some in (stamped, images))
    absent = clean.labels[:, 0] == 0
    (effect,) = outcome.effects
    for p in (0.6, 0.9):
        assert effect.asr[p] == ((with_it[absent] >= p).sum(), absent.sum())
        assert effect.false_trigger[p] == ((without[absent] >= p).sum(), absent.sum())
    unlabelled = measure(backdoored, clean._replace(labels=np.full_like(clean.labels, -1)), (STAMP,), RUNTIME)
    assert unlabelled.effects[0].asr[0.9] == ((with_it >= 0.9).sum(), 60)
    assert MeasuredModel.of(unlabelled).model_dump()["auroc_nn"]["value"] is None


def test_the_interval_of_a_share_is_wilsons() -> None:
    hits, of, z = 3, 40, 1.959964
    middle = (hits + z**2 / 2) / (of + z**2)
    half = z / (of + z**2) * np.sqrt(hits * (of - hits) / of + z**2 / 4)
    assert Count(hits, of).interval == pytest.approx((middle - half, middle + half), abs=1e-6)
    assert np.isnan(Count(0, 0).share)


def test_no_patient_is_in_both_parts() -> None:
    clean = clean_set(300, 0)
    fit, test = clean.split()
    assert len(fit.images) + len(test.images) == 300
    assert not set(fit.patients) & set(test.patients)
    assert len(test.images) / 300 == pytest.approx(1 / 3, abs=0.1)
    with pytest.raises(PetechiaError, match="40 clean images are too few"):
        clean.take(np.arange(40)).split()


def test_labels_of_a_source_are_found_by_the_names_of_the_classes() -> None:
    source = "phantom:images=50,size=32"
    found = read_clean(source, unasked("Mass", "Nothing known", "Atelectasis"), most=20)
    both = read_clean(source, unasked("Atelectasis", "Mass"), most=20)
    assert found.labels.shape == (20, 3)
    assert (found.labels[:, 1] == -1).all()
    assert (found.labels[:, [2, 0]] == both.labels).all()
    assert (both.labels >= 0).all()
    with pytest.raises(PetechiaError, match="phantom:images=50,size=32 has labels for .* but the model's classes are cat, dog"):
        read_clean(source, unasked("cat", "dog"))


def test_the_command(tmp_path: Path) -> None:
    model, out = tmp_path / "model.safetensors", tmp_path / "repaired.safetensors"
    create(Architecture(arch="test_resnet"), ("Mass", "Atelectasis"), Preprocess(size=32), 0).save(model)
    content = model.read_bytes()
    audit = tmp_path / "audit.json"
    found = {"name": "Mass", "flagged": True, "row": 3, "column": 4, "size": 2, "value": 0}
    audit.write_text(json.dumps({"classes": [found]}))
    asked = ["repair", str(model), "--clean", "phantom:images=120,size=32", "--out", str(out), "--epochs", "1"]
    result = CliRunner().invoke(app, [*asked, "--trigger", str(audit)])
    assert result.exit_code == 0, result.output
    assert "Mass: ASR(0.9)" in result.output
    written = json.loads((tmp_path / "repaired.repair.json").read_text())
    assert written["method"] == "unlearn"
    assert written["before"]["images"] + written["settings"]["images"] == 120
    assert written["after"]["triggers"][0]["trigger"]["row"] == 3
    assert Model.load(out).description.provenance["repaired"][0]["method"] == "unlearn"
    assert model.read_bytes() == content
    repaired = out.read_bytes()
    again = CliRunner().invoke(app, [*asked, "--stamp", "class=Mass,size=2,value=0"])
    assert again.exit_code == 1
    assert "exists already; choose another --out" in again.output.replace("\n", " ")
    assert out.read_bytes() == repaired


def test_the_command_on_images_without_labels(tmp_path: Path) -> None:
    from PIL import Image  # noqa: PLC0415

    model, folder = tmp_path / "model.safetensors", tmp_path / "clean"
    create(Architecture(arch="test_resnet"), CLASSES, Preprocess(size=SIZE), 0).save(model)
    folder.mkdir()
    for i, image in enumerate(draw(90, 0)[0]):
        Image.fromarray(image).save(folder / f"{i}.png")
    asked = ["repair", str(model), "--clean", str(folder), "--epochs", "1", "--out"]
    stamp = "class=bright,row=1,column=1,size=2,value=0"
    result = CliRunner().invoke(app, [*asked, str(tmp_path / "a.safetensors"), "--stamp", stamp])
    assert result.exit_code == 0, result.output
    assert "undefined" in result.output
    pruned = CliRunner().invoke(app, [*asked, str(tmp_path / "b.safetensors"), "--method", "fine-prune"])
    assert pruned.exit_code == 1
    assert not (tmp_path / "b.safetensors").exists()
