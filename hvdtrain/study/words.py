"""What a study's numbers mean, in sentences."""

from __future__ import annotations

from hvdtrain.study.scaling_table import ScalingTable, SizeRow

PART_WORDS = {
    "compute": "computing",
    "communication": "waiting for gradients of other ranks",
    "input": "waiting for the input",
    "python": "Python between the calls into TensorFlow",
}
ADVICE = {
    "communication": "larger batches per rank, gradient accumulation or a faster network would help",
    "input": "a faster input (prefetching, fewer or larger files, data in memory) would help",
    "python": "more steps per execution (training.steps_per_execution) would help",
}
NOTABLE = 0.05  # of a step


def summary(table: ScalingTable) -> str:
    """Return the study in a sentence or two."""
    largest = table.sizes[-1]
    if largest.speedup is None or largest.efficiency is None or len(table.sizes) < 2:
        return f"{_ranks(largest.num_ranks)}: {largest.examples_per_s.median:,.0f} examples/s."
    speedup, efficiency = largest.speedup, largest.efficiency
    text = (
        f"{_ranks(largest.num_ranks)} train {speedup.median:.2f} times as fast as {_ranks(table.question.baseline)} "
        f"({largest.examples_per_s.median:,.0f} examples/s): {efficiency.median:.0%} efficiency"
    )
    if largest.to_ceiling is not None:
        text += f", {largest.to_ceiling.median:.0%} of what these ranks could do without communication"
    text += "."
    alone = largest.to_one_process
    if alone is not None and alone.median < 1:
        text += f" One process on all cores would be {1 / alone.median:.2f} times as fast as these ranks: use that."
    elif alone is not None:
        text += f" That is {alone.median:.2f} times one process on all cores."
    return text


def bottleneck(row: SizeRow) -> str:
    """Return what a step of one size waits for most, and what would help."""
    step = sum(row.parts_ms.values())
    rest = {part: ms for part, ms in row.parts_ms.items() if part != "compute" and ms >= NOTABLE * step}
    shares = ", ".join(f"{ms / step:.0%} {PART_WORDS[part]}" for part, ms in sorted(rest.items(), key=lambda i: -i[1]))
    text = f"{row.parts_ms['compute'] / step:.0%} of a step is computing"
    if not rest:
        return f"{text}: nothing else takes as much as {NOTABLE:.0%}."
    worst = max(rest, key=lambda part: rest[part])
    return f"{text}, {shares}: {ADVICE[worst]}."


def input_words(row: SizeRow) -> str:
    """Return whether the input can keep up, from reading it alone."""
    if row.input_only_per_s is None:
        return "The input was not measured by itself: it can be read only once."
    ratio = row.input_only_per_s / row.examples_per_s.median
    text = f"The input alone brings {row.input_only_per_s:,.0f} examples/s, {ratio:.1f} times what training takes"
    return f"{text}: it can{'' if ratio > 1.2 else ' hardly'} keep up."


def _ranks(count: int) -> str:
    return f"{count} rank{'s' if count > 1 else ''}"
