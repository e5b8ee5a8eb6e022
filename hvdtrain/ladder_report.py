"""Writing what a ladder has reached: text, Markdown, CSV, plots, and one page with all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from hvdtrain.bench.table import table
from hvdtrain.ladderdir import LadderDir, outcome
from hvdtrain.metrics import read_records
from hvdtrain.report import write_plots
from hvdtrain.rundir import read_json, write_text
from hvdtrain.study import ladder_plots
from hvdtrain.study.ladder_table import (
    FEW_HEAD,
    HEAD,
    STEP_HEAD,
    Score,
    few_cells,
    score_cells,
    scores,
    step_cells,
    steps,
    to_csv,
)
from hvdtrain.study.page import PageSection, PageTable, page
from hvdtrain.study.rungs import BY_NAME, Climb, Question

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTIONS = {
    "scores": "Test accuracy after the last epoch; a dot for each seed.",
    "learning_curve": "Test accuracy against how many examples of each digit were trained on.",
    "curves": "Against the epoch, a line for each seed.",
    "confusion": "What was taken for what, seed 0.",
    "worst": "The mistakes the model was most certain of, seed 0.",
    "filters": "Weights of the first layer, seed 0.",
}


def write_report(ladder: LadderDir) -> str:
    """Write every form of what the ladder has reached so far; return the text for a terminal."""
    question = ladder.question()
    outcomes = [outcome(ladder, climb) for climb in question.climbs() if ladder.run(climb).finished.exists()]
    if not outcomes:
        return "nothing has been trained to its end yet, so there is no report"
    whole, few = scores(outcomes), scores(outcomes, is_whole=False)
    is_mnist = question.data == "mnist"
    plots = all_plots(ladder, whole, few, is_mnist=is_mnist)
    write_plots(ladder, plots)
    write_text(ladder.table("csv"), to_csv(outcomes))
    write_text(ladder.table("md"), text(question, whole, few, markdown=True) + "\n")
    write_text(ladder.report, html(ladder, whole, few, plots))
    return text(question, whole, few, markdown=False)


def all_plots(ladder: LadderDir, whole: Sequence[Score], few: Sequence[Score], *, is_mnist: bool) -> dict[str, Figure]:
    """Return the plots by name."""
    found = {"scores": ladder_plots.score_plot(whole, is_mnist=is_mnist)} if whole else {}
    if few:
        found["learning_curve"] = ladder_plots.few_plot(few)
    for score in whole:
        name = score.rung.name
        found[f"curves_{name}"] = ladder_plots.curve_plot(name, epochs_of(ladder, name))
        if ladder.pictures(name).exists():
            with np.load(ladder.pictures(name)) as arrays:
                seen = dict(arrays)
            found[f"confusion_{name}"] = ladder_plots.confusion_plot(name, seen["confusion"])
            found[f"worst_{name}"] = ladder_plots.worst_plot(name, seen)
            found[f"filters_{name}"] = ladder_plots.filters_plot(name, seen["filters"])
    return found


def epochs_of(ladder: LadderDir, name: str) -> list[list[dict[str, Any]]]:
    """Return the epochs' records of each finished seed; a resumed training has those it repeated once."""
    found = []
    for seed in range(ladder.question().seeds[name]):
        run = ladder.run(Climb(name, seed))
        if run.finished.exists():
            epochs = {record["epoch"]: record for record in read_records(run.metrics) if record["kind"] == "epoch"}
            found.append([epochs[number] for number in sorted(epochs)])
    return found


def text(question: Question, whole: Sequence[Score], few: Sequence[Score], *, markdown: bool) -> str:
    """Return the tables, and what is to be known about them."""
    is_mnist = question.data == "mnist"
    parts = [table(HEAD, score_cells(whole, is_mnist=is_mnist), markdown=markdown)]
    if len(whole) > 1:
        parts.append(table(STEP_HEAD, step_cells(steps(whole), is_mnist=is_mnist), markdown=markdown))
    if few:
        parts.append(table(FEW_HEAD, few_cells(few), markdown=markdown))
    return "\n\n".join([*parts, *notes(question)])


def notes(question: Question) -> list[str]:
    """Return what is to be known about the tables, in sentences."""
    found = [
        f"Accuracy on the test set after the last epoch, per cent, on {question.data}, {question.num_ranks} rank(s), "
        "the workshop's batch divided among them; error is the standard error of the mean. A step is noise if chance "
        "alone makes so large a difference in more than 1 of 20 repetitions (Welch's t-test)."
    ]
    if question.data == "mnist":
        found.append(
            "Published are single trainings: a published step counts as noise if it is smaller than twice the standard "
            "error that 10,000 test images give it."
        )
    found += sorted({BY_NAME[name].title + ": " + BY_NAME[name].note for name in question.seeds if BY_NAME[name].note})
    return found


def html(ladder: LadderDir, whole: Sequence[Score], few: Sequence[Score], plots: Mapping[str, Figure]) -> str:
    """Return the page."""
    question, facts = ladder.question(), read_json(ladder.question_file)
    is_mnist = question.data == "mnist"
    sections = [
        PageSection("Accuracy", tables=[PageTable(HEAD, score_cells(whole, is_mnist=is_mnist))]),
        PageSection("Which steps are real", tables=[PageTable(STEP_HEAD, step_cells(steps(whole), is_mnist=is_mnist))]),
        *([PageSection("Examples per class", tables=[PageTable(FEW_HEAD, few_cells(few))])] if few else []),
        PageSection("How this was measured", texts=[*notes(question), facts["machine"]], code=facts["command"]),
    ]
    best = max(whole, key=lambda one: one.mean, default=None)
    summary = f"Best of {len(whole)} models: {best.rung.title}, {best.mean:.2f} % of the test set." if best else ""
    return page(
        files("hvdtrain.study").joinpath("report.html.j2").read_text(encoding="utf-8"),
        title=f"The ladder on {question.data}",
        subtitle=facts["machine"],
        summary=summary,
        plots={name: (figure, caption(name)) for name, figure in plots.items()},
        sections=sections,
    )


def caption(plot: str) -> str:
    """Return what stands below a plot; those of one model share it."""
    return CAPTIONS.get(plot) or CAPTIONS[plot.partition("_")[0]]
