"""The arithmetic of scaling out: learning rate, warm-up, epochs, steps, shards. Pure functions, no state.

Sources: Goyal et al. 2017 (arXiv:1706.02677) for linear scaling and gradual warm-up; Krizhevsky 2014
(arXiv:1404.5997) for the square-root rule.
"""

from __future__ import annotations

import math
from typing import Any


def scale_factor(rule: str, num_replicas: int) -> float:
    """Return by how much the learning rate grows with the global batch.

    Args:
        rule: `none`, `sqrt` or `linear`.
        num_replicas: Model copies whose gradients are averaged.

    >>> scale_factor("linear", 8), scale_factor("sqrt", 4), scale_factor("none", 8)
    (8.0, 2.0, 1.0)
    """
    return {"none": 1.0, "sqrt": math.sqrt(num_replicas), "linear": float(num_replicas)}[rule]


def divided_epochs(epochs: int, num_replicas: int) -> int:
    """Return the epochs each replica runs when it sees the whole data set in every one.

    Rounded up, so that no world size trains on less than was asked for.

    >>> divided_epochs(12, 1), divided_epochs(12, 5), divided_epochs(12, 64)
    (12, 3, 1)
    """
    return math.ceil(epochs / num_replicas)


def warmup_rate(step: int, *, warmup_steps: int, base_rate: float, scaled_rate: float) -> float:
    """Return the learning rate of one step: from `base_rate` at step 0 straight up to `scaled_rate`.

    The rule of Goyal et al. 2017, section 2.2. Steps are counted from 0; from `warmup_steps` on
    the rate is `scaled_rate`.

    >>> [warmup_rate(s, warmup_steps=4, base_rate=0.1, scaled_rate=0.5) for s in (0, 1, 4, 9)]
    [0.1, 0.2, 0.5, 0.5]
    """
    if step >= warmup_steps:
        return scaled_rate
    return base_rate + (scaled_rate - base_rate) * (step / warmup_steps)


def schedule_rate(
    step: int, *, kind: str, rate: float, warmup_steps: int, total_steps: int, args: dict[str, Any] | None = None
) -> float:
    """Return the learning rate of one step of a schedule, warm-up left aside.

    The reference for `hvdtrain.train.schedule`, which computes the same in TensorFlow.

    Args:
        step: Optimizer step, from 0.
        kind: `constant`, `step`, `cosine`, `one_cycle` or `polynomial`.
        rate: The scaled learning rate, at its highest.
        warmup_steps: Where the decay begins (0 without warm-up).
        total_steps: Steps of the whole run; the decay ends there.
        args: What `optimizer.schedule_args` holds; boundaries already turned into steps.

    >>> schedule_rate(50, kind="cosine", rate=0.2, warmup_steps=0, total_steps=100)
    0.1
    """
    a = SCHEDULE_DEFAULTS[kind] | (args or {})
    if kind == "constant":
        return rate
    if kind == "step":
        return float(rate * a["factor"] ** sum(step >= b for b in a["boundaries_steps"]))
    if kind == "one_cycle":
        return _one_cycle(step, rate, total_steps, a["warmup_fraction"], a["final_factor"])
    done = min(1.0, max(0.0, (step - warmup_steps) / max(1, total_steps - warmup_steps)))
    final = rate * a["final_factor"]
    if kind == "cosine":
        return float(final + (rate - final) * 0.5 * (1 + math.cos(math.pi * done)))
    return float(final + (rate - final) * (1 - done) ** a["power"])


def _one_cycle(step: int, rate: float, total_steps: int, warmup_fraction: float, final_factor: float) -> float:
    """Up from rate/25 and down to rate*final_factor, both along half a cosine (Smith 2018, arXiv:1803.09820)."""
    turn = max(1, round(total_steps * warmup_fraction))
    if step < turn:
        low, high, done = rate / 25, rate, step / turn
    else:
        low, high, done = rate * final_factor, rate, 1 - min(1.0, (step - turn) / max(1, total_steps - turn))
    return low + (high - low) * 0.5 * (1 - math.cos(math.pi * done))


SCHEDULE_DEFAULTS: dict[str, dict[str, Any]] = {
    "constant": {},
    "step": {"boundaries_steps": (), "factor": 0.1},
    "cosine": {"final_factor": 0.0},
    "one_cycle": {"warmup_fraction": 0.3, "final_factor": 1e-4},
    "polynomial": {"power": 1.0, "final_factor": 0.0},
}


def shard_bounds(num_examples: int, *, rank: int, size: int) -> tuple[int, int]:
    """Return the half-open range of examples that one rank evaluates: disjoint, covering, differing by one at most.

    >>> [shard_bounds(10, rank=r, size=3) for r in range(3)]
    [(0, 4), (4, 7), (7, 10)]
    """
    share, extra = divmod(num_examples, size)
    begin = rank * share + min(rank, extra)
    return begin, begin + share + (rank < extra)


def steps_per_execution(num_steps: int, limit: int = 20) -> int:
    """Return how many steps one call into TensorFlow runs when the user leaves it to us.

    Fewer calls mean less Python between the steps; at least ten calls an epoch
    keep the progress bar and callbacks alive.

    >>> steps_per_execution(11), steps_per_execution(100), steps_per_execution(5000)
    (1, 10, 20)
    """
    return max(1, min(limit, num_steps // 10))
