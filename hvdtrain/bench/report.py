"""From rows to the tables of each benchmark mode. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from hvdtrain.bench.statistics import estimate, paired_ratios, quartiles
from hvdtrain.bench.table import RATIO_HEAD, THROUGHPUT_TARGETS, Target, ratio_row, table
from hvdtrain.bench.task import TITLES

Rows = Sequence[Mapping[str, Any]]


def by_round(rows: Rows, arm: str, model: str, key: str) -> dict[int, float]:
    """Return one arm's values of a model by round; failed launches have none."""
    return {
        row["round"]: row[key]
        for row in rows
        if row["arm"] == arm and row.get("model") == model and row.get(key) is not None
    }


def throughput_tables(rows: Rows, arms: Sequence[str], models: Sequence[str], *, markdown: bool) -> str:
    """Return the ratios of hvdtrain to every other arm, and every arm's throughput."""
    ratio_rows = []
    for model in models:
        ours = by_round(rows, "hvdtrain", model, "examples_per_s")
        for arm in [name for name in arms if name != "hvdtrain"]:
            found = estimate(paired_ratios(ours, by_round(rows, arm, model, "examples_per_s")))
            target = THROUGHPUT_TARGETS.get((arm, model))
            ratio_rows.append(ratio_row(f"hvdtrain / {arm}", TITLES[model], found, target))
    speed_rows = [
        _speed_row(arm, model, list(by_round(rows, arm, model, "examples_per_s").values()))
        for model in models
        for arm in arms
    ]
    head = ("model", "arm", "median examples/s", "quartiles", "n")
    return "\n\n".join([table(RATIO_HEAD, ratio_rows, markdown=markdown), table(head, speed_rows, markdown=markdown)])


def _speed_row(arm: str, model: str, values: list[float]) -> tuple[str, ...]:
    if not values:
        return (TITLES[model], arm, "none", "", "0")
    first, middle, third = quartiles(values)
    return (TITLES[model], arm, f"{middle:,.0f}", f"{first:,.0f} to {third:,.0f}", str(len(values)))


def cost_table(
    rows: Rows, *, ours: str, theirs: str, models: Sequence[str], key: str, unit: str, target: Target, markdown: bool
) -> str:
    """Return the table of something that should be small: start-up time or memory."""
    ratio_rows, value_rows = [], []
    for model in models:
        above, below = (by_round(rows, arm, model, key) for arm in (ours, theirs))
        title = TITLES[model]
        ratio_rows.append(ratio_row(f"{ours} / {theirs}", title, estimate(paired_ratios(above, below)), target))
        for arm, values in ((ours, above), (theirs, below)):
            middle = f"{statistics.median(values.values()):,.1f}" if values else "none"
            value_rows.append((title, arm, middle, str(len(values))))
    head = ("model", "arm", f"median {unit}", "n")
    return "\n\n".join([table(RATIO_HEAD, ratio_rows, markdown=markdown), table(head, value_rows, markdown=markdown)])


def undisturbed(rows: Rows) -> list[Mapping[str, Any]]:
    """Return the rows of launches beside which the machine did nothing else worth mentioning."""
    return [row for row in rows if not row["is_disturbed"]]


def circumstances(rows: Rows) -> str:
    """Return what else the machine did, over all launches, and how many launches that touched."""
    launches = {(row["round"], row["arm"], row["launch"]): row for row in rows}.values()
    disturbed = sum(bool(row["is_disturbed"]) for row in launches)
    most = {key: max((row[key] for row in launches), default=0) for key in ("load", "steal", "others")}
    return (
        f"{len(launches)} launches; highest load average {most['load']:.1f}, steal {most['steal']:.1%}, "
        f"other processes {most['others']:.1%} of the CPU time; {disturbed} launches disturbed "
        "(steal over 2 % or others over 5 %)"
    )


def failures_text(rows: Rows) -> str:
    """Return the end of the log of every launch that failed; empty without any."""
    parts = [
        f"FAILED: {row['arm']}, round {row['round'] + 1}, exit code {row['exit_code']}; the end of its log:\n"
        + "\n".join("    " + line for line in row["tail"].splitlines())
        for row in rows
        if "tail" in row
    ]
    return "\n".join(parts)
