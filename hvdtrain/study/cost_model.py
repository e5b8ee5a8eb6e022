"""What an allreduce costs: alpha (seconds per message), beta (seconds per byte sent), gamma (seconds per byte added).

Formulas: Thakur, Rabenseifner and Gropp 2005; Patarasuk and Yuan 2009. `n` bytes on each of `p` ranks.
Real libraries change their way with the size, and buffers outgrow caches, so alpha and beta change with the size, too:
each size has a straight line of its own, fitted to those around it (locally weighted regression, Cleveland 1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_SIZES = 3  # of a fit
# How far neighbours count, in steps from one measured size to the next on a logarithmic scale: one line for all first.
WIDTHS = (math.inf, 4.0, 2.0, 1.4, 1.1, 0.9, 0.75, 0.6)
GOOD_ENOUGH = 0.005  # relative error that does not call for nearer neighbours


@dataclass(frozen=True)
class CostModel:
    """The time of one allreduce on a fixed number of ranks, by its size.

    Args:
        num_ranks: Ranks it was measured on.
        sizes: Bytes that were measured, rising.
        times: Seconds of one allreduce of each.
        width: Standard deviation of the weights of neighbouring sizes, as the logarithm of a ratio; infinity for one
            line through all.
        gamma_s: Seconds per byte of adding two buffers, measured on one rank; None if it was not.
    """

    num_ranks: int
    sizes: tuple[float, ...]
    times: tuple[float, ...]
    width: float
    gamma_s: float | None = None

    def seconds(self, num_bytes: float) -> float:
        """Return the predicted time of one allreduce; beyond what was measured the last line goes on."""
        fixed, per_byte = self.line(num_bytes)
        return fixed + per_byte * num_bytes

    def line(self, num_bytes: float) -> tuple[float, float]:
        """Return (seconds of no byte, seconds per byte) of the line for messages of about this size.

        Neither is negative at the smallest and the largest size, from where the line goes on.
        """
        x, y = np.asarray(self.sizes), np.asarray(self.times)
        at = min(max(num_bytes, x[0]), x[-1])
        weights = np.exp(-0.5 * (np.log(x / at) / self.width) ** 2)
        return _line(x, y, weights, at, is_between=x[0] < num_bytes < x[-1])

    @property
    def alpha_s(self) -> float:
        """Seconds per message, as a ring would need them: from the smallest messages."""
        return self.line(self.sizes[0])[0] / (2 * (self.num_ranks - 1))

    @property
    def beta_s(self) -> float:
        """Seconds per byte sent, as a ring would need them: from the largest messages, gamma taken out."""
        p = self.num_ranks
        beta = (self.line(self.sizes[-1])[1] - (p - 1) / p * (self.gamma_s or 0.0)) / (2 * (p - 1) / p)
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
    step = float(np.median(np.diff(np.log(np.unique(x))))) if x[0] < x[-1] else 1.0
    errors = [_error_unseen(x, y, width * step) for width in WIDTHS]
    width = next(width for width, error in zip(WIDTHS, errors, strict=True) if error <= min(errors) + GOOD_ENOUGH)
    return CostModel(num_ranks, tuple(x.tolist()), tuple(y.tolist()), width * step, gamma_s)


def _error_unseen(x: np.ndarray, y: np.ndarray, width: float) -> float:
    """Return the mean relative error at each point of the fit to all others, one off by more than all of it as all."""
    errors = []
    for place in range(len(x)):
        others = np.arange(len(x)) != place
        model = CostModel(2, tuple(x[others]), tuple(y[others]), width)
        errors.append(min(1.0, abs(model.seconds(x[place]) / y[place] - 1)))
    return float(sum(errors) / len(errors))


def _line(x: np.ndarray, y: np.ndarray, weights: np.ndarray, at: float, *, is_between: bool) -> tuple[float, float]:
    """Return (fixed, per byte) of the line with the smallest sum of weighted squared relative errors.

    Neither is negative where the line goes on beyond the points; between others its time is positive.
    """
    roots = np.sqrt(weights)
    a, ones = np.stack([roots / y, roots * x / y], axis=1), roots
    candidates = []
    free, *_ = np.linalg.lstsq(a, ones, rcond=None)
    if (free >= 0).all() or (is_between and free[0] + free[1] * at > 0):
        candidates.append(free)
    for place in (0, 1):
        alone = np.zeros(2)
        alone[place] = a[:, place] @ ones / (a[:, place] @ a[:, place])
        candidates.append(alone)
    errors = [float(((a @ candidate - ones) ** 2).sum()) for candidate in candidates]
    chosen = candidates[int(np.argmin(errors))]
    return float(chosen[0]), float(chosen[1])


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
