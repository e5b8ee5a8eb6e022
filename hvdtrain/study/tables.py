"""A study as text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from typing import Any

from hvdtrain.bench.statistics import Estimate
from hvdtrain.bench.table import table
from hvdtrain.study.laws import Fit
from hvdtrain.study.sample import PARTS
from hvdtrain.study.scaling_table import ScalingTable, SizeRow

SPEED_HEAD = (
    "ranks", "nodes", "batch", "steps/call", "examples/s", "95 % interval", "step ms", "speed-up", "efficiency",
    "/ ceiling", "/ one process", "Karp-Flatt", "n",
)  # fmt: skip
SPLIT_HEAD = (
    "ranks", *(f"{part} ms" for part in PARTS), "input alone/s", "imbalance", "MB/rank", "cores busy", "GFLOP/s",
    "of peak", "start-up s",
)  # fmt: skip


def speed_table(study: ScalingTable, *, markdown: bool) -> str:
    """Return throughput, speed-up and efficiency of each size."""
    return table(SPEED_HEAD, [speed_cells(row) for row in study.rows], markdown=markdown)


def split_table(study: ScalingTable, *, markdown: bool) -> str:
    """Return where a step's time goes, and what it costs, for each size."""
    return table(SPLIT_HEAD, [split_cells(row) for row in study.rows], markdown=markdown)


def speed_cells(row: SizeRow) -> tuple[str, ...]:
    """Return one line of the first table."""
    return (
        row.title,
        str(row.num_nodes),
        f"{row.global_batch_size:,}",
        str(row.steps_per_execution),
        f"{row.examples_per_s.median:,.0f}",
        f"{row.examples_per_s.low:,.0f} to {row.examples_per_s.high:,.0f}" if row.examples_per_s.n > 1 else "",
        f"{row.step_ms.median:.3g}",
        _with_interval(row.speedup),
        _with_interval(row.efficiency),
        _with_interval(row.to_ceiling),
        _with_interval(row.to_one_process),
        "" if row.karp_flatt is None else f"{row.karp_flatt:.3f}",
        str(row.examples_per_s.n),
    )


def split_cells(row: SizeRow) -> tuple[str, ...]:
    """Return one line of the second table."""
    step = sum(row.parts_ms.values())
    return (
        row.title,
        *(f"{row.parts_ms[part]:.3g} ({row.parts_ms[part] / step:.0%})" for part in PARTS),
        "" if row.input_only_per_s is None else f"{row.input_only_per_s:,.0f}",
        f"{row.imbalance:.1%}",
        f"{row.peak_rss_mb:,.0f}",
        f"{row.cpu_share:.2f}",
        "" if row.flop_per_s is None else f"{row.flop_per_s / 1e9:,.1f}",
        "" if row.share_of_peak is None else f"{row.share_of_peak:.0%}",
        f"{row.start_up_s:.1f}",
    )


def _with_interval(found: Estimate | None) -> str:
    if found is None:
        return ""
    if found.low == found.high:
        return f"{found.median:.3f}"
    return f"{found.median:.3f} ({found.low:.3f} to {found.high:.3f})"


def law_lines(laws: tuple[Fit, ...]) -> list[str]:
    """Return each law in a line."""
    lines = []
    for law in laws:
        if law.refused:
            lines.append(f"{law.law}: {law.refused}")
            continue
        values = ", ".join(
            f"{name} {value:.4f} ({low:.4f} to {high:.4f})" for name, (value, low, high) in law.parameters.items()
        )
        peak = f"; beyond {law.peak:,.0f} times the baseline more ranks would be slower" if law.peak else ""
        lines.append(f"{law.law}: {values}; off by {law.error:.1%} (root mean square){peak}")
    return lines


def to_csv(study: ScalingTable) -> str:
    """Return every number of the table, one line per size."""
    rows = [_flat(row) for row in study.rows]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def to_json(study: ScalingTable) -> str:
    """Return the whole table, its question and its laws."""
    return json.dumps(dataclasses.asdict(study), indent=1) + "\n"


def _flat(row: SizeRow) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        if isinstance(value, Estimate):
            flat |= {field.name: value.median, f"{field.name}_low": value.low, f"{field.name}_high": value.high}
        elif isinstance(value, dict):
            flat |= {f"{name}_ms": ms for name, ms in value.items()}
        else:
            flat[field.name] = value
            if value is None and "Estimate" in str(field.type):
                flat |= {f"{field.name}_low": None, f"{field.name}_high": None}
    return flat
