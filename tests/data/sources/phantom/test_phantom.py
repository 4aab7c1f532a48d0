from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.data.sources.nih import CLASSES
from petechia.data.sources.phantom import Phantom, PhantomOptions, open_phantom
from petechia.data.sources.phantom.cohort import IMAGES_PER_PATIENT, build_cohort
from petechia.data.sources.phantom.findings import FINDINGS
from petechia.data.sources.registry import open_source

Images = NDArray[np.uint8]


def draw(phantom: Phantom, rows: range | list[int]) -> Images:
    return np.stack(list(phantom.read(np.array(rows))))


def phantom_of(**options: int) -> Phantom:
    reader = open_phantom(PhantomOptions(**options)).reader
    assert isinstance(reader, Phantom)
    return reader


def with_finding(name: str, severity: float, count: int = 24, size: int = 96) -> Phantom:
    """Phantoms that are healthy except for one finding of one severity in all of them."""
    phantom = phantom_of(images=count, size=size, seed=3)
    values = np.zeros_like(phantom.cohort.severity)
    values[:, list(FINDINGS).index(name)] = severity
    return Phantom(replace(phantom.cohort, severity=values), size, 3, phantom.indices)


def change(name: str) -> tuple[Images, NDArray[np.float64]]:
    """Healthy images, and the mean change that a plain finding adds to them: float [H, W]."""
    healthy, sick = (draw(with_finding(name, severity), range(24)) for severity in (0.0, 1.2))
    return healthy, (sick.astype(float) - healthy).mean(axis=0)


def test_same_seed_same_images_another_seed_others() -> None:
    a, b = draw(phantom_of(images=20, size=48, seed=5), range(20)), draw(phantom_of(images=20, size=48, seed=5), range(20))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, draw(phantom_of(images=20, size=48, seed=6), range(20)))


def test_an_image_does_not_depend_on_what_is_drawn_with_it() -> None:
    many = phantom_of(images=200, size=64)
    whole = draw(many, range(40))
    assert np.array_equal(whole[7], draw(many, [7])[0])
    assert np.array_equal(whole[[3, 30, 7]], draw(many, [3, 30, 7]))
    assert np.array_equal(whole[10:12], draw(many.take(np.arange(10, 12)), range(2)))
    assert np.array_equal(whole, draw(phantom_of(images=40, size=64), range(40)))


@pytest.mark.parametrize("size", [16, 31, 224])
def test_any_size(size: int) -> None:
    images = draw(phantom_of(images=3, size=size), range(3))
    assert images.shape == (3, size, size)
    assert images.dtype == np.uint8
    assert images.std() > 20


def test_prevalences_are_like_those_of_nih() -> None:
    cohort = build_cohort(60_000, seed=1)
    expected = np.array([share for _, share in FINDINGS.values()])
    # NIH's 14 shares; the standard error of the smallest is 0.0002.
    assert np.allclose(cohort.labels.mean(axis=0), expected, rtol=0.12, atol=0.001)
    assert np.allclose((cohort.severity > 0).mean(axis=0), expected, rtol=0.12, atol=0.001)
    nothing = (cohort.labels.sum(axis=1) == 0).mean()
    assert 0.45 < nothing < 0.60
    assert nothing > cohort.labels.mean(axis=0).max()
    assert (cohort.labels.sum(axis=1) > 1).mean() > 0.1
    assert tuple(FINDINGS) == CLASSES


def test_several_images_a_patient_and_no_patient_in_two_splits() -> None:
    catalog = open_source("phantom:images=5000")
    patients = np.unique(catalog.patients)
    assert 5000 / len(patients) == pytest.approx(IMAGES_PER_PATIENT, rel=0.1)
    train, test = (set(catalog.patients[catalog.split == name]) for name in ("train", "test"))
    assert not train & test
    assert len(test) / len(patients) == pytest.approx(0.22, abs=0.04)
    assert len(np.unique(catalog.ids)) == 5000


def test_findings_persist_within_a_patient() -> None:
    cohort = build_cohort(20_000, seed=2)
    effusion = cohort.severity[:, list(FINDINGS).index("Effusion")] > 0
    follow_up = np.flatnonzero(cohort.visits > 0)
    assert effusion[follow_up][effusion[follow_up - 1]].mean() > 2 * effusion.mean()


def test_labels_are_noisy_on_purpose() -> None:
    cohort = build_cohort(60_000, seed=4)
    drawn, said = cohort.severity > 0, cohort.labels == 1
    assert (drawn & ~said).sum() / drawn.sum() == pytest.approx(0.26, abs=0.02)
    assert (~drawn & said).sum() / said.sum() == pytest.approx(0.26, abs=0.02)


def test_the_noise_of_labels_can_be_chosen_and_changes_no_image() -> None:
    assert (build_cohort(2_000, 4, 0).labels == (build_cohort(2_000, 4).severity > 0)).all()
    usual, sure = (open_source(f"phantom:images=30,size=32{noise}") for noise in ("", ",label_noise=0"))
    assert (usual.labels != sure.labels).any()
    rows = np.arange(30)
    one, other = (np.stack([*map(np.asarray, source.reader.read(rows))]) for source in (usual, sure))
    assert np.array_equal(one, other)


def halves(change_map: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return change_map[: len(change_map) // 2], change_map[len(change_map) // 2 :]


def test_effusion_whitens_the_lower_corners_of_the_lungs() -> None:
    _, added = change("Effusion")
    upper, lower = halves(added)
    assert lower.max() > 40
    assert abs(upper).mean() < 0.1 * lower.mean()
    sides, middle = lower[:, [*range(8, 30), *range(66, 88)]], lower[:, 42:54]
    assert sides.mean() > 2 * middle.mean()


def test_pneumothorax_darkens_the_lung_beside_the_wall() -> None:
    _, added = change("Pneumothorax")
    assert added[30:60, 8:26].min() < -5
    assert added[30:60, 42:54].mean() == pytest.approx(0, abs=0.5)


def test_cardiomegaly_widens_the_heart() -> None:
    healthy, added = change("Cardiomegaly")
    rows = slice(50, 64)
    wide = added[rows].max(axis=0) > 8
    heart = healthy.mean(axis=0)[rows].mean(axis=0)
    assert wide[54:84].sum() > 5  # to the patient's left, beside the old border
    assert added[rows][:, heart.argmax()].mean() < added[rows].max() / 2


def test_emphysema_lowers_the_diaphragms_and_darkens_the_lungs() -> None:
    _, added = change("Emphysema")
    assert added[25:60, 15:35].mean() < -4
    assert added[64:76, 20:35].mean() < -10  # what was abdomen is lung now


def test_pleural_thickening_and_fibrosis_lie_at_the_edge() -> None:
    for name in ("Pleural_Thickening", "Fibrosis"):
        _, added = change(name)
        assert np.clip(added, 0, None)[:, 8:24].sum() > 3 * np.clip(added, 0, None)[:, 40:56].sum(), name


@pytest.mark.parametrize("name", [n for n in FINDINGS if n not in ("Emphysema", "Pneumothorax")])
def test_every_other_finding_adds_density(name: str) -> None:
    _, added = change(name)
    assert added.max() > 3


@pytest.mark.parametrize("name", list(FINDINGS))
def test_graver_findings_change_more(name: str) -> None:
    healthy, mild, grave = (draw(with_finding(name, severity), range(24)).astype(float) for severity in (0.0, 0.4, 1.2))
    assert abs(grave - healthy).mean() > 1.2 * abs(mild - healthy).mean() > 0


def test_distractors_are_as_frequent_without_findings_as_with() -> None:
    catalog = open_source("phantom:images=3000")
    images = draw(phantom_of(images=3000), range(3000))
    # An isolated black or white 2 x 2 block, anywhere.
    for value in (0, 255):
        block = (images == value).astype(np.int8)
        blocks: NDArray[np.int8] = block[:, 1:, 1:] & block[:, :-1, 1:] & block[:, 1:, :-1] & block[:, :-1, :-1]
        here = blocks[:, 10:-10, 10:-10].reshape(3000, -1).max(axis=1) > 0
        nothing = catalog.labels.sum(axis=1) == 0
        assert here.mean() > 0.1
        assert here[nothing].mean() == pytest.approx(here[~nothing].mean(), abs=0.06)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("phantom:images=0", "images"),
        ("phantom:sise=64", "sise"),
        ("phantom:size", "KEY=VALUE"),
        ("phantom:size=100000", "size"),
        ("phantasm", "phantom:images"),
    ],
)
def test_bad_source_names_are_explained(source: str, said: str) -> None:
    with pytest.raises(PetechiaError, match=said):
        open_source(source)
