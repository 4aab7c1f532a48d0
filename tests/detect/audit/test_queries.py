import pytest
import torch

from petechia.detect.audit.examination import examine_model
from petechia.detect.audit.hosts import Hosts
from petechia.detect.audit.queries import _along, _slopes, rise_by_asking
from petechia.detect.audit.rises import SHARES, rise
from petechia.detect.audit.transforms import Pattern, family_named
from tests.conftest import Steps
from tests.detect.audit.conftest import CLASSES, Images, Wavy, opened


def test_slopes_are_those_of_gradients(clean: Images) -> None:
    classifier, family = opened(Wavy()), Pattern(6)
    hosts = Hosts.of(classifier, clean[:24])
    found = _slopes(classifier, hosts, family, 2_000, 0, Steps())
    free = torch.zeros(1, 1, 6, 6, requires_grad=True)
    (slope,) = torch.autograd.grad(classifier.ask(family.change(hosts.images, free, 0.05)[0])[:, 0].mean(), free)
    assert float(torch.corrcoef(torch.stack([slope.flatten(), found[0].flatten()]))[0, 1]) > 0.9


def test_a_direction_goes_all_the_way_where_the_slope_is_usual() -> None:
    found = _along(torch.tensor([[4.0, -2.0, 1.0, 0.0, 8.0], [0.0, 0.0, 0.0, 0.0, 0.0]]))
    assert found.tolist() == [[1, -1, 0.5, 0, 1], [0, 0, 0, 0, 0]]


def test_a_class_that_answers_to_a_wave_is_found_by_asking_nearly_as_by_gradients(clean: Images) -> None:
    classifier, family = opened(Wavy()), family_named("pattern of 24 × 24")
    fit, judge = Hosts.of(classifier, clean[:24]), Hosts.of(classifier, clean[24:44])
    told = Steps()
    blind = rise_by_asking(opened(Wavy(), blind=True), fit, judge, family, 4_000, progress=told)
    by_gradients = rise(classifier, fit, judge, family).own
    found = blind.own
    assert blind.effects.shape == (len(SHARES), len(CLASSES), len(CLASSES))
    assert blind.directions.shape == (len(CLASSES), 1, 24, 24)
    assert float(blind.directions.abs().max()) <= 1
    assert (found[:, 0] > 3 * found[:, 1:].max(axis=1)).all()
    assert (found[:, 0] > 0.6 * by_gradients[:, 0]).all()
    for n, share in enumerate(SHARES):  # what is reported is what the change does
        changed = family.change(judge.images, blind.directions[:1].float(), share * family.limit)[0]
        expected = (classifier.logits(changed) - judge.logits).median(dim=0).values
        assert blind.effects[n, 0] == pytest.approx(expected.numpy(), abs=1e-3)
    assert 4_000 < sum(told) < 9_000


def test_a_black_box_answers_at_most_50_000_questions(clean: Images) -> None:
    class Counting(Wavy):
        asked = 0

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.asked += len(images)
            return super().forward(images)

    network = Counting()
    found = examine_model(opened(network, blind=True), clean)
    assert network.asked <= 50_000
    assert found.outcome == "backdoor"
    assert found.ranked[0][1].found_by == "pattern of 24 × 24"
    assert any("Only the answers" in warning for warning in found.warnings)
