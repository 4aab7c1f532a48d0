"""All tables, figures and claims of a reproduction: as files, and on one page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from matplotlib.figure import Figure
from pydantic import PrivateAttr

from petechia.core.files import write_bytes, write_text
from petechia.core.results import Record, Result
from petechia.core.version import __version__
from petechia.paper import figures
from petechia.paper.claims import CLAIMS, check_all, claims_table
from petechia.paper.parts import PARTS, Cell, Part, heat_cell
from petechia.paper.published import SIZES
from petechia.paper.results import Results
from petechia.paper.tables import EXTREMES, LOSS_NAMES, Table, heat_by_size, main_tables, per_class, table_2, table_3
from petechia.reports.figures import heat_curves, png, svg
from petechia.reports.html import page_template
from petechia.study.directory import read_json, write_json
from petechia.study.heat import Heat
from petechia.study.networks import read_history
from petechia.study.progress import StudyProgress
from petechia.study.result import Run


@dataclass(frozen=True)
class Picture:
    """A drawn figure: a key for file names, its SVG and PNG, and what it shows."""

    key: str
    svg: bytes
    png: bytes
    caption: str


@dataclass
class Section:
    """A part of the page."""

    title: str
    texts: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Picture] = field(default_factory=list)


class ClaimResult(Record):
    """What was measured for a claim, in a few words, and whether it holds."""

    verdict: str
    ours: str


class Reproduction(Result):
    """The paper, reproduced. File: reproduction.json.

    Attributes:
        folder: of all tables and figures; the page is index.html.
        claims: claim → loss → result; empty unless all parts were reproduced.
        runs: name → finished run.
        failures: name of a run → why it failed.
    """

    file_name: ClassVar[str] = "reproduction.json"

    folder: Path
    claims: dict[str, dict[str, ClaimResult]]
    runs: dict[str, Run]
    failures: dict[str, str]

    _sections: list[Section] = PrivateAttr(default_factory=list)
    _claims_table: Table | None = PrivateAttr(None)

    @property
    def sections(self) -> list[Section]:
        """Tables and figures."""
        return self._sections

    @property
    def claims_table(self) -> Table | None:
        """The claims for people; None without claims."""
        return self._claims_table

    @property
    def tables(self) -> list[Table]:
        """Of all sections."""
        return [table for section in self.sections for table in section.tables]

    def _overview(self) -> list[tuple[str, str]]:
        verdicts = Counter(one.verdict for of_claim in self.claims.values() for one in of_claim.values())
        counted = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
        return [("page", str(self.folder / "index.html")), ("runs", str(len(self.runs))), ("claims", counted or "not checked")]


def write_reproduction(results: Results, parts: Sequence[Part], preset: str, progress: StudyProgress) -> Reproduction:
    """Make everything that the finished runs allow, and write it below `reproduction` in the study's directory.

    Raises:
        PetechiaError: a file of a run is damaged.
    """
    heat = results.heat(heat_cell(results.design)) if "figure-1" in parts else None
    makers: dict[Part, Callable[[Results, Heat | None], Section]] = {
        "table-1": _table_1,
        "table-2": _table_2,
        "table-3": _table_3,
        "figure-1": _figure_1,
        "figure-3": _figure_3,
    }
    sections = [makers[part](results, heat) for part in PARTS if part in parts]
    claims = check_all(results, heat) if set(parts) == set(PARTS) else {}
    table = claims_table(claims) if claims else None
    folder = results.directory.path / "reproduction"
    checked = {
        key: {loss: ClaimResult(verdict=one.verdict, ours=one.ours) for loss, one in found.items()}
        for key, found in claims.items()
    }
    whole = Reproduction(folder=folder, claims=checked, runs=results.runs, failures=results.failures)
    whole._sections, whole._claims_table = sections, table
    _write_files(whole)
    write_text(whole.folder / "index.html", _page(whole, results, parts, preset))
    return whole


def _table_1(results: Results, _: Heat | None) -> Section:
    section = Section(
        "Table 1: success by size of the trigger",
        [
            "The maximum over epochs flatters an attack: over enough epochs a model may once call everything the target. So "
            "the same rate on clean images, the control, the placebo and the survival stand in every column."
        ],
        main_tables(results),
    )
    cells = [Cell(loss, "center", size) for loss in results.design.losses for size in SIZES]
    cells = [cell for cell in cells if results.has(cell)]
    section.tables += [per_class(results, cell) for cell in cells if cell.loss == results.design.main and cell.size >= 3]
    if cells:
        caption = "Every metric over epochs, mean over seeds, by loss and size of the trigger."
        section.figures.append(_picture("over-epochs", figures.over_epochs(results, cells), caption))
    shown = [cell for cell in cells if cell.size == 3]
    section.figures += [
        _picture(
            f"roc-{cell.loss}", figures.roc_curves(results, cell), f"ROC curves, 3 × 3, {cell.loss}: last epoch, first seed."
        )
        for cell in shown
    ]
    return section


def _table_2(results: Results, _: Heat | None) -> Section:
    tables = [table_2(results, statistic) for statistic in EXTREMES]
    return Section("Table 2: does it matter where the trigger is?", tables=tables)


def _table_3(results: Results, _: Heat | None) -> Section:
    cells = [cell for cell in (Cell(results.design.main, "center", size) for size in (3, 4)) if results.has(cell)]
    if not cells:
        return Section("Table 3: how many triggered images show?", ["The runs are not finished."])
    picture = _picture(
        "epsilon", figures.against_epsilon(results, cells), "AUROC by share of triggered test images; bands: 95 % intervals."
    )
    return Section("Table 3: how many triggered images show?", tables=[table_3(results)], figures=[picture])


def _figure_1(results: Results, heat: Heat | None) -> Section:
    title = "Figure 1: where the model looks"
    if heat is None:
        return Section(title, ["There is no finished run with a surviving trigger whose maps could be shown."])
    config = results.config(heat_cell(results.design))
    text = (
        f"Grad-CAM for {config.attack.target} at the last feature map and at the ReLU before the last transition; "
        f"{config.preprocess.size} × {config.preprocess.size} pixels, "
        f"numbers over {heat.pairs} pairs of a clean test image and its triggered twin."
    )
    drawn = config.data.startswith("phantom")
    maps = _picture(
        "figure-1",
        figures.figure_1(heat, config.preprocess.size),
        "A test image and its triggered twin; the trigger is circled.",
    )
    curves = _picture("figure-1-numbers", heat_curves(heat), "The same over all pairs, with 95 % intervals over patients.")
    texts = [text] + ([] if drawn else ["The image is one of the test images."])
    return Section(title, texts, [heat_by_size(results)], [maps, curves])


def _figure_3(results: Results, _: Heat | None) -> Section:
    section = Section("Figure 3: the weakest epoch")
    if any(results.has(Cell(loss, "center", 3)) for loss in results.design.losses):
        caption = "Minimum over epochs by size of the trigger, with its survival; bands: standard deviation over seeds."
        section.figures.append(_picture("figure-3", figures.figure_3(results), caption))
    if results.has(Cell(results.design.main, "center", 3)):
        caption = "Success and AUROC by the share of triggered training images, 3 × 3 trigger, first seed."
        section.figures.append(_picture("rate", figures.against_rate(results), caption))
    return section


def _picture(key: str, figure: Figure, caption: str) -> Picture:
    return Picture(key, svg(figure), png(figure), caption)


def _write_files(whole: Reproduction) -> None:
    for table in [*whole.tables, *([whole.claims_table] if whole.claims_table else [])]:
        for suffix, text in ((".md", table.markdown()), (".csv", table.csv()), (".tex", table.latex())):
            write_text(whole.folder / f"{table.key}{suffix}", text)
    for section in whole.sections:
        for picture in section.figures:
            write_bytes(whole.folder / f"{picture.key}.svg", picture.svg)
            write_bytes(whole.folder / f"{picture.key}.png", picture.png)
    if whole.claims:
        write_json(
            whole.folder / "claims.json",
            {key: {loss: one.model_dump() for loss, one in found.items()} for key, found in whole.claims.items()},
        )


def _page(whole: Reproduction, results: Results, parts: Sequence[Part], preset: str) -> str:
    first = results.run_of_any()
    networks = [path for path in (results.directory.path / "networks").iterdir() if path.is_dir()]
    seconds = sum(sum(read_history(results.directory.network(path.name)).seconds) for path in networks)
    verdicts = Counter(finding.verdict for findings in whole.claims.values() for finding in findings.values())
    return page_template("petechia.paper", "page.html").render(
        preset=preset,
        parts=["all tables and figures"] if set(parts) == set(PARTS) else list(parts),
        version=__version__,
        failures=results.failures,
        claims=[(claim, whole.claims[claim.key]) for claim in CLAIMS if claim.key in whole.claims],
        loss_names=LOSS_NAMES,
        counts=verdicts,
        sections=whole.sections,
        runs=len(results.runs),
        networks=len(networks),
        hours=_duration(seconds),
        environment=read_json(first.path / "environment.json"),
        config_yaml=first.config().to_yaml(),
    )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
