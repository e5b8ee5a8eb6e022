"""What an allreduce costs: alpha (seconds per message), beta (seconds per byte sent), gamma (seconds per byte added).

Formulas: Thakur, Rabenseifner and Gropp 2005; Patarasuk and Yuan 2009. `n` bytes on each of `p` ranks.
Real libraries change their way with the size, and buffers outgrow caches, so a fit has regimes, each a straight line of
its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_REGIMES = 6
MIN_SIZES = 3  # of a fit
MIN_POINTS = 2  # of a regime
GOOD_ENOUGH = 0.01  # relative error that does not call for a further regime


@dataclass(frozen=True)
class Regime:
    """One straight line: `fixed_s + per_byte_s * bytes`, for messages of at most `up_to` bytes.

    Args:
        up_to: Largest message it is for; infinity for the last.
        fixed_s: What a message of no size would take. Negative only between the first regime and the last, where the
            cost of a byte itself grows with the size.
        per_byte_s: What each byte adds.
    """

    up_to: float
    fixed_s: float
    per_byte_s: float


@dataclass(frozen=True)
class CostModel:
    """The time of one allreduce on a fixed number of ranks, by its size.

    Args:
        num_ranks: Ranks it was measured on.
        regimes: From the smallest messages to the largest.
        gamma_s: Seconds per byte of adding two buffers, measured on one rank; None if it was not.
    """

    num_ranks: int
    regimes: tuple[Regime, ...]
    gamma_s: float | None = None

    def seconds(self, num_bytes: float) -> float:
        """Return the predicted time of one allreduce."""
        regime = next(one for one in self.regimes if num_bytes <= one.up_to)
        return regime.fixed_s + regime.per_byte_s * num_bytes

    @property
    def alpha_s(self) -> float:
        """Seconds per message, as a ring would need them: from the smallest messages."""
        return self.regimes[0].fixed_s / (2 * (self.num_ranks - 1))

    @property
    def beta_s(self) -> float:
        """Seconds per byte sent, as a ring would need them: from the largest messages, gamma taken out."""
        p = self.num_ranks
        beta = (self.regimes[-1].per_byte_s - (p - 1) / p * (self.gamma_s or 0.0)) / (2 * (p - 1) / p)
        return max(beta, 0.0)


def ring_s(num_bytes: float, num_ranks: int, *, alpha_s: float, beta_s: float, gamma_s: float = 0.0) -> float:
    """Return the time of a ring allreduce: bandwidth-optimal, and 2(p-1) messages one after the other.

    >>> ring_s(1000, 2, alpha_s=1.0, beta_s=0.0), ring_s(1000, 4, alpha_s=0.0, beta_s=1.0)
    (2.0, 1500.0)
    """
    p = num_ranks
    return 2 * (p - 1) * alpha_s + (p - 1) / p * num_bytes * (2 * beta_s + gamma_s)


def recursive_doubling_s(
    num_bytes: float, num_ranks: int, *, alpha_s: float, beta_s: float, gamma_s: float = 0.0
) -> float:
    """Return the time of recursive doubling: lg p messages, each of everything. Best for small messages.

    >>> recursive_doubling_s(10, 8, alpha_s=1.0, beta_s=0.1)
    6.0
    """
    return math.ceil(math.log2(num_ranks)) * (alpha_s + num_bytes * (beta_s + gamma_s))


def halving_doubling_s(
    num_bytes: float, num_ranks: int, *, alpha_s: float, beta_s: float, gamma_s: float = 0.0
) -> float:
    """Return the time of Rabenseifner's algorithm: 2 lg p messages, as many bytes as a ring.

    >>> halving_doubling_s(1000, 4, alpha_s=1.0, beta_s=0.0)
    4.0
    """
    p = num_ranks
    return 2 * math.ceil(math.log2(p)) * alpha_s + (p - 1) / p * num_bytes * (2 * beta_s + gamma_s)


ALGORITHMS = {
    "ring": ring_s,
    "recursive doubling": recursive_doubling_s,
    "halving-doubling": halving_doubling_s,
}


def best_s(num_bytes: float, num_ranks: int, *, alpha_s: float, beta_s: float, gamma_s: float = 0.0) -> float:
    """Return the time of whichever algorithm is fastest, as MPI and NCCL choose by size; 0 for one rank."""
    if num_ranks == 1:
        return 0.0
    times = (way(num_bytes, num_ranks, alpha_s=alpha_s, beta_s=beta_s, gamma_s=gamma_s) for way in ALGORITHMS.values())
    return min(times)


def fit_cost(
    num_ranks: int, num_bytes: Sequence[float], seconds: Sequence[float], *, gamma_s: float | None = None
) -> CostModel:
    """Return the model fitted to measured times, relative errors counting alike at every size.

    Args:
        num_ranks: Ranks of the measurement.
        num_bytes: Sizes, in any order; a size may come several times.
        seconds: Time of one allreduce of each.
        gamma_s: Of adding, if it was measured.

    Raises:
        ValueError: With fewer than three points.
    """
    if len(num_bytes) < MIN_SIZES:
        raise ValueError(f"a fit needs at least {MIN_SIZES} sizes; got {len(num_bytes)}")
    order = np.argsort(num_bytes, kind="stable")
    x, y = np.asarray(num_bytes, float)[order], np.asarray(seconds, float)[order]
    found = {count: _segments(x, y, count) for count in range(1, MAX_REGIMES + 1) if len(x) > _num_parameters(count)}
    best = min((_expected_error(error, len(x), count), cuts) for count, (error, cuts) in found.items() if cuts)
    return CostModel(num_ranks, tuple(_regimes(x, y, best[1])), gamma_s)


def _num_parameters(num_regimes: int) -> int:
    """Return what a fit chooses: two numbers for each line, and where one line gives way to the next."""
    return 3 * num_regimes - 1


def _expected_error(error: float, num_points: int, num_regimes: int) -> float:
    """Return how far off points that the fit has not seen will be, by generalised cross-validation.

    Craven and Wahba 1979. More regimes always come closer to the points they were fitted to.
    """
    return (error + num_points * GOOD_ENOUGH**2) / (num_points - _num_parameters(num_regimes)) ** 2


def _segments(x: np.ndarray, y: np.ndarray, count: int) -> tuple[float, list[tuple[int, int]]]:
    """Return (error, [begin, end) of each part) of the best cut into parts; no parts if the points are too few."""
    n = len(x)
    cost = {(i, j): _line(x, y, i, j)[2] for i in range(n) for j in range(i + MIN_POINTS, n + 1) if _may_cut(x, i, j)}
    best: dict[tuple[int, int], tuple[float, int]] = {(0, 0): (0.0, 0)}
    for parts in range(1, count + 1):
        for j in range(parts * MIN_POINTS, n + 1):
            options = [
                (best[parts - 1, i][0] + cost[i, j], i) for i in range(j) if (parts - 1, i) in best and (i, j) in cost
            ]
            if options:
                best[parts, j] = min(options)
    if (count, n) not in best:
        return math.inf, []
    cuts, j = [], n
    for parts in range(count, 0, -1):
        i = best[parts, j][1]
        cuts.append((i, j))
        j = i
    return best[count, n][0], cuts[::-1]


def _may_cut(x: np.ndarray, i: int, j: int) -> bool:
    """Tell whether equal sizes stay together."""
    return (i == 0 or x[i - 1] < x[i]) and (j == len(x) or x[j - 1] < x[j])


def _line(x: np.ndarray, y: np.ndarray, i: int, j: int) -> tuple[float, float, float]:
    """Return (fixed, per byte, sum of squared relative errors) of the best line for the points [i, j).

    Neither is negative where the line goes on beyond the points; between others its times are positive.
    """
    is_between = i > 0 and j < len(x)
    x, y = x[i:j], y[i:j]
    a = np.stack([1 / y, x / y], axis=1)
    ones = np.ones(len(y))
    candidates = []
    free, *_ = np.linalg.lstsq(a, ones, rcond=None)
    if (free >= 0).all() or (is_between and free[1] >= 0 and free[0] + free[1] * x[0] / 2 > 0):
        candidates.append(free)
    for place in (0, 1):
        alone = np.zeros(2)
        alone[place] = a[:, place] @ ones / (a[:, place] @ a[:, place])
        candidates.append(alone)
    errors = [float(((a @ candidate - 1) ** 2).sum()) for candidate in candidates]
    chosen = int(np.argmin(errors))
    return float(candidates[chosen][0]), float(candidates[chosen][1]), errors[chosen]


def _regimes(x: np.ndarray, y: np.ndarray, cuts: Sequence[tuple[int, int]]) -> list[Regime]:
    """Return the lines; a regime ends half-way, on a logarithmic scale, to the first size of the next."""
    found = []
    for i, j in cuts:
        fixed, per_byte, _ = _line(x, y, i, j)
        up_to = math.inf if j == len(x) else math.sqrt(float(x[j - 1] * x[j]))
        found.append(Regime(up_to, fixed, per_byte))
    return found


def relative_errors(model: CostModel, num_bytes: Sequence[float], seconds: Sequence[float]) -> list[float]:
    """Return |predicted / measured - 1| of each point."""
    return [abs(model.seconds(size) / found - 1) for size, found in zip(num_bytes, seconds, strict=True)]


def algbw(num_bytes: float, seconds: float) -> float:
    """Return bytes per second, as nccl-tests defines the algorithm's bandwidth.

    >>> algbw(8, 2.0)
    4.0
    """
    return num_bytes / seconds


def busbw(num_bytes: float, seconds: float, num_ranks: int) -> float:
    """Return the bytes per second that each rank's link carries in the best algorithm: comparable over sizes.

    >>> busbw(8, 2.0, 2), busbw(8, 2.0, 4)
    (4.0, 6.0)
    """
    return algbw(num_bytes, seconds) * 2 * (num_ranks - 1) / num_ranks
