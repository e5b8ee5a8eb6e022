"""A study's plots: matplotlib figures, and the same as SVG text or files."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hvdtrain.study.cost_model import CostModel, busbw
from hvdtrain.study.sample import PARTS
from hvdtrain.study.scaling_table import ScalingTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers tell apart.
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#888888"
PART_COLOURS = dict(zip(PARTS, (BLUE, RED, ORANGE, GREY), strict=True))
SIZE = (6.4, 4.0)


def new_figure() -> tuple[Figure, Any]:
    """Return an empty figure with its axes; no window is opened anywhere."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def plain(text: str) -> str:
    """Return text that matplotlib does not take for mathematics."""
    return text.replace("$", r"\$")


def to_svg(figure: Figure, name: str) -> str:
    """Return a figure as SVG to be put into a page: no header, and ids that no other plot has.

    Args:
        figure: The plot.
        name: Put in front of its ids, which also makes the same plot the same text.
    """
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=150, metadata={"Software": None})
    return data.getvalue()


def study_plots(
    study: ScalingTable, allreduce: Sequence[Mapping[str, Any]], models: Sequence[CostModel]
) -> dict[str, Figure]:
    """Return the plots of a study by name."""
    found = {"throughput": throughput(study), "efficiency": efficiency(study), "step": step_split(study)}
    if allreduce:
        found["allreduce"] = allreduce_curve(allreduce, models)
    return found


def throughput(study: ScalingTable) -> Figure:
    """Return examples per second against ranks: measured, ideal, without communication, and one process."""
    figure, axes = new_figure()
    sizes = study.sizes
    ranks = [row.num_ranks for row in sizes]
    middle = [row.examples_per_s.median for row in sizes]
    spread = [
        [row.examples_per_s.median - row.examples_per_s.low for row in sizes],
        [row.examples_per_s.high - row.examples_per_s.median for row in sizes],
    ]
    axes.errorbar(
        ranks, middle, yerr=spread, fmt="o-", color=BLUE, capsize=3, label="measured, 95 % interval", zorder=3
    )
    axes.plot(ranks, [middle[0] * r / ranks[0] for r in ranks], "--", color=GREY, label=f"ideal, from {ranks[0]}")
    ceiling = [(r.num_ranks, r.examples_per_s.median / r.to_ceiling.median) for r in sizes if r.to_ceiling]
    if ceiling:
        axes.plot(*zip(*ceiling, strict=True), ":", marker="v", color=GREEN, label="without communication")
    if study.one_process:
        value = study.one_process.examples_per_s.median
        axes.axhline(value, color=ORANGE, linestyle="-.", label="one process, all cores")
    axes.set(xlabel="ranks", ylabel="examples/s", title=f"Throughput ({study.question.mode} scaling)")
    _rank_axis(axes, ranks)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def efficiency(study: ScalingTable) -> Figure:
    """Return efficiency against ranks: over the baseline, and over the ranks' own ceiling."""
    figure, axes = new_figure()
    ranks = [row.num_ranks for row in study.sizes]
    for name, colour, label in (
        ("efficiency", BLUE, f"against {study.question.baseline} rank(s)"),
        ("to_ceiling", GREEN, "against the same ranks without communication"),
    ):
        rows = [(row.num_ranks, getattr(row, name)) for row in study.sizes if getattr(row, name) is not None]
        if not rows:
            continue
        middle = [found.median for _, found in rows]
        spread = [[f.median - f.low for _, f in rows], [f.high - f.median for _, f in rows]]
        axes.errorbar([r for r, _ in rows], middle, yerr=spread, fmt="o-", color=colour, capsize=3, label=label)
    axes.axhline(1, color=GREY, linestyle="--", label="ideal")
    axes.set(xlabel="ranks", ylabel="efficiency", title="Efficiency, 95 % intervals")
    _rank_axis(axes, ranks)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.legend(frameon=False)
    return figure


def step_split(study: ScalingTable) -> Figure:
    """Return where the time of a step goes, as stacked bars."""
    figure, axes = new_figure()
    names = [
        f"{row.title} rank{'s' if row.num_ranks > 1 else ''}" if row.title.isdigit() else row.title.replace(" ", "\n")
        for row in study.rows
    ]
    bottom = np.zeros(len(names))
    for part in PARTS:
        values = np.array([row.parts_ms[part] for row in study.rows])
        axes.bar(names, values, bottom=bottom, color=PART_COLOURS[part], label=part, width=0.6)
        bottom += values
    axes.set(ylabel="ms per step", title="Where a step's time goes")
    axes.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    axes.set_ylim(top=bottom.max() * 1.05)
    return figure


def allreduce_curve(rows: Sequence[Mapping[str, Any]], models: Sequence[CostModel]) -> Figure:
    """Return the time of an allreduce against its size, with the fitted lines of the first way."""
    figure, axes = new_figure()
    series: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for row in rows:
        series.setdefault((row["num_ranks"], row["way"]), []).append((row["bytes"], 1e6 * row["seconds"]))
    colours = (BLUE, ORANGE, GREEN, RED, PURPLE, GREY)
    for place, ((num_ranks, way), found) in enumerate(sorted(series.items())):
        colour = colours[place % len(colours)]
        axes.plot(*zip(*sorted(found), strict=True), "o", color=colour, markersize=4, label=f"{way}, {num_ranks} ranks")
        model = next((m for m in models if m.num_ranks == num_ranks), None) if way == "horovod" else None
        if model is not None:
            x = np.geomspace(min(found)[0], max(found)[0], 200)
            axes.plot(x, [1e6 * model.seconds(size) for size in x], "-", color=colour, linewidth=1)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="bytes on each rank",
        ylabel="microseconds",
        title="Allreduce: measured (dots) and fitted (lines)",
    )
    axes.legend(frameon=False)
    return figure


def _rank_axis(axes: Any, ranks: Sequence[int]) -> None:
    if max(ranks) / min(ranks) > 16:
        axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(r) for r in ranks])
    axes.minorticks_off()


def bandwidths(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of a sweep with the two bandwidths of nccl-tests in GB/s."""
    return [
        {
            **row,
            "algbw_gb_s": row["bytes"] / row["seconds"] / 1e9,
            "busbw_gb_s": busbw(row["bytes"], row["seconds"], row["num_ranks"]) / 1e9,
        }
        for row in rows
    ]
