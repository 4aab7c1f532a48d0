from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from petechia.measure import EPSILONS
from petechia.measure.summary import Statistic
from petechia.paper.claims import CLAIMS, FAILS, HOLDS, UNKNOWN, ClaimEvidence, check_all, claims_table
from petechia.paper.parts import Cell, load_design
from petechia.paper.results import Results
from petechia.study import Run
from petechia.study.heat import Heat
from petechia.study.result import ImageCounts
from petechia.study.study import StudyDirectory

Changes = dict[int, dict[str, float | None]]
TESTS = {claim.key: claim.test for claim in CLAIMS}
AS_PUBLISHED: Changes = {
    1: {"asr": 1.0, "least": 0.1, "nn": 0.824, "tn": 0.824, "tt": 1.0, "survival": 0.0},
    2: {"asr": 1.0, "least": 0.1, "nn": 0.824, "tn": 0.824, "tt": 1.0, "survival": 0.0},
    3: {"asr": 0.998, "least": 0.98, "nn": 0.851, "tn": 0.704, "tt": 1.0, "survival": 1.0},
    4: {"asr": 0.997, "least": 0.97, "nn": 0.850, "tn": 0.727, "tt": 1.0, "survival": 1.0},
}


def summary(numbers: dict[str, float | None], control: float = 0.846, placebo: float = 1.0) -> dict[str, Any]:
    def of(best: float | None, least: float | None = None) -> dict[Statistic, dict[str, float | None]]:
        low = best if least is None else least
        values: dict[Statistic, float | None] = {"max": best, "min": low, "last": best}
        return {name: {"mean": value, "std": None, "low": None, "high": None} for name, value in values.items()}

    attacked = {
        "asr_0.9": of(numbers["asr"], numbers["least"]),
        "auroc_nn": of(numbers["nn"]),
        "auroc_tn": of(numbers["tn"]),
        "auroc_tt": of(numbers["tt"]),
    }
    arms = {"attacked": attacked, "control": {"auroc_nn": of(control)}, "placebo": {"asr_0.9": of(placebo)}}
    left = {"fraction": numbers["survival"], "pixels": 1.0}
    counts = dict.fromkeys(set(ImageCounts.model_fields) - {"native_shape"}, 0)
    return {
        "petechia": "0", "data": "phantom", "target": "Atelectasis", "trigger": "a square", "seeds": [0], "seconds": {},
        "images": {**counts, "native_shape": [1024, 1024]}, "arms": arms, "survival": {**left, "train": left, "by_size": []},
    }  # fmt: skip


def results(change: Changes | None = None, place: Any = "center", **others: float) -> Results:
    runs = {}
    for size, numbers in AS_PUBLISHED.items():
        changed = {**numbers, **(change or {}).get(size, {})}
        runs[Cell("bce", place, size).name] = Run.model_validate(summary(changed, **others))
    return Results(StudyDirectory(Path("nowhere")), load_design("desk"), runs, {})


def check(key: str, found: Results, heat: Heat | None = None) -> str:
    return TESTS[key](ClaimEvidence(found, "bce", heat)).verdict


def test_with_the_papers_own_numbers_its_claims_hold() -> None:
    for key in ("success-1x1", "success-4x4", "tt", "nn", "tn", "dead-equal", "dead-placebo", "jump"):
        assert check(key, results()) == HOLDS, key


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("success-3x3", {3: {"asr": 0.97}}),
        ("tt", {2: {"tt": 0.99}}),
        ("nn", {4: {"nn": 0.80}}),
        ("tn", {4: {"tn": 0.81}}),
        ("dead-equal", {1: {"tn": 0.8239}}),
        ("jump", {3: {"least": 0.25}}),
        ("jump", {1: {"least": 0.9}}),
    ],
)
def test_other_numbers_break_them(key: str, change: Changes) -> None:
    assert check(key, results(change)) == FAILS


def test_a_success_without_a_trigger_is_weighed_against_the_placebo() -> None:
    assert check("dead-placebo", results(placebo=1.0)) == HOLDS
    assert check("dead-placebo", results(placebo=0.5)) == FAILS


def test_what_the_data_cannot_say_is_not_said() -> None:
    alive: Changes = {size: {"survival": 1.0} for size in (1, 2)}
    for key in ("dead-equal", "dead-placebo", "jump"):
        assert check(key, results(alive)) == UNKNOWN
    dead: Changes = {size: {"survival": 0.0} for size in (3, 4)}
    for key in ("tn", "few", "many", "falls", "jump"):
        assert check(key, results(dead)) == UNKNOWN
    nothing = replace(results(), runs={})
    assert {check(claim.key, nothing) for claim in CLAIMS} == {UNKNOWN}
    assert check("tt", results({1: {"tt": None}})) == UNKNOWN


def test_the_place_counts_only_where_the_backdoor_took() -> None:
    both = replace(results(), runs=results().runs | results({3: {"asr": 0.96}}, place="random").runs)
    assert check("place", both) == HOLDS
    both = replace(results(), runs=results().runs | results({4: {"asr": 0.9}}, place="random").runs)
    assert check("place", both) == FAILS
    untaken: Changes = {size: {"asr": 0.0} for size in (3, 4)}
    both = replace(results(), runs=results(untaken).runs | results(untaken, place="random").runs)
    assert check("place", both) == UNKNOWN


def heat(**changes: float) -> Heat:
    """30 patients; at every epoch the middle layer is nearer and has more heat on the trigger, most of all at the first."""
    rows = []
    for epoch in (1, 2):
        for layer in ("last", "middle"):
            near = layer == "middle"
            values = {
                "distance": 3.0 if near else 9.0,
                "clean_distance": 20.0,
                "energy": (0.3 if epoch == 1 else 0.2) if near else 0.05,
            } | {name.removeprefix(f"{layer}_"): value for name, value in changes.items() if name.startswith(f"{layer}_")}
            for patient in range(30):
                spread = {name: value + 1e-3 * patient for name, value in values.items()}
                rows.append({"epoch": epoch, "layer": layer, "class": "T", "patient": str(patient), **spread})
    return Heat("T", np.zeros((2, 4, 4), np.uint8), (0, 0, 1, 1), {}, {}, pl.DataFrame(rows))


def test_claims_about_the_heat() -> None:
    for key in ("heat", "middle", "early"):
        assert check(key, results(), heat()) == HOLDS
        assert check(key, results(), None) == UNKNOWN
        assert check(key, results(), heat(last_distance=float("nan"))) == UNKNOWN
    assert check("heat", results(), heat(last_distance=20.0)) == FAILS
    assert check("heat", results(), heat(last_clean_distance=float("nan"))) == FAILS  # 9 pixels are no less than by chance
    assert check("heat", results(), heat(last_clean_distance=float("nan"), last_distance=0.5)) == HOLDS
    low: Changes = {3: {"nn": 0.79}}
    assert check("many", results(low)) == UNKNOWN
    assert check("middle", results(), heat(middle_energy=0.05)) == FAILS
    assert check("early", results(), heat(middle_energy=0.01)) == FAILS


def test_claims_about_the_heat_of_a_network_without_a_middle_layer() -> None:
    whole = heat()
    last = replace(whole, numbers=whole.numbers.filter(layer="last"))
    assert (whole.layers, last.layers) == (("last", "middle"), ("last",))
    assert check("heat", results(), last) == HOLDS
    assert check("middle", results(), last) == check("early", results(), last) == UNKNOWN


def mixtures(at_tenth: float, clean: float = 0.851) -> Any:
    """AUROC that falls linearly with the logarithm of ε, through a given value at ε = 0.1."""
    drop = (clean - at_tenth) / (np.log10(0.1) - np.log10(0.001))
    return lambda *_: [{"max": {"mean": clean - drop * max(np.log10(epsilon / 0.001), 0)}} for epsilon in EPSILONS]


def test_claims_about_a_share_of_triggered_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Results, "mixtures", mixtures(at_tenth=0.79))
    assert check("few", results()) == check("many", results()) == check("falls", results()) == HOLDS
    monkeypatch.setattr(Results, "mixtures", mixtures(at_tenth=0.82))
    assert check("many", results()) == FAILS
    monkeypatch.setattr(Results, "mixtures", mixtures(at_tenth=0.79, clean=0.84))
    assert check("few", results()) == FAILS
    monkeypatch.setattr(Results, "mixtures", lambda *_: [{"max": {"mean": 0.75}} for _ in EPSILONS])
    assert check("falls", results()) == FAILS  # it does not move


def test_every_claim_is_listed_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Results, "mixtures", mixtures(at_tenth=0.79))
    found = check_all(results(), heat())
    table = claims_table(found)
    assert len(table.rows) == sum(len(by_loss) for by_loss in found.values())
    assert set(found["heat"]) == {"bce"}
    assert set(found["tt"]) == {"bce", "sigmoid-cce"}
    row = next(row for row in table.rows if "drops under" in row.name)
    assert row.cells[:3] == ("bce", "NN − TN 0.147, 0.123", "NN − TN 0.147, 0.123")
    assert len({claim.key for claim in CLAIMS}) == len(CLAIMS)
