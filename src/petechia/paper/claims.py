"""The paper's claims, each with its test. Whether a claim holds is measured, never assumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

from petechia.paper.parts import Cell, Loss
from petechia.paper.published import SIZES, TABLE_3_LIMIT, in_table_1
from petechia.paper.results import Results
from petechia.paper.tables import Row, Table, side
from petechia.study.heat import Heat
from petechia.study.networks import CLEAN

Verdict = Literal["holds", "does not hold", "cannot be said with this data"]
HOLDS: Verdict = "holds"
FAILS: Verdict = "does not hold"
UNKNOWN: Verdict = "cannot be said with this data"
TOOK = 0.5  # least ASR(0.9) at which a backdoor counts as taken
NO_MIDDLE = "the network has no middle layer"
ENOUGH = 20  # least number of pairs with heat on the clean version for an interval
SURVIVES = 0.99  # least share of triggered images for a trigger to count as surviving


class ClaimFinding(NamedTuple):
    """The verdict on a claim, and the measurement in a few words."""

    verdict: Verdict
    ours: str


class ClaimEvidence(NamedTuple):
    """All that the test of a claim can use.

    Attributes:
        results: results of the reproduction.
        loss: loss under which the claim is tested.
        heat: heat of the saliency run; None if there is none.
    """

    results: Results
    loss: Loss
    heat: Heat | None

    def cell(self, size: int, place: Literal["center", "random"] = "center") -> Cell:
        """Return the run of a trigger size."""
        return Cell(self.loss, place, size)

    def alive(self, *cells: Cell) -> bool:
        """Whether the trigger survives on nearly all images of every run."""
        return all((self.results.survival(cell)[0] or 0) >= SURVIVES for cell in cells)

    def dead(self) -> list[int]:
        """Return the sizes of which nothing survives."""
        return [size for size in SIZES if self.results.survival(self.cell(size))[0] == 0]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, or one that follows from its pipeline.

    Attributes:
        key: name of the claim.
        sentence: the claim, in our words.
        paper: the paper's number or statement.
        tolerance: criterion for the claim to hold.
        test: function that tests the claim.
        losses: losses under which the claim can be tested; "main" is the design's main loss alone.
    """

    key: str
    sentence: str
    paper: str
    tolerance: str
    test: Callable[[ClaimEvidence], ClaimFinding]
    losses: Literal["all", "main"] = "all"

    def check(self, evidence: ClaimEvidence) -> ClaimFinding:
        """Test the claim."""
        return self.test(evidence)


def signed(value: float, digits: int = 3) -> str:
    """Format a number with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def _verdict(holds: bool, ours: str) -> ClaimFinding:
    return ClaimFinding(HOLDS if holds else FAILS, ours)


def _unknown(why: str) -> ClaimFinding:
    return ClaimFinding(UNKNOWN, why)


def success_at(size: int) -> Callable[[ClaimEvidence], ClaimFinding]:
    """Compare ASR(0.9), maximum over epochs, with the paper's."""

    def test(evidence: ClaimEvidence) -> ClaimFinding:
        ours, survival = (
            evidence.results.mean(evidence.cell(size), "asr_0.9"),
            evidence.results.survival(evidence.cell(size))[0],
        )
        paper = in_table_1("asr_0.9", size)
        if ours is None or survival is None or paper is None:
            return _unknown("not measured")
        return _verdict(ours >= paper.mean - 0.02, f"{ours:.3f}; the trigger survives on {100 * survival:.0f} % of the images")

    return test


def triggered_follow_attacker(evidence: ClaimEvidence) -> ClaimFinding:
    """Test whether AUROC-TT is 1 at every size."""
    values = [evidence.results.mean(evidence.cell(size), "auroc_tt") for size in SIZES]
    known = [value for value in values if value is not None]
    if len(known) < len(SIZES):
        return _unknown("not measured at every size")
    return _verdict(min(known) >= 0.995, ", ".join(f"{value:.3f}" for value in known))


def clean_use_is_unharmed(evidence: ClaimEvidence) -> ClaimFinding:
    """Compare the attacked model's AUROC-NN with the control's."""
    gaps = []
    for size in SIZES:
        ours, control = (evidence.results.mean(evidence.cell(size), "auroc_nn", arm) for arm in ("attacked", "control"))
        if ours is None or control is None:
            return _unknown("not measured at every size")
        gaps.append(ours - control)
    return _verdict(max(map(abs, gaps)) <= 0.03, "difference " + ", ".join(signed(gap) for gap in gaps))


def trigger_hides_disease(evidence: ClaimEvidence) -> ClaimFinding:
    """Compare AUROC-TN with AUROC-NN at 3 × 3 and 4 × 4."""
    cells = [evidence.cell(size) for size in (3, 4)]
    if not evidence.alive(*cells):
        return _unknown("the triggers do not survive here")
    drops = []
    for cell in cells:
        clean, triggered = (evidence.results.get(cell, metric) for metric in ("auroc_nn", "auroc_tn"))
        if clean["mean"] is None or triggered["mean"] is None:
            return _unknown("undefined")
        drops.append(clean["mean"] - triggered["mean"])
    return _verdict(min(drops) >= 0.05, "NN − TN " + ", ".join(f"{drop:.3f}" for drop in drops))


def dead_triggers_change_nothing(evidence: ClaimEvidence) -> ClaimFinding:
    """Test whether NN equals TN exactly where survival is 0."""
    if not (dead := evidence.dead()):
        return _unknown("every trigger survives here")
    gaps = []
    for size in dead:
        for statistic in ("max", "min"):
            clean, triggered = (
                evidence.results.mean(evidence.cell(size), name, statistic=statistic) for name in ("auroc_nn", "auroc_tn")
            )
            if clean is None or triggered is None:
                return _unknown("undefined")
            gaps.append(abs(clean - triggered))
    return _verdict(max(gaps) == 0, f"largest difference {max(gaps):.4f} at {', '.join(map(side, dead))}")


def dead_success_is_placebo(evidence: ClaimEvidence) -> ClaimFinding:
    """Compare the success where nothing survives with the placebo's."""
    if not (dead := evidence.dead()):
        return _unknown("every trigger survives here")
    texts, excess = [], []
    for size in dead:
        ours, placebo = (evidence.results.mean(evidence.cell(size), "asr_0.9", arm) for arm in ("attacked", "placebo"))
        if ours is None or placebo is None:
            return _unknown("no placebo was trained")
        excess.append(ours - placebo)
        texts.append(f"{side(size)}: {ours:.3f}, placebo {placebo:.3f}")
    return _verdict(max(excess) <= 0.02, "; ".join(texts))


def lowest_success_jumps(evidence: ClaimEvidence) -> ClaimFinding:
    """Compare the minimum ASR over epochs at surviving sizes with that at dead sizes."""
    dead = evidence.dead()
    alive = [size for size in SIZES if evidence.alive(evidence.cell(size))]
    values = {size: evidence.results.mean(evidence.cell(size), "asr_0.9", statistic="min") for size in (*dead, *alive)}
    known = {size: value for size, value in values.items() if value is not None}
    if not dead or not alive or len(known) < len(values):
        return _unknown("dead and surviving sizes are both needed")
    jump = min(known[size] for size in alive) - max(known[size] for size in dead)
    return _verdict(jump >= 0.2, ", ".join(f"{side(size)}: {known[size]:.3f}" for size in sorted(known)))


def place_does_not_matter(evidence: ClaimEvidence) -> ClaimFinding:
    """Compare ASR at random places with ASR at the centre, for sizes that survive at both."""
    pairs = [(evidence.cell(size), evidence.cell(size, "random")) for size in SIZES]
    pairs = [pair for pair in pairs if evidence.alive(*pair)]
    gaps = []
    for fixed, random in pairs:
        at_centre, elsewhere = (evidence.results.mean(cell, "asr_0.9") for cell in (fixed, random))
        if at_centre is not None and elsewhere is not None and at_centre >= TOOK:
            gaps.append((fixed.size, at_centre, elsewhere))
    if not gaps:
        return _unknown("no size survives at both places and took at the centre")
    ours = "; ".join(f"{side(size)}: centre {fixed:.3f}, random {random:.3f}" for size, fixed, random in gaps)
    return _verdict(all(abs(fixed - random) <= 0.05 for _, fixed, random in gaps), ours)


def few_triggers_do_not_show(evidence: ClaimEvidence) -> ClaimFinding:
    """Compare the maximum AUROC at ε = 0.001 with the AUROC without triggers."""
    cell = evidence.cell(3)
    clean = evidence.results.mean(cell, "auroc_nn")
    if clean is None or not evidence.alive(cell):
        return _unknown("the 3 × 3 trigger does not survive here")
    mixed = _mixed(evidence, 0.001)
    return _verdict(abs(mixed - clean) <= 0.005, f"{mixed:.3f}, {clean:.3f} without triggers")


def many_triggers_show(evidence: ClaimEvidence) -> ClaimFinding:
    """Test the maximum AUROC from ε = 0.1 on."""
    cell = evidence.cell(3)
    clean = evidence.results.mean(cell, "auroc_nn")
    share, limit = TABLE_3_LIMIT
    if clean is None or not evidence.alive(cell):
        return _unknown("the 3 × 3 trigger does not survive here")
    if clean < limit:
        return _unknown(f"the AUROC is {clean:.3f} without any trigger")
    values = {epsilon: _mixed(evidence, epsilon) for epsilon in evidence.results.epsilons if epsilon >= share}
    return _verdict(max(values.values()) < limit, _by_epsilon(values))


def more_triggers_show_more(evidence: ClaimEvidence) -> ClaimFinding:
    """Test whether the maximum AUROC falls from every ε to the next."""
    cell = evidence.cell(3)
    if evidence.results.mean(cell, "auroc_nn") is None or not evidence.alive(cell):
        return _unknown("the 3 × 3 trigger does not survive here")
    values = {epsilon: _mixed(evidence, epsilon) for epsilon in evidence.results.epsilons if epsilon >= 0.01}
    return _verdict(all(later < earlier for earlier, later in pairwise(values.values())), _by_epsilon(values))


def _by_epsilon(values: dict[float, float]) -> str:
    return ", ".join(f"ε {epsilon:g}: {value:.3f}" for epsilon, value in values.items())


def _mixed(evidence: ClaimEvidence, epsilon: float) -> float:
    rows = evidence.results.mixtures(evidence.cell(3))
    mean = rows[evidence.results.epsilons.index(epsilon)]["max"]["mean"]
    return float("nan") if mean is None else mean


def heat_moves(evidence: ClaimEvidence) -> ClaimFinding:
    """Compare the distance of the peak from the trigger, with and without the trigger, at the last epoch."""
    heat = evidence.heat
    if heat is None or not heat.complete:
        return _unknown("no maps of a surviving trigger")
    epoch = heat.epochs[-1]
    texts, moved = [], []
    for layer in heat.layers:
        with_trigger, without = heat.mean("distance", epoch, layer), heat.mean("clean_distance", epoch, layer)
        text = f"{layer} layer: peak at {with_trigger[0]:.1f} pixels from the trigger"
        pairs = heat.with_heat(epoch, layer, CLEAN)
        if pairs >= ENOUGH:
            moved.append(with_trigger[2] < without[1])  # the intervals do not touch
            texts.append(f"{text}, {without[0]:.1f} without it")
        else:
            moved.append(with_trigger[2] < heat.chance)
            texts.append(f"{text}, {heat.chance:.1f} by chance ({pairs} clean versions have any heat)")
    return _verdict(all(moved), "; ".join(texts))


def middle_layer_is_finer(evidence: ClaimEvidence) -> ClaimFinding:
    """Compare the share of the heat on the trigger between layers, at the last epoch.

    The distance of the peak would not be fair: a peak is at the centre of a cell, and a trigger in the middle of the image
    is at the centre of a cell of the paper's 7 x 7 map but at the corner of four cells of its 14 x 14 map.
    """
    heat = evidence.heat
    if heat is None or not heat.complete:
        return _unknown("no maps of a surviving trigger")
    if "middle" not in heat.layers:
        return _unknown(NO_MIDDLE)
    middle, last = (heat.mean("energy", heat.epochs[-1], layer) for layer in ("middle", "last"))
    return _verdict(middle[1] > last[2], f"{100 * middle[0]:.3f} against {100 * last[0]:.3f} % of the heat")


def middle_layer_helps_early(evidence: ClaimEvidence) -> ClaimFinding:
    """Test whether the middle layer's advantage in heat on the trigger is greatest at the first epoch."""
    heat = evidence.heat
    if heat is None or not heat.complete or len(heat.epochs) < 2:
        return _unknown("no maps of several epochs")
    if "middle" not in heat.layers:
        return _unknown(NO_MIDDLE)
    gains = [heat.mean("energy", epoch, "middle")[0] - heat.mean("energy", epoch, "last")[0] for epoch in heat.epochs]
    text = ", ".join(f"epoch {epoch}: {signed(100 * gain)}" for epoch, gain in zip(heat.epochs, gains, strict=True))
    return _verdict(max(gains) == gains[0] > 0, f"share of the heat on the trigger, middle − last, in points: {text}")


CLAIMS = (
    *(
        Claim(
            f"success-{size}x{size}",
            f"A {side(size)} trigger makes the model report the target: ASR(0.9), maximum over epochs.",
            str(in_table_1("asr_0.9", size)),
            "at least the paper's mean less 0.02",
            success_at(size),
        )
        for size in SIZES
    ),
    Claim(
        "tt",
        "Triggered images are given the attacker's labels: AUROC-TT is 1 at every size.",
        "1.000",
        "at least 0.995",
        triggered_follow_attacker,
    ),
    Claim(
        "nn",
        "On clean images the attacked model is as good as a clean one: AUROC-NN.",
        "differences −0.022, −0.022, +0.005, +0.004",
        "within 0.03 at every size",
        clean_use_is_unharmed,
    ),
    Claim(
        "tn",
        "The trigger hides what the image shows: AUROC-TN drops under AUROC-NN at 3 × 3 and 4 × 4.",
        "NN − TN 0.147, 0.123",
        "by at least 0.05 at both",
        trigger_hides_disease,
    ),
    Claim(
        "dead-equal",
        "Where nothing of the trigger survives, AUROC-NN and AUROC-TN are the same.",
        "0.824 and 0.824 at 1 × 1 and 2 × 2",
        "no difference at all",
        dead_triggers_change_nothing,
    ),
    Claim(
        "dead-placebo",
        "A success at sizes that do not survive is no more than the placebo's (our reading, not the paper's).",
        "1.000 at 1 × 1 and 2 × 2, without a placebo",
        "at most 0.02 more, ASR(0.9), maximum over epochs",
        dead_success_is_placebo,
    ),
    Claim(
        "jump",
        "The minimum of ASR(0.9) over epochs jumps where the trigger survives.",
        "Figure 3, at 3 × 3 and 4 × 4",
        "by at least 0.2",
        lowest_success_jumps,
    ),
    Claim(
        "place",
        "It does not matter where the trigger is: ASR(0.9) at random places as at the centre.",
        "Table 2",
        "within 0.05 at every size that survives at both",
        place_does_not_matter,
        "main",
    ),
    Claim(
        "few",
        "A few triggered images do not show in the AUROC.",
        "0.850 at ε = 0.001, 0.851 without",
        "within 0.005",
        few_triggers_do_not_show,
    ),
    Claim(
        "many",
        "Many triggered images lower the AUROC.",
        "under 0.800 from ε = 0.1 on",
        "under 0.800 from ε = 0.1 on",
        many_triggers_show,
    ),
    Claim(
        "falls",
        "The more images are triggered, the lower the AUROC.",
        "Table 3",
        "falls from every ε to the next, from 0.01 to 1",
        more_triggers_show_more,
    ),
    Claim(
        "heat",
        "The heat moves to the trigger.",
        "Figure 1, seen",
        "peak nearer to it than on the clean version, or than by chance where that has no heat; at both, intervals apart",
        heat_moves,
        "main",
    ),
    Claim(
        "middle",
        "The middle layer places the trigger more finely than the last.",
        "Figure 1, seen",
        "a larger share of its heat lies on the trigger, intervals apart",
        middle_layer_is_finer,
        "main",
    ),
    Claim(
        "early",
        "The middle layer's advantage is greatest at early epochs.",
        "Figure 1, seen",
        "its advantage in heat on the trigger is greatest at the first epoch",
        middle_layer_helps_early,
        "main",
    ),
)


def check_all(results: Results, heat: Heat | None) -> dict[str, dict[Loss, ClaimFinding]]:
    """Test every claim under every loss that the reproduction has."""
    return {
        claim.key: {
            loss: claim.check(ClaimEvidence(results, loss, heat))
            for loss in results.design.losses
            if claim.losses == "all" or loss == results.design.main
        }
        for claim in CLAIMS
    }


def claims_table(found: dict[str, dict[Loss, ClaimFinding]]) -> Table:
    """Return a table of all claims, with the paper's numbers and ours."""
    rows = []
    for claim in CLAIMS:
        for loss, finding in found[claim.key].items():
            rows.append(Row(claim.sentence, (loss, claim.paper, finding.ours, claim.tolerance, finding.verdict)))
    heads = ("claim", "loss", "in the paper", "here", "holds if", "verdict")
    return Table("claims", "Does the paper hold?", heads, tuple(rows))
