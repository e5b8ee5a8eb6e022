"""How long a step would take on more ranks than were measured: computing, stragglers, and what of the gradients' way
is not hidden behind back-propagation.

Gradients become ready from the last layer to the first; whatever is ready when the network is free travels together,
up to the size of the fusion buffer, as Horovod does it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from hvdtrain.study.networks import Network

BACKWARD_SHARE = 2 / 3  # of a step's operations: two products for each one of the forward pass
MIB = 2**20
EULER_GAMMA = 0.5772156649
EXACT_UP_TO = 64  # from here on the usual approximation of the harmonic number is as good
FUSION_BYTES = 64 * MIB


@dataclass(frozen=True)
class Layer:
    """A part of a model.

    Args:
        num_bytes: Of its gradients.
        work: Its share of back-propagation; all layers' add up to 1.
    """

    num_bytes: float
    work: float


@dataclass(frozen=True)
class Workload:
    """One rank's step.

    Args:
        step_s: Without communication.
        layers: From the first to the last of the forward pass.
        jitter: Standard deviation of a rank's step, as a share of it.
        overlaps: Whether gradients travel while others are still being computed; hvdtrain sends them together unless
            horovod.num_groups says otherwise.
        fusion_bytes: Size of the fusion buffer.
        fixed_s: What a step with other ranks costs besides, as measured: calls, and waiting beyond jitter.
    """

    step_s: float
    layers: tuple[Layer, ...]
    jitter: float = 0.0
    overlaps: bool = False
    fusion_bytes: float = FUSION_BYTES
    fixed_s: float = 0.0

    @property
    def gradient_bytes(self) -> float:
        """Bytes of all gradients."""
        return sum(layer.num_bytes for layer in self.layers)


@dataclass(frozen=True)
class StepForecast:
    """Where the time of a step would go; seconds.

    Args:
        num_ranks: Ranks.
        compute_s: As on one rank.
        straggling_s: Waiting for the slowest rank.
        exposed_s: Waiting for gradients, beyond back-propagation.
        allreduce_s: All of the gradients' way, hidden or not.
    """

    num_ranks: int
    compute_s: float
    straggling_s: float
    exposed_s: float
    allreduce_s: float

    @property
    def step_s(self) -> float:
        """The whole step."""
        return self.compute_s + self.straggling_s + self.exposed_s

    @property
    def efficiency(self) -> float:
        """Against one rank that waits for nobody."""
        return self.compute_s / self.step_s


def forecast_step(workload: Workload, network: Network, num_ranks: int) -> StepForecast:
    """Return a step's forecast on a number of ranks."""
    straggling = workload.step_s * workload.jitter * expected_maximum(num_ranks)
    messages = travels(workload, network, num_ranks)
    end = messages[-1][1] if messages else workload.step_s
    return StepForecast(
        num_ranks=num_ranks,
        compute_s=workload.step_s,
        straggling_s=straggling,
        exposed_s=max(0.0, end - workload.step_s) + (workload.fixed_s if num_ranks > 1 else 0.0),
        allreduce_s=sum(after - before for before, after in messages),
    )


def expected_maximum(count: int) -> float:
    """Return how far the largest of this many values lies above their mean, in standard deviations; 0 for one.

    Of values with an exponential tail, as the time of a step has it: of measured steps the largest of 64 was 2.9 to 4.9
    above the mean, where this says 3.7 and a normal distribution 2.3.

    >>> [round(expected_maximum(n), 2) for n in (1, 2, 64)]
    [0.0, 0.5, 3.74]
    """
    return math.log(count) + EULER_GAMMA + 1 / (2 * count) - 1 if count > EXACT_UP_TO else harmonic(count) - 1


def harmonic(count: int) -> float:
    """Return 1 + 1/2 + ... + 1/count.

    >>> harmonic(2)
    1.5
    """
    return sum(1 / k for k in range(1, count + 1))


def travels(workload: Workload, network: Network, num_ranks: int) -> list[tuple[float, float]]:
    """Return when each message leaves and arrives, in seconds from the step's beginning."""
    if num_ranks == 1:
        return []
    ready = ready_times(workload)
    free, found, place = 0.0, [], 0
    while place < len(ready):
        start = max(free, ready[place][0])
        size = 0.0
        while place < len(ready) and ready[place][0] <= start:
            _, num_bytes = ready[place]
            if size and size + num_bytes > workload.fusion_bytes:
                break
            size += num_bytes
            place += 1
        free = start + network.allreduce_s(size, num_ranks)
        found.append((start, free))
    return found


def ready_times(workload: Workload) -> list[tuple[float, float]]:
    """Return (seconds from the step's beginning, bytes) of each gradient, in the order they become ready."""
    if not workload.overlaps:
        return [(workload.step_s, workload.gradient_bytes)]
    forward_s, backward_s = (1 - BACKWARD_SHARE) * workload.step_s, BACKWARD_SHARE * workload.step_s
    done, found = 0.0, []
    for layer in reversed(workload.layers):
        done += layer.work
        found.append((forward_s + min(done, 1.0) * backward_s, layer.num_bytes))
    return found


@dataclass(frozen=True)
class Forecast:
    """What a number of ranks would do; each of the three with the pessimistic and the optimistic case around it.

    Args:
        num_ranks: Ranks.
        nodes: Nodes they need.
        step: The likely case.
        efficiency: (low, likely, high), against one rank.
        examples_per_s: (low, likely, high).
        hours: (low, likely, high) until all examples have been trained on.
        node_hours: Likely.
    """

    num_ranks: int
    nodes: int
    step: StepForecast
    efficiency: tuple[float, float, float]
    examples_per_s: tuple[float, float, float]
    hours: tuple[float, float, float]
    node_hours: float


@dataclass(frozen=True)
class Spread:
    """How far the cases lie apart.

    Args:
        wire_share: What allreduce can use of the bandwidth: (worst, likely, best).
        jitter: (worst, likely, best).
        step: Factors of the step's time: (worst, likely, best), from the measured interval.
    """

    wire_share: tuple[float, float, float] = (0.4, 0.8, 0.95)
    jitter: tuple[float, float, float] = (0.03, 0.016, 0.005)
    step: tuple[float, float, float] = (1.0, 1.0, 1.0)


def forecast(
    workload: Workload,
    network: Network,
    ranks: Sequence[int],
    *,
    batch_size_per_rank: float,
    num_examples: float,
    spread: Spread,
    strong: bool = False,
) -> list[Forecast]:
    """Return the forecast of each number of ranks.

    Args:
        workload: One rank's step, as measured.
        network: Between them.
        ranks: Numbers of ranks.
        batch_size_per_rank: Examples of a rank's step; of the baseline in a strong-scaling study.
        num_examples: To be trained on in all.
        spread: Of what is not known for sure.
        strong: The global batch stays that of one rank: each rank's step shrinks with its share of it.
    """
    return [_one(workload, network, count, batch_size_per_rank, num_examples, spread, strong=strong) for count in ranks]


def _one(
    workload: Workload,
    network: Network,
    num_ranks: int,
    batch: float,
    num_examples: float,
    spread: Spread,
    *,
    strong: bool,
) -> Forecast:
    share = 1 / num_ranks if strong else 1.0
    steps, cases = [], zip(spread.wire_share, spread.jitter, spread.step, strict=True)
    for wire_share, jitter, factor in cases:
        case = dataclasses.replace(workload, step_s=workload.step_s * factor * share, jitter=jitter)
        steps.append(forecast_step(case, dataclasses.replace(network, wire_share=wire_share), num_ranks))
    rates = [batch * share * num_ranks / step.step_s for step in steps]
    hours = [num_examples / rate / 3600 for rate in rates]
    nodes = -(-num_ranks // network.ranks_per_node)
    return Forecast(
        num_ranks=num_ranks,
        nodes=nodes,
        step=steps[1],
        efficiency=(steps[0].efficiency, steps[1].efficiency, steps[2].efficiency),
        examples_per_s=(rates[0], rates[1], rates[2]),
        hours=(hours[2], hours[1], hours[0]),
        node_hours=hours[1] * nodes,
    )


def last_worthwhile(forecasts: Sequence[Forecast], min_efficiency: float = 0.5) -> int | None:
    """Return the largest number of ranks of which at least this share does useful work; None if not even the first."""
    found = [one.num_ranks for one in forecasts if one.efficiency[1] >= min_efficiency]
    return max(found, default=None)


def powers_up_to(largest: int) -> list[int]:
    """Return 1, 2, 4, ... and the largest itself, for a curve.

    >>> powers_up_to(6)
    [1, 2, 4, 6]
    """
    return [*(2**power for power in range(math.floor(math.log2(largest)) + 1) if 2**power < largest), largest]
