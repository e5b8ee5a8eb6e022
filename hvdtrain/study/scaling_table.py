"""From samples to the table of a study: speed-up, efficiency and shares for each size, with their spread."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hvdtrain.bench.statistics import Estimate, estimate, paired_ratios
from hvdtrain.study.expand import ONE_PROCESS, RANKS, Question
from hvdtrain.study.laws import Fit, Speedups, fit_amdahl, fit_gustafson, fit_universal, karp_flatt
from hvdtrain.study.sample import PARTS, Sample


@dataclass(frozen=True)
class SizeRow:
    """What a study says of one size. Ratios are taken within a repeat.

    Args:
        kind: `ranks` or `one process`.
        num_ranks: Processes.
        num_nodes: Hosts.
        global_batch_size: Examples of a step.
        steps_per_execution: Steps of one call into TensorFlow.
        examples_per_s: Of all ranks.
        step_ms: Time of a step.
        speedup: Over the baseline.
        efficiency: Speed-up over the size, counted in baselines.
        to_ceiling: Over the same ranks without communication.
        to_one_process: Over one process on all cores.
        karp_flatt: Serial fraction; None for the baseline.
        parts_ms: Median milliseconds of a step by part.
        input_only_per_s: Examples per second that the input alone could bring.
        imbalance: Of the slowest rank's computing over the mean.
        peak_rss_mb: Most memory of a rank.
        cpu_share: Cores kept busy.
        flop_per_example: Operations of one example.
        flop_per_s: Of all ranks.
        share_of_peak: Of a large matrix product on the same cores.
        start_up_s: Until the first step has ended.
    """

    kind: str
    num_ranks: int
    num_nodes: int
    global_batch_size: int
    steps_per_execution: int
    examples_per_s: Estimate
    step_ms: Estimate
    speedup: Estimate | None
    efficiency: Estimate | None
    to_ceiling: Estimate | None
    to_one_process: Estimate | None
    karp_flatt: float | None
    parts_ms: dict[str, float]
    input_only_per_s: float | None
    imbalance: float
    peak_rss_mb: float
    cpu_share: float
    flop_per_example: float | None
    flop_per_s: float | None
    share_of_peak: float | None
    start_up_s: float

    @property
    def title(self) -> str:
        """As in tables."""
        return self.kind if self.kind == ONE_PROCESS else str(self.num_ranks)


@dataclass(frozen=True)
class ScalingTable:
    """A study's outcome.

    Args:
        question: What was asked.
        rows: One per size, from the smallest; one process last.
        laws: Fits of the speed-up laws.
    """

    question: Question
    rows: tuple[SizeRow, ...]
    laws: tuple[Fit, ...]

    @property
    def sizes(self) -> list[SizeRow]:
        """The rows of ranks."""
        return [row for row in self.rows if row.kind == RANKS]

    @property
    def one_process(self) -> SizeRow | None:
        """The row of one process on all cores."""
        return next((row for row in self.rows if row.kind == ONE_PROCESS), None)


def make_table(question: Question, samples: Sequence[Sample]) -> ScalingTable:
    """Return the table of what has been measured so far."""
    groups: dict[tuple[str, int], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.kind, sample.num_ranks), []).append(sample)
    baseline = _throughputs(groups.get((RANKS, question.baseline), []))
    alone = _throughputs(groups.get((ONE_PROCESS, 1), []))
    keys = sorted(groups, key=lambda key: (key[0] == ONE_PROCESS, key[1]))
    rows = tuple(_row(question, groups[key], baseline, alone) for key in keys)
    return ScalingTable(question, rows, _laws(question, groups, baseline))


def _throughputs(samples: Sequence[Sample]) -> dict[int, float]:
    return {sample.repeat: sample.examples_per_s for sample in samples}


def _row(
    question: Question, samples: Sequence[Sample], baseline: Mapping[int, float], alone: Mapping[int, float]
) -> SizeRow:
    first = samples[0]
    ours = _throughputs(samples)
    size = first.num_ranks / question.baseline
    is_ranks = first.kind == RANKS
    speedups = paired_ratios(ours, baseline) if is_ranks else []
    ceiling = [
        sample.examples_per_s / sample.ceiling_examples_per_s for sample in samples if sample.ceiling_examples_per_s
    ]
    serial = karp_flatt(statistics.median(speedups), size) if speedups and size > 1 else None
    throughput = estimate(list(ours.values()))
    step_ms = estimate([1e3 * sample.step_s for sample in samples])
    assert throughput is not None
    assert step_ms is not None
    return SizeRow(
        kind=first.kind,
        num_ranks=first.num_ranks,
        num_nodes=first.num_nodes,
        global_batch_size=first.global_batch_size,
        steps_per_execution=first.steps_per_execution,
        examples_per_s=throughput,
        step_ms=step_ms,
        speedup=estimate(speedups),
        efficiency=estimate([speedup / size for speedup in speedups]),
        to_ceiling=estimate(ceiling) if is_ranks else None,
        to_one_process=estimate(paired_ratios(ours, alone)) if is_ranks else None,
        karp_flatt=serial,
        parts_ms={part: 1e3 * statistics.median(sample.parts[part] for sample in samples) for part in PARTS},
        input_only_per_s=_maybe(samples, lambda s: s.global_batch_size / s.input_only_s if s.input_only_s else None),
        imbalance=_median(samples, lambda sample: sample.imbalance),
        peak_rss_mb=_median(samples, lambda sample: sample.peak_rss_mb),
        cpu_share=_median(samples, lambda sample: sample.cpu_share),
        flop_per_example=first.flop_per_example,
        flop_per_s=_maybe(samples, lambda sample: sample.flop_per_s),
        share_of_peak=_maybe(samples, lambda sample: sample.share_of_peak),
        start_up_s=_median(samples, lambda sample: sample.start_up_s),
    )


def _median(samples: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    return statistics.median(map(value, samples))


def _maybe(samples: Sequence[Sample], value: Callable[[Sample], float | None]) -> float | None:
    found = [one for one in map(value, samples) if one is not None]
    return statistics.median(found) if found else None


def _laws(
    question: Question, groups: Mapping[tuple[str, int], Sequence[Sample]], baseline: Mapping[int, float]
) -> tuple[Fit, ...]:
    speedups: Speedups = {
        num_ranks / question.baseline: paired_ratios(_throughputs(samples), baseline)
        for (kind, num_ranks), samples in groups.items()
        if kind == RANKS
    }
    first = fit_amdahl(speedups) if question.mode == "strong" else fit_gustafson(speedups)
    return first, fit_universal(speedups)
