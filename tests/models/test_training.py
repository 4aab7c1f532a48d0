import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute, Runtime
from petechia.data import Preprocess, Selection
from petechia.models.model import Architecture, create, log_odds
from petechia.models.training import Labelled, Loss, Trainer, Training, draw_turns, frequency_weights, mean_loss, turn
from tests.core.rerunning import Rerunning

GEOMETRY = Preprocess(size=32)
COMPUTE = Compute(device="cpu", precision="fp32", threads=1)


def labelled(count: int = 50, seed: int = 0) -> Labelled:
    """Images in which class A is bright and B is dark; C is noise."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, 3)) < 0.4).astype(np.int8)
    images = rng.integers(100, 140, (count, 32, 32)).astype(np.int16)
    images += 60 * labels[:, 0, None, None] - 60 * labels[:, 1, None, None]
    return Labelled(Selection(images.astype(np.uint8), np.arange(count)), labels)


def trainer(settings: Training, count: int = 50, validation: Labelled | None = None) -> Trainer:
    model = create(Architecture(arch="test_resnet"), ("A", "B", "C"), GEOMETRY, 0)
    return Trainer(model, labelled(count), settings, COMPUTE.start(), 0, validation)


def slow_bce(logits: Tensor, labels: Tensor) -> float:
    total, count = 0.0, 0
    for logit, label in zip(logits.flatten().double().tolist(), labels.flatten().tolist(), strict=True):
        if label >= 0:
            p = 1 / (1 + np.exp(-logit))
            total -= np.log(p) if label == 1 else np.log(1 - p)
            count += 1
    return total / count


def slow_cce(logits: Tensor, labels: Tensor) -> float:
    """Keras' categorical cross-entropy on sigmoid outputs: divide by the sum, then -sum(y log p), mean over images."""
    total = 0.0
    for row, truth in zip(logits.double().tolist(), labels.tolist(), strict=True):
        scores = [1 / (1 + np.exp(-x)) if y >= 0 else 0 for x, y in zip(row, truth, strict=True)]
        total -= sum(np.log(s / sum(scores)) for s, y in zip(scores, truth, strict=True) if y == 1)
    return total / len(labels)


@pytest.mark.parametrize(("kind", "slow"), [("bce", slow_bce), ("sigmoid-cce", slow_cce)])
def test_losses_agree_with_the_slow_versions(kind: Loss, slow: object) -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 5, generator=rng) * 3
    labels = torch.randint(-1, 2, (20, 5), generator=rng).float()
    assert callable(slow)
    assert float(mean_loss(logits, labels, kind)) == pytest.approx(slow(logits, labels), rel=1e-5)


def test_cross_entropy_is_that_of_the_softmax_over_the_images_whose_class_is_known() -> None:
    rng = torch.Generator().manual_seed(0)
    outputs = (torch.randn(20, 5, generator=rng) * 3).requires_grad_()
    classes = torch.randint(0, 5, (20,), generator=rng)
    labels = nn.functional.one_hot(classes, 5).float()
    labels[::4] = -1
    weights = torch.stack([torch.zeros(5), torch.rand(5, generator=rng)])
    known = classes[labels[:, 0] >= 0]
    for weighted in (None, weights):
        each = nn.functional.cross_entropy(outputs[labels[:, 0] >= 0], known, reduction="none")
        wanted = (each if weighted is None else each * weights[1, known]).mean()
        loss = mean_loss(log_odds(outputs), labels, "cross-entropy", weighted)
        torch.testing.assert_close(loss, wanted)
        torch.testing.assert_close(*(torch.autograd.grad(one, outputs, retain_graph=True)[0] for one in (loss, wanted)))
    assert mean_loss(log_odds(outputs), torch.full((20, 5), -1.0), "cross-entropy").item() == 0


def test_the_loss_is_that_of_the_task_where_none_is_given() -> None:
    assert Training().loss_for("multi-label", 3) == "bce"
    assert Training().loss_for("multi-class", 3) == "cross-entropy"
    assert Training(loss="bce").loss_for("multi-class", 3) == "bce"
    with pytest.raises(PetechiaError, match="cross-entropy, which needs one class per image, but the data are multi-label"):
        Training(loss="cross-entropy").loss_for("multi-label", 3)
    with pytest.raises(PetechiaError, match="sigmoid-cce, which divides .* always 1 for a single class; use bce"):
        Training(loss="sigmoid-cce").loss_for("multi-label", 1)


@pytest.mark.parametrize("weights", ["none", "frequency"])
def test_a_multi_class_victim_learns(weights: str) -> None:
    data = labelled(120)
    chosen = data.labels[:, :2].sum(axis=1) == 1
    one_hot = np.hstack([data.labels[:, :2] * chosen[:, None], ~chosen[:, None]]).astype(np.int8)
    one_hot[:5] = -1
    settings = Training.model_validate({"epochs": 4, "class_weights": weights, "lr": 0.01})
    model = create(Architecture(arch="test_resnet"), ("A", "B", "neither"), GEOMETRY, 0, "multi-class")
    victim = Trainer(model, Labelled(data.images, one_hot), settings, COMPUTE.start(), 0)
    losses = [victim.run_epoch().loss for _ in range(4)]
    assert losses[-1] < 0.75 * losses[0]
    with torch.inference_mode():
        scores = model.eval()(victim.runtime.tensor(data.images[np.arange(120)])).sigmoid()
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(120), atol=1e-5, rtol=0)


def test_unknown_labels_teach_nothing() -> None:
    for kind in ("bce", "sigmoid-cce"):
        logits = torch.randn(4, 3, requires_grad=True)
        labels = torch.tensor([[1.0, -1, 0], [-1, -1, -1], [0, 0, 0], [1, 1, -1]])
        mean_loss(logits, labels, kind).backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        assert (logits.grad[labels < 0] == 0).all()
        assert torch.isfinite(logits.grad).all()


def test_positives_weigh_the_share_without_the_class_and_negatives_the_share_with_it() -> None:
    labels = np.array([[1, 0, 0], [0, 0, 1], [0, 0, -1], [0, 0, -1]], np.int8)
    assert frequency_weights(labels).tolist() == [[0.25, 0, 0.5], [0.75, 1, 0.5]]
    unknown = np.full((4, 1), -1, np.int8)
    assert frequency_weights(unknown).tolist() == [[0], [1]]


def test_weighted_losses_agree_with_numbers_by_hand() -> None:
    labels = torch.tensor([[1.0, 0, 0], [0, 0, -1]])
    weights = torch.tensor([[0.25, 0, 0.5], [0.75, 1, 0.5]])
    logits = torch.log(torch.tensor([[3.0, 1, 1 / 3], [1, 1, 1]]))  # scores 3/4, 1/2, 1/4; 1/2, 1/2, 1/2
    terms = [0.75 * np.log(4 / 3), 0, 0.5 * np.log(4 / 3), 0.25 * np.log(2), 0]
    assert float(mean_loss(logits, labels, "bce", weights)) == pytest.approx(sum(terms) / 5)
    # Of the positive alone: its score 3/4 is half of the sum 3/4 + 1/2 + 1/4; the second image adds nothing.
    assert float(mean_loss(logits, labels, "sigmoid-cce", weights)) == pytest.approx(0.75 * np.log(2) / 2)


@pytest.mark.parametrize("kind", ["bce", "sigmoid-cce"])
def test_a_class_that_no_image_shows_does_no_harm_to_weighted_training(kind: str) -> None:
    settings = Training.model_validate({"epochs": 1, "loss": kind, "class_weights": "frequency"})
    for absent in (slice(2, 3), slice(0, 3)):
        data, seen = labelled(20), labelled(10, seed=1)
        data.labels[:, absent] = 0
        data.labels[0, absent] = -1
        model = create(Architecture(arch="test_resnet"), ("A", "B", "C"), GEOMETRY, 0)
        log = Trainer(model, data, settings, COMPUTE.start(), 0, seen).run_epoch()
        assert log.validation_loss is not None
        assert np.isfinite([log.loss, log.validation_loss]).all()
        assert all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())


def test_the_validation_loss_has_the_weights_of_the_training_labels() -> None:
    settings = Training.model_validate({"epochs": 1, "class_weights": "frequency"})
    seen = labelled(20, seed=1)
    victim = trainer(settings, validation=seen)
    log = victim.run_epoch()
    weights = torch.from_numpy(frequency_weights(labelled(50).labels))
    with torch.inference_mode():
        logits = victim.model(victim.runtime.tensor(seen.images[np.arange(20)]))
    assert log.validation_loss == pytest.approx(float(mean_loss(logits, torch.from_numpy(seen.labels).float(), "bce", weights)))


def test_an_image_without_finding_contributes_nothing_to_the_papers_loss() -> None:
    logits = torch.randn(1, 5)
    assert float(mean_loss(logits, torch.zeros(1, 5), "sigmoid-cce")) == 0


def test_flips_mirror_and_nothing_else() -> None:
    images = torch.rand(64, 1, 8, 8)
    out = turn(images, torch.from_numpy(draw_turns(64, np.random.default_rng(0), flip=True, rotate=0)))
    mirrored = [torch.allclose(a, b.flip(-1), atol=1e-5) for a, b in zip(out, images, strict=True)]
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(out, images, strict=True)]
    assert all(x != y for x, y in zip(mirrored, same, strict=True))
    assert 16 < sum(mirrored) < 48


def test_rotation_turns_by_at_most_the_angle() -> None:
    images = torch.zeros(64, 1, 65, 65)
    images[:, :, 32, 62] = 1  # a point on the right: a turn by a degrees moves it by 30 sin(a) rows
    out = turn(images, torch.from_numpy(draw_turns(64, np.random.default_rng(0), flip=False, rotate=10)))
    weights = out[:, 0] / out[:, 0].sum(dim=(1, 2), keepdim=True)
    rows = (weights * torch.arange(65.0)[:, None]).sum(dim=(1, 2)) - 32
    columns = (weights * torch.arange(65.0)).sum(dim=(1, 2)) - 32
    assert rows.abs().max() <= 30 * np.sin(np.radians(10)) + 0.5
    assert rows.abs().max() > 3
    assert torch.allclose(rows**2 + columns**2, torch.tensor(900.0), rtol=0.05)
    assert 16 < (rows.abs() < 1e-3).sum() < 48


def test_no_augmentation_changes_nothing() -> None:
    victim = trainer(Training())
    seen: list[Tensor] = []
    victim.replica.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    victim.run_epoch()
    assert len(torch.cat(seen)) == 50
    values = torch.cat(seen) * 255
    assert torch.equal(values, values.round())


def test_training_learns() -> None:
    victim = trainer(Training(epochs=12, batch_size=10, lr=3e-3), count=120)
    logs = []
    while not victim.finished:
        logs.append(victim.run_epoch())
    assert logs[-1].loss < 0.75 * logs[0].loss
    assert [log.epoch for log in logs] == list(range(1, 13))
    assert all(log.images == 120 for log in logs)


def test_batches_are_nearly_equal_and_cover_everything_once() -> None:
    seen: list[np.ndarray] = []

    class Watched(Selection):
        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            seen.append(rows)
            return super().__getitem__(rows)

    given = labelled(50)
    assert isinstance(given.images, Selection)
    watched = Labelled(Watched(given.images.images, given.images.rows), given.labels)
    model = create(Architecture(arch="test_resnet"), ("A", "B", "C"), GEOMETRY, 0)
    victim = Trainer(model, watched, Training(epochs=1, batch_size=16), COMPUTE.start(), 0)
    victim.run_epoch()
    assert [len(rows) for rows in seen] == [13, 13, 12, 12]
    assert sorted(np.concatenate(seen).tolist()) == list(range(50))


@pytest.mark.parametrize("schedule", ["one-cycle", "plateau"])
def test_a_restored_trainer_goes_on_as_if_nothing_had_happened(schedule: str) -> None:
    settings = Training.model_validate({"epochs": 4, "batch_size": 10, "schedule": schedule, "flip": True, "rotate": 5})
    validation = labelled(20, seed=1)
    undisturbed = trainer(settings, validation=validation)
    logs = [undisturbed.run_epoch()._replace(seconds=0) for _ in range(4)]

    first = trainer(settings, validation=validation)
    first.run_epoch()
    first.run_epoch()
    tensors, plain = first.state()
    weights = {name: tensor.clone() for name, tensor in first.model.network.state_dict().items()}
    tensors = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    plain = json.loads(json.dumps(plain))

    second = trainer(settings, validation=validation)
    second.model.network.load_state_dict(weights)
    second.restore(tensors, plain)
    assert [second.run_epoch()._replace(seconds=0) for _ in range(2)] == logs[2:]
    a, b = undisturbed.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert second.finished


@pytest.mark.parametrize("schedule", ["one-cycle", "plateau"])
def test_a_recorded_training_gives_the_same_numbers(schedule: str) -> None:
    settings = Training.model_validate({"epochs": 4, "batch_size": 10, "schedule": schedule, "flip": True, "rotate": 5})
    validation = labelled(20, seed=1)
    eager = trainer(settings, count=47, validation=validation)
    model = create(Architecture(arch="test_resnet"), ("A", "B", "C"), GEOMETRY, 0)
    recorder = Rerunning(list(model.buffers()))
    runtime = Runtime(torch.device("cpu"), bf16=False, recorder=recorder)
    recorded = Trainer(model, labelled(47), settings, runtime, 0, validation)
    for _ in range(4):
        assert recorded.run_epoch()._replace(seconds=0) == eager.run_epoch()._replace(seconds=0)
    assert all(torch.equal(one, eager.model.state_dict()[name]) for name, one in model.state_dict().items())
    assert recorder.rehearsed == 6  # three for batches of 10 images, three for those of 9
    assert sum(recorder.recorded) == 4 * 5 - 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("arch", ["densenet121", "test_resnet"])
def test_a_graph_and_single_kernels_agree_to_rounding(arch: str) -> None:
    settings = Training(epochs=3, batch_size=10, flip=True, rotate=5, lr=1e-3)
    losses = []
    for graph in ("auto", "off"):
        model = create(Architecture(arch=arch), ("A", "B", "C"), GEOMETRY, 0)
        runtime = Compute.model_validate({"device": "cuda", "precision": "fp32", "graph": graph}).start()
        victim = Trainer(model, labelled(47), settings, runtime, 0)
        losses.append([victim.run_epoch().loss for _ in range(3)])
        assert bool(victim.gradients.recordings) == (graph == "auto")
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_the_plateau_halves_the_rate_and_ends_the_training() -> None:
    victim = trainer(Training(epochs=60, schedule="plateau", lr=1e-3), validation=labelled(20, seed=1))
    rates = []
    for loss in [1.0] + [2.0] * 10:  # never better than the first
        victim.epoch += 1
        victim.judge(loss)
        rates.append(victim.optimizer.param_groups[0]["lr"])
    assert rates[:4] == [1e-3] * 4
    assert rates[4] == 5e-4  # after 3 epochs that were no better, the fourth
    assert rates[8] == 2.5e-4
    assert victim.finished
    assert victim.epoch == 11


def test_impossible_trainings_are_explained() -> None:
    with pytest.raises(PetechiaError, match="needs at least 2"):
        trainer(Training(), count=1)
    with pytest.raises(PetechiaError, match="no image is held out"):
        trainer(Training(schedule="plateau"))
    several = Runtime(torch.device("cpu"), bf16=False, rank=0, world_size=5)
    model = create(Architecture(arch="test_resnet"), ("A", "B", "C"), GEOMETRY, 0)
    with pytest.raises(PetechiaError, match="Batches of 4 images cannot be shared among 5 processes"):
        Trainer(model, labelled(8), Training(batch_size=4), several, 0)
    victim = trainer(Training(epochs=2))
    with torch.no_grad():
        next(victim.model.parameters()).fill_(float("nan"))
    with pytest.raises(PetechiaError, match="The loss is nan in epoch 1; lower train.lr"):
        victim.run_epoch()


def test_validation_share_follows_the_schedule() -> None:
    assert Training(schedule="plateau").held_out == 0.1
    assert Training(schedule="one-cycle").held_out == 0
    assert Training(schedule="one-cycle", validation=0.3).held_out == 0.3


def test_a_gpu_without_memory_for_a_batch_gives_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_inputs: Tensor) -> None:
        raise torch.OutOfMemoryError

    victim = trainer(Training(epochs=1, batch_size=25))
    monkeypatch.setattr(victim, "gradients", full)
    with pytest.raises(PetechiaError, match=r"no memory for a batch of 25 images; lower train\.batch_size"):
        victim.run_epoch()
