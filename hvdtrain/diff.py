"""What differed between two runs: configuration, versions, data, seeds, world, derived numbers, results. Pure reading.

Times are left out, because no two runs take equally long; so are names of runs and directories.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hvdtrain.plan import Plan
from hvdtrain.rundir import RunDir, read_json

SECTIONS = ("config", "data", "seeds", "world", "versions", "plan", "results")
WORLD_NUMBERS = (
    "strategy", "num_ranks", "num_devices", "num_replicas", "launcher", "cores_per_rank", "batch_size_per_replica",
)  # fmt: skip
PLAN_NUMBERS = (
    "num_examples", "global_batch_size", "last_batch_size", "steps_per_epoch", "epochs", "total_steps",
    "steps_per_execution", "base_learning_rate", "learning_rate", "warmup_steps",
)  # fmt: skip
RESULTS = ("epochs", "step", "parameters", "digest")
MISSING = "(not there)"


@dataclass(frozen=True)
class Difference:
    """One value that differs.

    Args:
        section: One of `SECTIONS`.
        key: Which value.
        first: In the first run.
        second: In the second run.
    """

    section: str
    key: str
    first: Any
    second: Any


def differences(first: RunDir, second: RunDir) -> list[Difference]:
    """Return everything that differs between two runs, section by section."""
    one, other = dict(_values(first)), dict(_values(second))
    found = [
        Difference(section, key, one.get((section, key), MISSING), other.get((section, key), MISSING))
        for section, key in dict.fromkeys((*one, *other))
        if one.get((section, key), MISSING) != other.get((section, key), MISSING)
    ]
    return sorted(found, key=lambda difference: SECTIONS.index(difference.section))


def _values(run: RunDir) -> Iterator[tuple[tuple[str, str], Any]]:
    """Yield ((section, key), value) of all that is compared."""
    plan = Plan.read(run.plan)
    for key, value in _flat(plan.config):
        if key != "name":
            yield (_section(key), key), value
    numbers = dataclasses.asdict(plan)
    yield from ((("world", key), numbers[key]) for key in WORLD_NUMBERS)
    yield from ((("plan", key), numbers[key]) for key in PLAN_NUMBERS)
    environment = read_json(run.environment)
    yield from ((("versions", k), v) for k, v in environment.items() if isinstance(v, str) and k != "strategy")
    hosts = sorted(_hosts(environment))
    if hosts:
        yield ("world", "hosts"), ", ".join(hosts)
    yield ("results", "state"), run.state()
    summary = read_json(run.summary)
    yield from ((("results", key), summary[key]) for key in RESULTS if key in summary)
    metrics = summary.get("metrics")
    if isinstance(metrics, dict):
        yield from ((("results", key), value) for key, value in metrics.items())


def _hosts(environment: Mapping[str, Any]) -> set[str]:
    """Return the hosts of all ranks; none where the file was damaged."""
    ranks = environment.get("ranks")
    found = ranks if isinstance(ranks, list) else []
    return {str(rank.get("host")) for rank in found if isinstance(rank, dict)}


def _flat(block: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in block.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _section(key: str) -> str:
    if key == "training.seed":
        return "seeds"
    return {"data": "data", "launch": "world", "slurm": "world"}.get(key.partition(".")[0], "config")


def difference_text(found: list[Difference], names: tuple[str, str]) -> str:
    """Return the differences as lines that people read: key, first value, second value."""
    if not found:
        return f"{names[0]} and {names[1]} do not differ"
    rows = [(entry.section, entry.key, _shown(entry.first), _shown(entry.second)) for entry in found]
    heads = ("", "", *names)
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(1, 3)]
    lines = [f"  {heads[1]:<{widths[0]}}  {names[0]:<{widths[1]}}  {names[1]}"]
    last = ""
    for section, key, one, other in rows:
        if section != last:
            lines.append(section)
        last = section
        lines.append(f"  {key:<{widths[0]}}  {one:<{widths[1]}}  {other}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
