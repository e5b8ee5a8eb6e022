"""Writing what a study has found: text, Markdown, CSV, JSON, plots, and one page with all of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from hvdtrain.bench.table import table
from hvdtrain.rundir import read_json, write_text
from hvdtrain.study.cost_model import CostModel, fit_cost
from hvdtrain.study.forecast_words import HEAD as FORECAST_HEAD
from hvdtrain.study.forecast_words import forecast_cells, forecast_lines, forecast_plot
from hvdtrain.study.page import PageSection, PageTable, page
from hvdtrain.study.plots import bandwidths, study_plots, to_png, to_svg
from hvdtrain.study.scaling_table import ScalingTable, make_table
from hvdtrain.study.tables import (
    SPEED_HEAD,
    SPLIT_HEAD,
    law_lines,
    speed_cells,
    speed_table,
    split_cells,
    split_table,
    to_csv,
    to_json,
)
from hvdtrain.study.words import bottleneck, input_words, summary
from hvdtrain.studydir import ReportDir, StudyDir

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTIONS = {
    "throughput": "Examples per second of all ranks together.",
    "efficiency": "Speed-up over the ranks, and the share of what the ranks could do if gradients cost nothing.",
    "step": "Medians of a step's parts.",
    "allreduce": "Time of one allreduce against its size.",
    "forecast": "Efficiency beyond what was measured.",
}
ALLREDUCE_HEAD = ("ranks", "way", "bytes", "us", "algbw GB/s", "busbw GB/s", "result")


def write_report(study: StudyDir) -> str:
    """Write every form of a study's outcome, and return the text for a terminal."""
    facts, found = study.read(), make_table(study.question(), study.samples())
    sweeps = sweeps_of(study.rows())
    models = [model for sweep in sweeps if (model := model_of(sweep)) is not None]
    rows = [{"num_ranks": sweep["num_ranks"], **row} for sweep in sweeps for row in sweep["rows"]]
    plots = study_plots(found, rows, models)
    forecast = read_json(study.forecast)
    if forecast:
        plots["forecast"] = forecast_plot(forecast, found.sizes)
    write_text(study.table("csv"), to_csv(found))
    write_text(study.table("json"), to_json(found))
    write_text(study.table("md"), markdown(facts, found, forecast))
    write_plots(study, plots)
    write_text(study.report, html(facts, found, plots, rows, models, forecast))
    return text(found)


def write_plots(directory: ReportDir, plots: Mapping[str, Figure]) -> None:
    """Write every plot as SVG and as PNG."""
    directory.plots.mkdir(exist_ok=True)
    for name, figure in plots.items():
        write_text(directory.plots / f"{name}.svg", to_svg(figure, name))
        (directory.plots / f"{name}.png").write_bytes(to_png(figure))


def sweeps_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the first sweep of allreduces of each number of ranks."""
    found: dict[int, dict[str, Any]] = {}
    for row in rows:
        if row.get("allreduce"):
            found.setdefault(row["num_ranks"], row["allreduce"])
    return [found[num_ranks] for num_ranks in sorted(found)]


def model_of(sweep: Mapping[str, Any], way: str = "horovod") -> CostModel | None:
    """Return the cost model of one way's times; None if there are too few."""
    rows = [row for row in sweep["rows"] if row["way"] == way]
    if len(rows) < 3:
        return None
    sizes, seconds = [row["bytes"] for row in rows], [row["seconds"] for row in rows]
    return fit_cost(sweep["num_ranks"], sizes, seconds, gamma_s=sweep["gamma_s"])


def text(found: ScalingTable) -> str:
    """Return the outcome for a terminal."""
    sentences = [f"{_size(row.title)}: {bottleneck(row)}" for row in found.rows]
    return "\n\n".join(
        [
            speed_table(found, markdown=False),
            split_table(found, markdown=False),
            "\n".join([*sentences, input_words(found.sizes[-1])]),
            "\n".join(law_lines(found.laws)),
            summary(found),
        ]
    )


def markdown(facts: Mapping[str, Any], found: ScalingTable, forecast: Mapping[str, Any]) -> str:
    """Return the outcome as Markdown."""
    items = [f"{_size(row.title)}: {bottleneck(row)}" for row in found.rows]
    parts = [
        f"# {facts['name']}: {found.question.mode} scaling",
        summary(found),
        speed_table(found, markdown=True),
        split_table(found, markdown=True),
        "\n".join(f"- {line}" for line in [*items, input_words(found.sizes[-1]), *law_lines(found.laws)]),
        *([table(FORECAST_HEAD, forecast_cells(forecast), markdown=True)] if forecast else []),
        *(["\n".join(f"- {line}" for line in forecast_lines(forecast))] if forecast else []),
        f"{conditions(found)} Machine: {facts['machine']}.",
        f"```\n{facts['command']}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def html(
    facts: Mapping[str, Any],
    found: ScalingTable,
    plots: Mapping[str, Figure],
    rows: Sequence[Mapping[str, Any]],
    models: Sequence[CostModel],
    forecast: Mapping[str, Any],
) -> str:
    """Return the page."""
    sections = [
        PageSection("Speed", tables=[PageTable(SPEED_HEAD, [speed_cells(row) for row in found.rows])]),
        PageSection(
            "Where the time goes",
            tables=[PageTable(SPLIT_HEAD, [split_cells(row) for row in found.rows])],
            items=[*(f"{_size(row.title)}: {bottleneck(row)}" for row in found.rows), input_words(found.sizes[-1])],
        ),
        PageSection("Speed-up laws", items=law_lines(found.laws)),
    ]
    if rows:
        sections.append(
            PageSection(
                "Allreduce",
                texts=[model_words(model) for model in models],
                tables=[PageTable(ALLREDUCE_HEAD, [allreduce_cells(row) for row in bandwidths(rows)])],
            )
        )
    if forecast:
        cells = PageTable(FORECAST_HEAD, forecast_cells(forecast))
        sections.append(PageSection("Forecast", tables=[cells], items=forecast_lines(forecast)))
    sections.append(
        PageSection(
            "How this was measured",
            texts=[conditions(found), f"Machine: {facts['machine']}.", f"hvdtrain {facts['version']}."],
            code=facts["command"],
        )
    )
    return page(
        files("hvdtrain.study").joinpath("report.html.j2").read_text(encoding="utf-8"),
        title=f"{facts['name']}: {found.question.mode} scaling",
        subtitle=facts["machine"],
        summary=summary(found),
        plots={name: (figure, CAPTIONS[name]) for name, figure in plots.items()},
        sections=sections,
    )


def width_words(width: float) -> str:
    """Return which sizes a cost model's lines were fitted to."""
    if math.isinf(width):
        return "one straight line for all sizes"
    return f"a straight line for each size, fitted to those within a factor of about {math.exp(width):.1f}"


def model_words(model: CostModel) -> str:
    """Return a cost model in a sentence."""
    gamma = "" if model.gamma_s is None else f", gamma {1e12 * model.gamma_s:.0f} ps per byte added"
    return (
        f"{model.num_ranks} ranks, as a ring: alpha {1e6 * model.alpha_s:.1f} us per message, beta "
        f"{1e12 * model.beta_s:.0f} ps per byte ({1e-9 / model.beta_s if model.beta_s else 0:.2f} GB/s){gamma}; "
        f"{width_words(model.width)}."
    )


def allreduce_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return one line of the table of allreduces."""
    return (
        str(row["num_ranks"]),
        row["way"],
        f"{row['bytes']:,}",
        f"{1e6 * row['seconds']:,.1f}",
        f"{row['algbw_gb_s']:.3f}",
        f"{row['busbw_gb_s']:.3f}",
        "right" if row["is_right"] else "WRONG",
    )


def conditions(found: ScalingTable) -> str:
    """Return how the numbers were made."""
    question = found.question
    batch = "the batch of each rank stays" if question.mode == "weak" else "the global batch stays"
    return (
        f"{question.mode.capitalize()} scaling: {batch}. {question.repeats} repeats in turn, {question.seconds:g} s of "
        f"training timed in each after {question.warmup_steps} steps, {question.data} data; evaluation and checkpoints "
        "are left out. Ratios are taken within a repeat; their median counts, with the 95 % interval of a bootstrap. "
        "Between segments of half a second the same ranks run the same steps without communication, on a batch that "
        "stays in memory, and the input alone: the differences are the parts of a step."
    )


def _size(title: str) -> str:
    return f"{title} rank{'s' if title != '1' else ''}" if title.isdigit() else title
