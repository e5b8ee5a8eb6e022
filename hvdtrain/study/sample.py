"""What one measured run says: throughput, its ceiling, and where a step's time goes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PARTS = ("compute", "communication", "input", "python")


@dataclass(frozen=True)
class Sample:
    """One measurement of one size. Seconds are per step; a step ends when the slowest rank has done it.

    Args:
        kind: `ranks`, or `one process` for one process on all cores.
        num_ranks: Processes.
        num_replicas: Model copies.
        num_nodes: Hosts they were on.
        repeat: Which repeat of the study.
        global_batch_size: Examples of a step.
        steps_per_execution: Steps of one call into TensorFlow.
        step_s: A step of training as the user gets it.
        ceiling_s: The same without communication; None where it could not be measured.
        input_only_s: Reading the batches and nothing else.
        parts: Seconds of a step by `PARTS`; those that could not be told apart are in `compute`.
        imbalance: How much longer the slowest rank computes than the mean, as a share.
        peak_rss_mb: Most memory of a rank.
        cpu_share: Cores that all ranks together kept busy.
        flop_per_example: Operations of one example, forward, backward and update; None if they could not be counted.
        peak_flop_per_s: What all ranks together do in a large matrix product.
        start_up_s: From the call of fit to the end of the first step, tracing included.
    """

    kind: str
    num_ranks: int
    num_replicas: int
    num_nodes: int
    repeat: int
    global_batch_size: int
    steps_per_execution: int
    step_s: float
    ceiling_s: float | None
    input_only_s: float | None
    parts: dict[str, float]
    imbalance: float
    peak_rss_mb: float
    cpu_share: float
    flop_per_example: float | None
    peak_flop_per_s: float
    start_up_s: float

    @property
    def examples_per_s(self) -> float:
        """Examples of all ranks per second of training."""
        return self.global_batch_size / self.step_s

    @property
    def ceiling_examples_per_s(self) -> float | None:
        """What the same ranks would do if communication cost nothing."""
        return self.global_batch_size / self.ceiling_s if self.ceiling_s else None

    @property
    def flop_per_s(self) -> float | None:
        """Operations per second of all ranks."""
        return self.flop_per_example * self.examples_per_s if self.flop_per_example else None

    @property
    def share_of_peak(self) -> float | None:
        """Operations per second over what a large matrix product does on the same cores at the same time."""
        return self.flop_per_s / self.peak_flop_per_s if self.flop_per_s and self.peak_flop_per_s else None


def sample_of(measurement: Mapping[str, Any], *, kind: str, repeat: int) -> Sample:
    """Return the sample of a run's `measurement.json`.

    Args:
        measurement: Its content.
        kind: What the run was in its study.
        repeat: Which repeat.
    """
    ranks = measurement["ranks"]
    slowest = {name: _slowest(ranks, name) for name in ranks[0]["cycles"]}
    step = slowest["step"]
    if measurement["num_ranks"] == 1 and "alone" in slowest:
        slowest["alone"] = slowest["function"]  # the same step: what differs is noise
    ceiling = None
    if "alone" in slowest:
        ceiling = [
            whole - function + alone
            for whole, function, alone in zip(step, slowest["function"], slowest["alone"], strict=True)
        ]
    return Sample(
        kind=kind,
        num_ranks=measurement["num_ranks"],
        num_replicas=measurement["num_replicas"],
        num_nodes=measurement["num_nodes"],
        repeat=repeat,
        global_batch_size=measurement["global_batch_size"],
        steps_per_execution=measurement["steps_per_execution"],
        step_s=statistics.median(step),
        ceiling_s=statistics.median(ceiling) if ceiling else None,
        input_only_s=statistics.median(slowest["input"]) if "input" in slowest else None,
        parts=parts_of(slowest),
        imbalance=_imbalance(ranks),
        peak_rss_mb=max(row["peak_rss_mb"] for row in ranks),
        cpu_share=sum(row["cpu_share"] for row in ranks),
        flop_per_example=measurement["flop_per_example"],
        peak_flop_per_s=sum(row["peak_flop_per_s"] for row in ranks),
        start_up_s=measurement["start_up_s"],
    )


def parts_of(slowest: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return where a step's time goes: the medians over the segments, scaled to add up to the median step.

    Differences are taken within a segment, so that all of them met the same machine. What comes out below 0, which is
    noise, counts as 0.

    >>> found = parts_of({"step": [10.0], "function": [9.0], "alone": [7.0], "held": [6.0], "input": [0.5]})
    >>> found == {"compute": 6.0, "communication": 2.0, "input": 1.0, "python": 1.0}
    True
    """
    step, function = slowest["step"], slowest["function"]
    alone = slowest.get("alone", function)
    held = slowest.get("held", alone)

    def difference(above: Sequence[float], below: Sequence[float]) -> float:
        return max(0.0, statistics.median(a - b for a, b in zip(above, below, strict=True)))

    found = {
        "compute": statistics.median(held),
        "communication": difference(function, alone),
        "input": difference(alone, held),
        "python": difference(step, function),
    }
    scale = statistics.median(step) / sum(found.values())
    return {name: seconds * scale for name, seconds in found.items()}


def _slowest(ranks: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Return the slowest rank's seconds of each segment."""
    return [max(values) for values in zip(*(row["cycles"][name] for row in ranks), strict=True)]


def _imbalance(ranks: Sequence[Mapping[str, Any]]) -> float:
    name = "alone" if "alone" in ranks[0]["cycles"] else "function"
    means = [statistics.median(row["cycles"][name]) for row in ranks]
    return float(max(means) / statistics.mean(means) - 1)
