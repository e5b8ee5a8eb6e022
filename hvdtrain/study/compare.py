"""Two studies of the same question, side by side: only differences that are more than noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hvdtrain.bench.statistics import Estimate
from hvdtrain.study.scaling_table import ScalingTable, SizeRow

# What is compared: attribute of a row, words, whether more is better.
QUANTITIES = (
    ("examples_per_s", "examples/s", True),
    ("efficiency", "efficiency", True),
    ("to_ceiling", "share of the ceiling", True),
)

MIN_REPEATS = 3  # with fewer, the interval of a median says nothing


@dataclass(frozen=True)
class Difference:
    """One quantity of one size in both studies.

    Args:
        size: As in tables.
        quantity: In words.
        before: In the first study.
        after: In the second one.
        is_better: Whether the second one is better.
    """

    size: str
    quantity: str
    before: Estimate
    after: Estimate
    is_better: bool

    @property
    def ratio(self) -> float:
        """After over before."""
        return self.after.median / self.before.median


def differences(before: ScalingTable, after: ScalingTable) -> tuple[list[Difference], int]:
    """Return the significant differences, and how many quantities were compared.

    A difference counts if the two 95 % intervals do not meet; quantities with too few repeats are not compared.
    """
    found, compared = [], 0
    for one, other in pairs(before, after):
        for name, words, more_is_better in QUANTITIES:
            a, b = getattr(one, name), getattr(other, name)
            if a is None or b is None or min(a.n, b.n) < MIN_REPEATS or a.low == a.high == b.low == b.high:
                continue
            compared += 1
            if is_significant(a, b):
                found.append(Difference(one.title, words, a, b, (b.median > a.median) == more_is_better))
    return found, compared


def pairs(before: ScalingTable, after: ScalingTable) -> Sequence[tuple[SizeRow, SizeRow]]:
    """Return the sizes that both studies have."""
    others = {(row.kind, row.num_ranks): row for row in after.rows}
    return [(row, others[row.kind, row.num_ranks]) for row in before.rows if (row.kind, row.num_ranks) in others]


def is_significant(a: Estimate, b: Estimate) -> bool:
    """Tell whether two estimates are further apart than their intervals reach."""
    return a.high < b.low or b.high < a.low
