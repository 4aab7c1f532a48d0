"""Redraw the figures of docs/detection from its results: python -m benchmarks.detection_figures [FOLDER]."""

from __future__ import annotations

import argparse
import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

from petechia.detect.audit.measured import FEWEST
from petechia.detect.audit.verdict import LEVEL

PAGES = Path(__file__).parents[1] / "docs" / "detection"
BLUE, ORANGE, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#8C8C8C", "#222222"
SHARES = LinearSegmentedColormap.from_list("shares", ["#F4A86A", "#FBF3EA", "#7FB8DE"])  # nothing, half, everything found
STYLE: dict[Any, Any] = {
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "text.color": INK,
}
WIDTH, DPI = 8.0, 200  # inches; shown 800 pixels wide, at twice that resolution
KINDS = {
    "pattern": "8 × 8 checkerboard",
    "marker-L": "side marker L",
    "blended": "blended noise",
    "sinusoid": "wave",
    "warp": "warp, strength 2",
    "warp-0.5": "warp, strength 0.5",
    "warp-cover": "warp with cover",
    "fiba": "FIBA",
}
AUDITED = {  # how the triggers are called among the audited models
    "pattern": ("checkerboard",),
    "blended": ("noise, whole",),
    "sinusoid": ("wave",),
    "warp": ("warp",),
    "fiba": ("FIBA",),
    "marker-L": ("marker: L",),
    "pacemaker": ("marker: pacemaker",),
    "electrode": ("marker: electrode",),
}
COLOURS = 96  # palette size of the PNG files, to keep them small
NETWORKS = {"regnetx_002": "RegNetX", "resnet10t": "ResNet-10-T", "densenet121": "DenseNet-121"}

Row = dict[str, str]


def read(folder: Path, name: str) -> list[Row]:
    """Read the rows of results/NAME.csv."""
    with (folder / "results" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def canvas(height: float, title: str) -> Figure:
    """Create a white figure with a left-aligned title that states the result."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white", layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12.5, fontweight="bold")
    return figure


def total(rows: Sequence[Row], part: str, whole: str) -> tuple[int, int]:
    """Return the sums of two columns."""
    return sum(int(row[part]) for row in rows), sum(int(row[whole]) for row in rows)


def cells(axes: Axes, table: Sequence[Sequence[tuple[float | None, str]]]) -> None:
    """Draw a grid of shares, coloured by share and with text in each cell; grey where nothing was measured."""
    for i, line in enumerate(table):
        for j, (share, text) in enumerate(line):
            colour = "#E6E6E6" if share is None else SHARES(share)
            axes.fill([j, j + 1, j + 1, j], [i, i, i + 1, i + 1], facecolor=colour, edgecolor="white", linewidth=2)
            axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=9)
    axes.set(xlim=(0, len(table[0])), ylim=(len(table), 0))
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)


def counted(found: int, of: int) -> tuple[float, str]:
    """Return the cell of a count."""
    return found / of, f"{found} of {of}"


def overview(folder: Path) -> Figure:
    """Draw kinds of triggers against detectors."""
    scanned = read(folder, "scan-evasion")
    squares = [row for row in read(folder, "scan-attacks") if (row["dataset"], row["rate"]) == ("phantom", "5%")]
    audited = [row for row in _audited(folder) if row["backdoor"] == "took" and int(row["classes"]) >= FEWEST]

    def audits(*triggers: str) -> tuple[float | None, str]:
        some = [row for row in audited if row["trigger"].startswith(triggers)] if triggers else []
        right = [row for row in some if row["target"] in row["flagged"].split(", ")]
        return counted(len(right), len(some)) if some else (None, "not measured")

    screened = [row for row in read(folder, "screen-models") if row["backdoor"] == "took"]
    squares_screened = [row for row in screened if row["trigger_kind"] == "square"]
    table, names = [], []
    for name, anywhere in (("square, fixed place", False), ("square, random place", True)):
        line: list[tuple[float | None, str]] = []
        for mode in ("append", "replace"):
            some = [row for row in squares if row["mode"] == mode and (row["place"] == "random") == anywhere]
            line.append(counted(*total(some, "flagged", "triggered")))
        line.append(audits() if anywhere else audits(*"12345678"))  # sides of squares
        line.append((None, "not measured") if anywhere else counted(*total(squares_screened, "triggered_flagged", "triggered")))
        table.append(line)
        names.append(name)
    for name in (
        "marker-L",
        "pacemaker",
        "electrode",
        "pattern",
        "blended",
        "sinusoid",
        "fiba",
        "warp",
        "warp-0.5",
        "warp-cover",
    ):
        (kind,) = (row for row in screened if row["model"] == name)
        line = []
        for mode in ("append", "replace"):
            some = [row for row in scanned if (row["attacker"], row["mode"]) == (name, mode)]
            line.append(counted(*total(some, "flagged", "triggered")) if some else (None, "not measured"))
        line.append(audits(*AUDITED.get(name, ())))
        line.append(counted(*total([kind], "triggered_flagged", "triggered")))
        table.append(line)
        names.append(KINDS.get(name, name))
    figure = canvas(
        6.0,
        "Square stamps are mostly found. Letters and warps pass\nthe scan if originals are replaced.",
    )
    axes = figure.subplots()
    cells(axes, table)
    axes.set_xticks(
        [0.5, 1.5, 2.5, 3.5],
        [
            "scan: images\n(originals kept)",
            "scan: images\n(originals replaced)",
            "audit: models",
            "screen: images\n(1 % FPR asked for)",
        ],
    )
    axes.set_yticks([i + 0.5 for i in range(len(names))], names)
    return figure


def scan(folder: Path) -> Figure:
    """Draw every attack of the scan's table."""
    rows = read(folder, "scan-attacks")
    columns = [(mode, rate) for mode in ("append", "replace") for rate in ("1%", "5%", "40%")]
    figure = canvas(
        7.5,
        "Scan flags every copy that was added with a square stamp. If originals are\n"
        "replaced, it misses stamps at random places and at low rates.",
    )
    grids = figure.subplots(2, 1, height_ratios=[6, 12])
    for axes, dataset in zip(grids, ("NIH sample", "phantom"), strict=True):
        here = [row for row in rows if row["dataset"] == dataset]
        kinds = sorted(
            {(row["place"], row["size"], row["grey_level"]) for row in here},
            key=lambda kind: (("centre", "[70, 90]", "random").index(kind[0]), kind[1]),
        )
        table = []
        for kind in kinds:
            line = []
            for column in columns:
                (row,) = (
                    r for r in here if ((r["place"], r["size"], r["grey_level"]), (r["mode"], r["rate"])) == (kind, column)
                )
                extra = f" (+{row['false_flagged']})" if row["false_flagged"] != "0" else ""
                line.append((float(row["flagged_share"]), f"{row['flagged']}/{row['triggered']}{extra}"))
            table.append(line)
        cells(axes, table)
        axes.axvline(3, color=INK, linewidth=1)
        axes.set_xticks([i + 0.5 for i in range(6)], [f"{mode} {rate.replace('%', ' %')}" for mode, rate in columns])
        axes.set_yticks([i + 0.5 for i in range(len(kinds))], [_square(*kind) for kind in kinds])
        axes.set_title(
            "NIH sample, 440 radiographs" if dataset == "NIH sample" else "Phantom, 2,000 images", loc="left", fontsize=11
        )
    figure.supxlabel("triggered images flagged / all triggered images (+ clean images flagged, if any)", fontsize=9.5)
    return figure


def _square(place: str, size: str, level: str) -> str:
    return f"{size} {'black' if level == '0' else 'white'}, {place.replace('[70, 90]', 'at 70, 90')}"


def _audited(folder: Path) -> list[Row]:
    """The models that the audit is judged on: those that its verdict was not tuned on, and those with few classes."""
    return [row for row in read(folder, "audit-models") if row["set"] in ("fresh", "few classes")]


def audit(folder: Path) -> Figure:
    """Draw the p-values of all audited models."""
    every = _audited(folder)
    rows, few = ([row for row in every if (int(row["classes"]) < FEWEST) == fewer] for fewer in (False, True))
    took = [row for row in rows if row["backdoor"] == "took"]
    groups: list[tuple[str, list[Row]]] = [
        (f"{kind}, {images}", [row for row in took if (row["kind"], row["images"]) == (kind, images)])
        for kind in ("square", "pattern or checkerboard", "whole image")
        for images in ("drawn", "NIH")
    ]
    groups += [
        ("backdoors that did not take", [row for row in rows if row["backdoor"] == "did not take"]),
        ("clean", [row for row in rows if row["backdoor"] == "clean"]),
    ]
    accused = sum(row["flagged"] != "nothing" for row in groups[-1][1])
    innocent = len(groups[-1][1])
    groups += [
        (f"1 to 3 classes: {name}", [row for row in few if row["backdoor"] == backdoor])
        for name, backdoor in (("backdoors", "took"), ("did not take", "did not take"), ("clean", "clean"))
    ]
    right = sum(row["target"] in row["flagged"].split(", ") for row in took)
    figure = canvas(
        5.6,
        f"Audit finds {right} of {len(took)} backdoors in models of four classes and more,\n"
        f"with the right class, and flags {accused} of {innocent} clean ones.",
    )
    axes = figure.subplots()
    axes.axvspan(1e-4, LEVEL, color="#E8F1F8", zorder=0)
    axes.axvline(LEVEL, color=GREY, linewidth=1, linestyle="--", zorder=1)
    axes.text(0.9 * LEVEL, -0.72, f"flagged: p ≤ {LEVEL}", ha="right", va="center", fontsize=9.5, color=GREY)
    looks = {
        "flagged, the right class": ("o", BLUE),
        "flagged, another class": ("D", GREEN),
        "backdoor, not flagged": ("X", ORANGE),
        "clean model, not flagged": ("o", "white"),
    }
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in looks}
    for i, (_, some) in enumerate(groups):
        for j, row in enumerate(sorted(some, key=lambda row: float(row["p"]))):
            points[_look(row)].append((float(row["p"]), i + (j % 5 - 2) * 0.13))
    for name, (marker, colour) in looks.items():
        x, y = zip(*points[name], strict=True) if points[name] else ((), ())
        axes.scatter(x, y, s=40, marker=marker, color=colour, edgecolor=INK, linewidth=0.6, label=name, zorder=3)
    axes.set(xscale="log", xlim=(0.004, 1.3), ylim=(len(groups) - 0.5, -1.1), xlabel="p-value of the model (log scale)")
    axes.set_yticks(range(len(groups)), [f"{name} ({len(some)})" for name, some in groups])
    axes.grid(axis="y", color="#EEEEEE", zorder=0)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9.5)
    return figure


def _look(row: Row) -> str:
    if row["flagged"] == "nothing":
        return "clean model, not flagged" if row["backdoor"] == "clean" else "backdoor, not flagged"
    return "flagged, the right class" if row["target"] in row["flagged"].split(", ") else "flagged, another class"


def audit_uniform(folder: Path) -> Figure:
    """Draw the p-values of the clean models of the calibration, each compared with the others, against uniform ones."""
    rows = read(folder, "audit-clean")
    tests = [name for name in rows[0] if name not in {"model", "size", "classes", "p"}]
    many, few = ([row for row in rows if (int(row["classes"]) < FEWEST) == fewer] for fewer in (False, True))
    panels = [("all tests, 4 classes or more", many, "p"), ("all tests, fewer classes", few, "p")]
    panels += [(f"{test} alone", many, test) for test in tests]
    figure = canvas(
        5.6,
        "P-values of clean models that the null has not seen: all tests together are\n"
        "uniform, up to the models that answer to nothing.",
    )
    grid = figure.subplots(2, -(-len(panels) // 2), sharex=True, sharey=True, squeeze=False)
    for axes, (name, some, column) in zip(grid.flat, panels, strict=True):
        values = sorted(float(row[column]) for row in some if row[column])
        expected = [(n + 0.5) / len(values) for n in range(len(values))]
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
        axes.plot(expected, values, ".", color=BLUE, markersize=4)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
        axes.set_title(f"{name} ({len(values)})", fontsize=9, loc="left")
    figure.supxlabel("uniform", fontsize=9.5)
    figure.supylabel("measured", fontsize=9.5)
    return figure


def screen(folder: Path) -> Figure:
    """Draw the shares of triggered and clean images that are flagged, for every model."""
    rows = read(folder, "screen-models")
    took = [row for row in rows if row["backdoor"] == "took"]
    named = {
        "squares": [row for row in took if row["trigger_kind"] == "square"],
        "patterns, checkerboards, markers": [row for row in took if row["trigger_kind"] == "pattern or checkerboard"],
        "blends": [row for row in took if row["trigger"] in {"noise, whole image", "rings, whole image"}],
        "waves": [row for row in took if row["trigger"] == "wave"],
        "warps": [row for row in took if row["trigger"] == "warp"],
        "FIBA": [row for row in took if row["trigger"] == "FIBA"],
        "did not take": [row for row in rows if row["backdoor"] == "did not take"],
        "clean models": [row for row in rows if row["backdoor"] == "clean"],
    }
    groups = [
        (
            f"{name} ({len(some)})",
            [
                (int(row["triggered_flagged"]) / int(row["triggered"]), int(row["clean_flagged"]) / int(row["clean"]))
                for row in some
            ],
        )
        for name, some in named.items()
    ]
    figure = canvas(
        5.4,
        "Screen flags nearly all images with a square or a pattern, and most with\n"
        "a trigger over the whole image, where the backdoor took well.",
    )
    axes = figure.subplots()
    axes.axvline(0.01, color=GREY, linewidth=1, linestyle="--", zorder=1)
    for index, label, colour, marker in ((0, "triggered images flagged", BLUE, "o"), (1, "clean images flagged", ORANGE, "D")):
        points = [
            (pair[index], i + 0.45 * (j / max(len(pairs) - 1, 1) - 0.5))
            for i, (_, pairs) in enumerate(groups)
            for j, pair in enumerate(pairs)
        ]
        axes.scatter(
            [x for x, _ in points],
            [y for _, y in points],
            s=40,
            color=colour,
            marker=marker,
            edgecolor=INK,
            linewidth=0.5,
            label=label,
            zorder=3,
        )
    axes.text(0.018, -0.85, "1 % asked for", fontsize=9.5, color=GREY, va="center")
    axes.set(xlim=(-0.02, 1.03), ylim=(len(groups) - 0.4, -1.3), xlabel="share of the images that are flagged")
    axes.set_yticks(range(len(groups)), [name for name, _ in groups])
    axes.grid(axis="y", color="#EEEEEE", zorder=0)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9.5)
    return figure


def repair(folder: Path) -> Figure:
    """Draw the trigger's success and the AUROC after each repair, on the judging half."""
    rows = [row for row in read(folder, "repair-models") if row["half"] == "judge"]
    models = list(dict.fromkeys(row["model"] for row in rows))
    looks = {"unlearn": (BLUE, "o"), "fine-prune": (GREEN, "s"), "fine-tune": (ORANGE, "X")}
    figure = canvas(
        5.0,
        "Unlearning removes all 11 backdoors. By ASR(0.9), fine-pruning\nleaves two and fine-tuning leaves all.",
    )
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    for k, (method, (colour, marker)) in enumerate(looks.items()):
        by_model = {row["model"]: row for row in rows if row["method"] == method}
        height = [models.index(model) + 0.22 * (k - 1) for model in by_model]
        after = [float(row["asr_0.9_after"]) for row in by_model.values()]
        change = [float(row["auroc_nn_after"]) - float(row["auroc_nn_before"]) for row in by_model.values()]
        for axes, values in ((left, after), (right, change)):
            label = method if axes is left else None
            axes.scatter(values, height, s=44, color=colour, marker=marker, edgecolor=INK, linewidth=0.5, label=label, zorder=3)
    left.set(xlim=(-0.04, 1.04), ylim=(len(models) - 0.4, -0.6), xlabel="ASR(0.9) after (before: 0.95 to 1.00)")
    right.set(xlim=(-0.045, 0.006), xlabel="change of AUROC-NN")
    right.axvline(-0.02, color=GREY, linewidth=1, linestyle="--", zorder=1)
    right.text(-0.021, -0.4, "−0.02 allowed", ha="right", fontsize=9.5, color=GREY, va="center")
    left.set_yticks(range(len(models)), [_attack(model) for model in models])
    for axes in (left, right):
        axes.grid(axis="y", color="#EEEEEE", zorder=0)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _attack(model: str) -> str:
    """Describe a model named like judge-01_3x3_center_rate-0.4_regnetx_002-10."""
    found = re.fullmatch(r"(judge-\d+)_(\d)x\d_(\w+)_rate-([\d.]+)_(\w+)-\d+", model)
    assert found is not None, model
    name, size, place, rate, network = found.groups()
    where = {"center": "centre", "given": "side"}.get(place, place)
    return f"{name[-2:]}: {size} × {size} {where}, {100 * float(rate):g} %, {NETWORKS[network]}"


def peers(folder: Path) -> Figure:
    """Draw AUROC and recall of the published defences and of ours."""
    screened = [row for row in read(folder, "peers-screens") if row["backdoor"] == "took" and "with none" not in row["rule"]]
    training = [row for row in read(folder, "peers-training") if row["view"] != "told the class"]
    lines = []
    for defence, rule in dict.fromkeys((row["defence"], row["rule"]) for row in screened):
        some = [row for row in screened if (row["defence"], row["rule"]) == (defence, rule)]
        areas, (caught, of) = [float(row["auroc"]) for row in some], total(some, "triggered_flagged", "triggered")
        lines.append((f"{defence}, {rule}" if rule else defence, [median(areas), min(areas), max(areas), caught / of]))
    gap = len(lines)
    for row in sorted(training, key=lambda row: not row["defence"].startswith("petechia")):
        keys = ("auroc_median", "auroc_low", "auroc_high", "recall_at_1pct_fpr")
        name = {"activation": "activation defence", "spectral": "spectral, ART"}.get(row["defence"], row["defence"])
        lines.append((name.replace("spectral as", "spectral, as"), [float(row[key]) for key in keys]))
    figure = canvas(
        5.2,
        "On images the screen is ahead of the published defences. On training\n"
        "images ART's spectral signatures rank almost as well as the scan.",
    )
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    heights = [i + 0.8 * (i >= gap) for i in range(len(lines))]
    for height, (name, (middle, low, high, recall)) in zip(heights, lines, strict=True):
        colour = BLUE if name.startswith("petechia") else GREY
        left.plot([low, high], [height, height], color=colour, linewidth=3, solid_capstyle="round", alpha=0.55)
        left.scatter([middle], [height], s=48, color=colour, edgecolor=INK, linewidth=0.6, zorder=3)
        right.barh(height, recall, height=0.62, color=colour)
        right.text(recall + 0.02, height, f"{recall:.2f}", va="center", fontsize=9.5)
    for height, text in (
        (heights[0] - 0.85, "images (16 backdoored models)"),
        (heights[gap] - 0.85, "training images (11 models)"),
    ):
        left.text(0, height, text, fontsize=10, fontweight="bold", va="center", backgroundcolor="white")
    left.axvline(0.5, color=GREY, linewidth=1, linestyle="--", zorder=0)
    left.set(xlim=(-0.03, 1.03), ylim=(heights[-1] + 0.6, -1.4), xlabel="AUROC: median and range (dashed: chance)")
    right.set(xlim=(0, 1.18), xlabel="share caught at 1 % FPR")
    left.set_yticks(heights, [name for name, _ in lines])
    return figure


FIGURES: dict[str, Callable[[Path], Figure]] = {
    "overview": overview,
    "scan": scan,
    "audit": audit,
    "audit-uniform": audit_uniform,
    "screen": screen,
    "repair": repair,
    "peers": peers,
}


def draw(folder: Path) -> Iterator[Path]:
    """Write every figure beside the pages."""
    with rc_context(STYLE):
        for name, make in FIGURES.items():
            drawn = io.BytesIO()
            make(folder).savefig(drawn, format="png")
            few = Image.open(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
            few.save(folder / f"{name}.png", optimize=True)
            yield folder / f"{name}.png"


def main() -> None:
    """Read the CSV files and write the PNG files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=PAGES, help="with results/*.csv; pictures are written into it")
    for path in draw(parser.parse_args().folder):
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
