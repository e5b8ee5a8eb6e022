"""The ladder's plots: training curves, the learning curve, and what one model of each kind sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hvdtrain.study.ladder_table import Score
from hvdtrain.study.pictures import table_plot
from hvdtrain.study.plots import BLUE, GREY, ORANGE, new_figure
from hvdtrain.study.rungs import BY_NAME

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def score_plot(scores: Sequence[Score], *, is_mnist: bool) -> Figure:
    """Return each model's accuracy with its standard error, beside what was published."""
    figure, axes = new_figure()
    places = range(len(scores))
    axes.errorbar(
        places, [one.mean for one in scores], yerr=[one.error or 0.0 for one in scores], fmt="o", color=BLUE, capsize=3,
        label="here, mean and standard error",
    )  # fmt: skip
    for place, one in zip(places, scores, strict=True):
        axes.plot([place] * len(one.accuracies), one.accuracies, ".", color=BLUE, alpha=0.3)
    if is_mnist:
        axes.plot(places, [one.rung.published for one in scores], "_", color=ORANGE, markersize=18, label="published")
    axes.set_xticks(list(places), [one.rung.title.replace(", ", ",\n") for one in scores], rotation=30, ha="right")
    axes.set(ylabel="test accuracy / %", title="The ladder")
    axes.legend(frameon=False)
    return figure


def curve_plot(name: str, records: Sequence[Sequence[Mapping[str, Any]]]) -> Figure:
    """Return accuracy and loss of a model against the epoch, training and test, every seed a line.

    Args:
        name: Of the model.
        records: The epochs' records of each seed.
    """
    figure, axes = new_figure()
    loss_axes = axes.twinx()
    for seed, epochs in enumerate(records):
        numbers = [record["epoch"] for record in epochs]
        for key, colour, label in (("accuracy", GREY, "training"), ("val_accuracy", BLUE, "test")):
            values = [100 * record[key] for record in epochs]
            axes.plot(numbers, values, color=colour, alpha=0.8, label=f"accuracy, {label}" if seed == 0 else None)
        for key, colour, label in (("loss", GREY, "training"), ("val_loss", ORANGE, "test")):
            values = [record[key] for record in epochs]
            loss_axes.plot(
                numbers, values, "--", color=colour, alpha=0.8, label=f"loss, {label}" if seed == 0 else None
            )
    axes.set(xlabel="epoch", ylabel="accuracy / %", title=BY_NAME[name].title)
    loss_axes.set(ylabel="loss")
    loss_axes.set_ylim(bottom=0)
    lines = [*axes.get_legend_handles_labels()[0], *loss_axes.get_legend_handles_labels()[0]]
    axes.legend(lines, [line.get_label() for line in lines], frameon=False, loc="center right")
    return figure


def few_plot(scores: Sequence[Score]) -> Figure:
    """Return accuracy against examples per class."""
    figure, axes = new_figure()
    for name in dict.fromkeys(one.rung.name for one in scores):
        mine = [one for one in scores if one.rung.name == name]
        axes.errorbar(
            [one.examples_per_class for one in mine],
            [one.mean for one in mine],
            yerr=[one.error or 0.0 for one in mine],
            fmt="o-", capsize=3, label=BY_NAME[name].title,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set(xlabel="examples per class", ylabel="test accuracy / %", title="Learning curve")
    axes.legend(frameon=False)
    return figure


def confusion_plot(name: str, confusion: np.ndarray) -> Figure:
    """Return which class is taken for which; the diagonal is left pale, so that mistakes are seen."""
    figure, axes = new_figure()
    axes.grid(visible=False)
    mistakes = confusion.astype(float)
    np.fill_diagonal(mistakes, 0)
    axes.imshow(mistakes, cmap="Blues")
    for row, column in np.ndindex(*confusion.shape):
        if confusion[row, column]:
            dark = mistakes[row, column] > mistakes.max() / 2
            axes.text(
                column, row, f"{confusion[row, column]}", ha="center", va="center", fontsize=7,
                color="white" if dark else "black",
            )  # fmt: skip
    ticks = range(len(confusion))
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)
    axes.set(xlabel="taken for", ylabel="is", title=f"{BY_NAME[name].title}: {int(mistakes.sum())} mistakes")
    return figure


def worst_plot(name: str, found: Mapping[str, np.ndarray]) -> Figure:
    """Return the mistakes the model was most certain of."""
    titles = [
        f"{true} as {seen}, {certainty:.0%}"
        for true, seen, certainty in zip(
            found["worst_true"], found["worst_seen"], found["worst_certainty"], strict=True
        )
    ]
    return table_plot(f"{BY_NAME[name].title}: worst mistakes", found["worst"], titles, columns=5)


def filters_plot(name: str, filters: np.ndarray) -> Figure:
    """Return the first layer's weights: blue adds, red takes away."""
    none = [""] * len(filters)
    return table_plot(f"{BY_NAME[name].title}: first layer", filters, none, columns=8, is_signed=True)
