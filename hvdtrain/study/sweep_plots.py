"""A sweep's plots: parallel coordinates, the metric against each parameter, and against the epoch. Pure."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hvdtrain.study.plots import GREY, new_figure, plain
from hvdtrain.study.sweep_space import short_names, value_text
from hvdtrain.study.sweep_table import DROPPED, FAILED, Outcome, Sweep, goodness

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = "viridis"
LINE_ID = "trial-{}"  # of each trial's line: the page's script highlights it
SPREAD = 0.06  # between the lines of the best and of the worst trial where they share a value
MUCH = 8  # times the smallest number is the largest one, where a logarithm shows more
LABELLED = 8  # values that are written beside an axis


def sweep_plots(sweep: Sweep, outcomes: Sequence[Outcome]) -> dict[str, Figure]:
    """Return the plots by name; none if nothing can be drawn yet."""
    there = [one for one in outcomes if one.score is not None and one.state != FAILED]
    if not there:
        return {}
    return {
        "parallel": parallel(sweep, there),
        "parameters": against_parameters(sweep, there),
        "epochs": against_epochs(sweep, there),
    }


@dataclass(frozen=True)
class Axis:
    """One of the parallel axes.

    Args:
        title: Its name.
        place: Value -> height, 0 to 1.
        ticks: Heights and what is written there.
        is_shared: Whether trials share values: their lines then pass a little apart.
    """

    title: str
    place: Callable[[Any], float]
    ticks: Sequence[tuple[float, str]]
    is_shared: bool = False


def parallel(sweep: Sweep, there: Sequence[Outcome]) -> Figure:
    """Return a line for each trial through its parameters to its score; the colour is the score."""
    figure, axes = new_figure()
    axes.grid(visible=False)
    axes.set_axis_off()
    names = short_names(sweep.keys)
    columns = [
        axis_of(names[key], [one.trial.values[key] for one in there], is_log=sweep.ranges.get(key))
        for key in sweep.keys
    ]
    columns.append(axis_of(sweep.metric, [one.score for one in there], is_score=True))
    figure.set_size_inches(max(6.4, 1.9 * len(columns)), 4.2)
    colour = colours(sweep, there)
    for place, one in enumerate(sorted(there, key=lambda one: goodness(sweep, one))):
        values = [*(one.trial.values[key] for key in sweep.keys), one.score]
        heights = [axis.place(value) for axis, value in zip(columns, values, strict=True)]
        apart = SPREAD * (place / max(1, len(there) - 1) - 0.5)
        heights = [height + apart * axis.is_shared for axis, height in zip(columns, heights, strict=True)]
        xs, ys = _smooth(heights)
        faint = 0.35 if one.state == DROPPED else 0.9
        axes.plot(xs, ys, color=colour(one), alpha=faint, linewidth=1.8, gid=LINE_ID.format(one.trial.number))
    for x, axis in enumerate(columns):
        axes.plot([x, x], [0, 1], color="#333333", linewidth=1, zorder=3)
        axes.text(x, 1.08, plain(axis.title), ha="center", va="bottom", fontweight="bold")
        for height, label in axis.ticks:
            box = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
            axes.text(x + 0.03, height, plain(label), va="center", fontsize=9, bbox=box, zorder=4)
    axes.set(xlim=(-0.15, len(columns) - 0.6), ylim=(-0.05, 1.2))
    return figure


def axis_of(title: str, values: Sequence[Any], *, is_log: bool | None = None, is_score: bool = False) -> Axis:
    """Return an axis for values: numbers by their size or its logarithm; others side by side.

    Args:
        title: Its name.
        values: What lies on it.
        is_log: None takes the logarithm if numbers span much.
        is_score: Whether these are results: never by their logarithm, and written with as many digits each.

    >>> round(axis_of("units", [16, 64, 256]).place(64), 6)
    0.5
    >>> axis_of("name", ["sgd", "adam"]).ticks
    [(0.0, 'sgd'), (1.0, 'adam')]
    """
    different = list({json.dumps(value, sort_keys=True): value for value in values}.values())
    is_shared = len(different) < len(values) and len(different) <= LABELLED and not is_score
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in different):
        if is_log is None:
            is_log = min(different) > 0 and max(different) / min(different) >= MUCH and not is_score
        return _number_axis(title, sorted(different), is_log=is_log, is_score=is_score, is_shared=is_shared)
    texts = [value_text(value) for value in different]
    names = [str(value["name"]) for value in different if isinstance(value, dict) and "name" in value]
    labels = names if len(set(names)) == len(texts) else texts
    heights = {text: at / (len(texts) - 1) if len(texts) > 1 else 0.5 for at, text in enumerate(texts)}
    shown = [
        (heights[text], label if len(label) <= 24 else label[:22] + "...")
        for text, label in zip(texts, labels, strict=True)
    ]
    return Axis(title, lambda value: heights[value_text(value)], shown, is_shared)


def _number_axis(title: str, rising: Sequence[float], *, is_log: bool, is_score: bool, is_shared: bool) -> Axis:
    scale: Callable[[float], float] = math.log if is_log else float
    low, span = scale(rising[0]), scale(rising[-1]) - scale(rising[0])

    def place(value: float) -> float:
        return (scale(value) - low) / span if span else 0.5

    some = _even(rising, place) if is_score or len(rising) > LABELLED else rising
    ticks = [(place(value), f"{value:.4f}" if is_score else value_text(value)) for value in some]
    return Axis(title, place, ticks, is_shared)


def _even(rising: Sequence[float], place: Callable[[float], float]) -> Sequence[float]:
    """Return some of the values, from the lowest to the highest, whose labels do not overlap."""
    chosen = [rising[0]]
    for value in rising[1:-1]:
        if place(value) - place(chosen[-1]) > 0.14 and place(rising[-1]) - place(value) > 0.14:
            chosen.append(value)
    return [*chosen, rising[-1]] if len(rising) > 1 else chosen


def _smooth(heights: Sequence[float], count: int = 20) -> tuple[list[float], list[float]]:
    """Return a curve through the axes at 0, 1, 2 ..., level at each, so that lines can be followed through one."""
    xs, ys = [], []
    for at, (here, there) in enumerate(itertools.pairwise(heights)):
        for step in range(count):
            share = step / count
            xs.append(at + share)
            ys.append(here + (there - here) * (3 - 2 * share) * share**2)
    return [*xs, len(heights) - 1.0], [*ys, heights[-1]]


def against_parameters(sweep: Sweep, there: Sequence[Outcome]) -> Figure:
    """Return the score against each parameter, a dot for each trial."""
    from matplotlib.figure import Figure

    names, colour = short_names(sweep.keys), colours(sweep, there)
    columns = min(3, len(sweep.keys))
    lines = -(-len(sweep.keys) // columns)
    figure = Figure(figsize=(max(6.4, 3.0 * columns), 3.1 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).flat
    for panel, key in zip(panels, sweep.keys, strict=False):
        axis = axis_of(names[key], [one.trial.values[key] for one in there], is_log=sweep.ranges.get(key))
        for one in there:
            panel.plot(axis.place(one.trial.values[key]), one.score, "o", color=colour(one), alpha=0.8)
        panel.set_xticks([height for height, _ in axis.ticks], [plain(label) for _, label in axis.ticks])
        panel.tick_params(axis="x", rotation=0 if sum(len(label) for _, label in axis.ticks) < 28 else 40)
        panel.set(xlabel=plain(axis.title), xlim=(-0.1, 1.1))
        panel.grid(visible=True, alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in list(panels):
        panel.set_axis_off()
    figure.supylabel(plain(sweep.metric))
    return figure


def against_epochs(sweep: Sweep, there: Sequence[Outcome]) -> Figure:
    """Return the metric against the epoch, a line for each trial; those that were left behind end early."""
    figure, axes = new_figure()
    colour = colours(sweep, there)
    for one in sorted(there, key=lambda one: goodness(sweep, one)):
        epochs = sorted(one.scores)
        axes.plot(epochs, [one.scores[epoch] for epoch in epochs], color=colour(one), alpha=0.85, marker="."
                  if len(epochs) < 12 else None)  # fmt: skip
    for stage in sweep.stages[:-1]:
        axes.axvline(stage.epochs, color=GREY, linestyle=":", linewidth=1)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="epoch", ylabel=plain(sweep.metric), title="Every trial, the best in yellow")
    return figure


def colours(sweep: Sweep, there: Sequence[Outcome]) -> Callable[[Outcome], Any]:
    """Return each trial's colour by its place: scores crowd together near the best."""
    from matplotlib import colormaps

    order = sorted(there, key=lambda one: goodness(sweep, one))
    places = {one.trial.number: place / max(1, len(order) - 1) for place, one in enumerate(order)}
    return lambda one: colormaps[COLOURS](0.95 * places[one.trial.number])
