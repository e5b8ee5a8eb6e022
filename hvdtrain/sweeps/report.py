"""Writing what a sweep has found: text, Markdown, CSV, JSON, plots, and one page with all of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

from hvdtrain.bench.table import table
from hvdtrain.cli.show import metrics_text, nice_path, talk
from hvdtrain.report import write_plots
from hvdtrain.rundir import read_json, write_text
from hvdtrain.study import sweep_effects
from hvdtrain.study.page import PageSection, PageTable, page
from hvdtrain.study.sweep_effects import Effect, effects
from hvdtrain.study.sweep_plots import sweep_plots
from hvdtrain.study.sweep_space import title
from hvdtrain.study.sweep_table import Outcome, Sweep, cells, head, ranked, rows, to_csv, to_do, winner
from hvdtrain.sweeps.sweepdir import SweepDir, outcomes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTIONS = {
    "parallel": "A line for each trial, from its parameters to its result; the best in yellow. Point at a line, or "
    "at one of the table; a click keeps it.",
    "parameters": "The result against each parameter, a dot for each trial.",
    "epochs": "The metric against the epoch, a line for each trial.",
}


def say_report(directory: SweepDir, *, as_json: bool, active: frozenset[int] = frozenset()) -> None:
    """Write every form of what a sweep has found so far, and print the table."""
    sweep = directory.sweep()
    found = outcomes(directory, sweep, active)
    write_report(directory, sweep, found)
    if as_json:
        print(to_json(directory, sweep, found), end="")
    else:
        print(text(directory, sweep, found, markdown=False))
    talk(f"\nreport: {nice_path(directory.report)}" if directory.report.exists() else "")


def write_report(directory: SweepDir, sweep: Sweep, found: Sequence[Outcome]) -> None:
    """Write tables always, plots and page once a trial has an epoch behind it."""
    write_text(directory.table("csv"), to_csv(sweep, found))
    write_text(directory.table("json"), to_json(directory, sweep, found))
    write_text(directory.table("md"), text(directory, sweep, found, markdown=True) + "\n")
    plots = sweep_plots(sweep, found)
    if plots:
        write_plots(directory, plots)
        write_text(directory.report, html(directory, sweep, found, plots))


def to_json(directory: SweepDir, sweep: Sweep, found: Sequence[Outcome]) -> str:
    """Return everything as JSON."""
    best = winner(sweep, found)
    data = {
        "sweep": directory.short_id,
        "path": str(directory.path),
        "metric": sweep.metric,
        "mode": "max" if sweep.is_max else "min",
        "trials": [
            {**row, "run": str(directory.run(sweep, one.trial).path)}
            for row, one in zip(rows(sweep, found), ranked(sweep, found), strict=True)
        ],
        "winner": None if best is None else best.trial.number,
        "test": tested(directory, sweep, best),
        "effects": [
            {"key": one.key, "means": dict(one.means), "difference": one.difference, "p": one.p}
            for one in effects(sweep, found)
        ],
    }
    return json.dumps(data, indent=1) + "\n"


def tested(directory: SweepDir, sweep: Sweep, best: Outcome | None) -> dict[str, float]:
    """Return the winner's metrics on the test data, if it has been evaluated."""
    if best is None:
        return {}
    found: dict[str, float] = read_json(directory.evaluation(sweep, best.trial)).get("metrics", {})
    return found


def text(directory: SweepDir, sweep: Sweep, found: Sequence[Outcome], *, markdown: bool) -> str:
    """Return the tables, and what is to be known about them."""
    if not any(one.scores or one.reason for one in found):
        return "no trial has an epoch behind it yet"
    parts = [table(head(sweep), cells(sweep, found), markdown=markdown)]
    mattered = effects(sweep, found)
    if mattered:
        parts.append(table(sweep_effects.HEAD, sweep_effects.cells(sweep, mattered), markdown=markdown))
    return "\n\n".join([*parts, *conclusions(directory, sweep, found, mattered)])


def conclusions(directory: SweepDir, sweep: Sweep, found: Sequence[Outcome], mattered: Sequence[Effect]) -> list[str]:
    """Return the winner and what is to be known about the tables, in sentences."""
    best = winner(sweep, found)
    if best is None:
        return ["no trial has trained to its end yet"]
    run = nice_path(directory.run(sweep, best.trial).path)
    return [
        f"{winner_text(directory, sweep, found, best)}\nuse it: hvdtrain export {run}",
        *notes(sweep, found, mattered),
    ]


def winner_text(directory: SweepDir, sweep: Sweep, found: Sequence[Outcome], best: Outcome) -> str:
    """Return the winner in a sentence."""
    so_far = " so far" if to_do(sweep, found, retries=False) else ""
    epochs = f"{best.epochs} epoch{'s' if best.epochs > 1 else ''}"
    said = f"best{so_far}: {title(best.trial)}, {sweep.metric} {best.score:.4f} after {epochs}"
    test = tested(directory, sweep, best)
    return f"{said}; on the test data, evaluated once: {metrics_text(test)}" if test else said


def notes(sweep: Sweep, outcomes: Sequence[Outcome], mattered: Sequence[Effect]) -> list[str]:
    """Return how the numbers came about."""
    where = (
        f"{sweep.num_validation} examples held out of the training data" if sweep.num_validation else "the test data"
    )
    found = []
    num_scored = sum(one.score is not None for one in outcomes)
    if sweep.metric.startswith("val_") and num_scored > 1:
        found.append(
            f"{sweep.metric} is of {where}, after the last epoch. The best of {num_scored} is chosen partly for "
            "its luck: expect a little less of it on new data."
        )
    if mattered:
        at = f", after {sweep.stages[0].epochs} epochs, when all were there" if sweep.stages else ""
        found.append(
            f"Means are over all trials with that value{at}. p: how often shuffled trials show as much of a "
            "difference, the other parameters' effects taken away; of 20 parameters without effect one looks real."
        )
    return [" ".join(found)] if found else []


def html(directory: SweepDir, sweep: Sweep, found: Sequence[Outcome], plots: Mapping[str, Figure]) -> str:
    """Return the page."""
    facts, mattered, best = read_json(directory.file), effects(sweep, found), winner(sweep, found)
    effect_table = [PageTable(sweep_effects.HEAD, sweep_effects.cells(sweep, mattered))] if mattered else []
    sections = [
        PageSection("Trials", tables=[PageTable(head(sweep), cells(sweep, found))]),
        *([PageSection("Which parameter mattered", tables=effect_table)] if mattered else []),
        PageSection("How this was found", texts=[*sweep.notes, *notes(sweep, found, mattered)], code=facts["command"]),
    ]
    pages = files("hvdtrain.study")
    template = pages.joinpath("report.html.j2").read_text(encoding="utf-8")
    script = pages.joinpath("sweep.js").read_text(encoding="utf-8")
    return page(
        template.replace("</body>", f"<script>\n{script}</script>\n</body>"),
        title=f"Sweep {sweep.name}: {len(sweep.trials)} trials of {sweep.base_name}",
        subtitle=facts["machine"],
        summary=winner_text(directory, sweep, found, best) if best else "No trial has trained to its end yet.",
        plots={name: (figure, CAPTIONS[name]) for name, figure in plots.items()},
        sections=sections,
    )
