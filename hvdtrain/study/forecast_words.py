"""A forecast as a table, in sentences, and as a plot; from what `forecast.json` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hvdtrain.study.plots import BLUE, GREEN, GREY, ORANGE, new_figure, plain
from hvdtrain.study.scaling_table import SizeRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAD = (
    "ranks", "nodes", "examples/s", "efficiency", "low to high", "compute ms", "stragglers ms", "gradients ms",
    "time", "node hours", "charge",
)  # fmt: skip


def forecast_cells(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the lines of the table."""
    cost = found["cost"]
    charges = [f"{value:,.4g} {cost['unit']}" for value in cost["charges"]] if cost else [""] * len(found["rows"])
    return [_cells(row, charge) for row, charge in zip(found["rows"], charges, strict=True)]


def _cells(row: Mapping[str, Any], charge: str) -> tuple[str, ...]:
    low, likely, high = row["efficiency"]
    step = row["step"]
    return (
        f"{row['num_ranks']:,}",
        f"{row['nodes']:,}",
        f"{row['examples_per_s'][1]:,.0f}",
        f"{likely:.0%}",
        f"{low:.0%} to {high:.0%}",
        *(f"{1e3 * step[name]:.3g}" for name in ("compute_s", "straggling_s", "exposed_s")),
        time_text(row["hours"][1]),
        f"{row['node_hours']:,.3g}",
        charge,
    )


def time_text(hours: float) -> str:
    """Return a time in the unit people would use.

    >>> time_text(0.0001), time_text(0.5), time_text(30)
    ('0.36 s', '30 min', '30 h')
    """
    if hours >= 1:
        return f"{hours:.3g} h"
    return f"{60 * hours:.3g} min" if hours >= 1 / 60 else f"{3600 * hours:.3g} s"


def forecast_lines(found: Mapping[str, Any]) -> list[str]:
    """Return what the forecast says and what it is built on."""
    network = found["network"]
    worthwhile, most = found["last_worthwhile"], max(row["num_ranks"] for row in found["curve"])
    if worthwhile is None:
        verdict = "Even one rank would be less than half as useful as it could be: check the study."
    elif worthwhile >= most:
        verdict = f"All of these sizes do useful work at least half of the time, up to {most:,} ranks."
    else:
        verdict = f"Beyond about {worthwhile:,} ranks more than half of the node hours are waiting: money wasted."
    largest_batch = max(row["num_ranks"] for row in found["rows"]) * found["batch_size_per_rank"]
    short = (
        [
            f"An epoch has {found['num_examples_per_epoch']:,} examples, which cannot fill one step of the largest "
            f"size ({largest_batch:,.0f}): these data are too few for it."
        ]
        if not found["is_strong"] and largest_batch > found["num_examples_per_epoch"]
        else []
    )
    way = "while others are still being computed" if found["overlaps"] else "together, after back-propagation"
    shares, jitter = found["spread"]["wire_share"], found["spread"]["jitter"]
    return [
        verdict,
        *short,
        f"Built on: {1e3 * found['step_s']:.3g} ms of computing per step (measured with {found['measured_ranks']} "
        f"ranks, communication taken out), {found['gradient_bytes'] / 1e6:,.3g} MB of gradients that travel {way}, "
        f"{found['num_examples']:,} examples to be trained on.",
        f"{1e3 * found['fixed_s']:.3g} ms of each step with other ranks are taken over from the measurement: what the "
        "model of network and jitter does not explain there.",
        f"Network: {network['title']}, {network['bandwidth_gb_s']:.3g} GB/s per node and way, "
        f"{network['latency_us']:g} us, {network['ranks_per_node']} ranks per node. Source: {network['source']}.",
        f"Low and high: {shares[0]:.0%} and {shares[2]:.0%} of the bandwidth can be used (likely {shares[1]:.0%}), "
        f"steps of ranks differ by {jitter[0]:.1%} and {jitter[2]:.1%} (likely {jitter[1]:.1%}).",
        "Efficiency is against one rank that waits for nobody. Input and file systems are taken to keep up.",
    ]


def forecast_plot(found: Mapping[str, Any], sizes: Sequence[SizeRow]) -> Figure:
    """Return efficiency against ranks: the forecast with its band, and what was measured against the ceiling."""
    figure, axes = new_figure()
    curve = found["curve"]
    ranks = [row["num_ranks"] for row in curve]
    low, likely, high = ([row["efficiency"][place] for row in curve] for place in range(3))
    axes.fill_between(ranks, low, high, color=BLUE, alpha=0.15, label="low to high")
    axes.plot(ranks, likely, "-", color=BLUE, label=plain(f"forecast, {found['network']['name']}"))
    measured = [(row.num_ranks, row.to_ceiling.median) for row in sizes if row.to_ceiling is not None]
    if measured:
        axes.plot(*zip(*measured, strict=True), "o", color=GREEN, label="measured, against the ceiling")
    axes.axhline(0.5, color=ORANGE, linestyle=":", label="half of it wasted")
    axes.axhline(1, color=GREY, linestyle="--")
    axes.set(xscale="log", xlabel="ranks", ylabel="efficiency", title="Forecast", ylim=(0, 1.05))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.legend(frameon=False, loc="lower left")
    return figure
