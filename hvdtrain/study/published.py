"""The forecast against published results: two of them fix its two parameters, the others are predicted.

`python -m hvdtrain.study.published` prints the table. Every number that is not a paper's own headline is an assumption
and listed as such.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from hvdtrain.bench.table import table
from hvdtrain.study.forecast import Layer, Workload, forecast_step
from hvdtrain.study.networks import PRESETS, Network

FP32, FP16 = 4, 2
# Millions of parameters and billions of multiply-adds of one example, forward, in the order of the forward pass.
VGG16 = (
    (0.04, 1.94),
    (0.22, 2.77),
    (1.48, 4.62),
    (5.90, 4.62),
    (7.08, 1.39),
    (102.8, 0.10),
    (16.8, 0.02),
    (4.1, 0.004),
)
RESNET50 = ((0.01, 0.12), (0.22, 0.68), (1.22, 1.03), (7.10, 1.47), (14.96, 0.81), (2.05, 0.002))
RESNET101 = ((0.01, 0.12), (0.22, 0.68), (1.22, 1.03), (26.1, 5.19), (14.96, 0.81), (2.05, 0.002))
INCEPTION3 = ((0.3, 1.9), (1.5, 1.4), (10.0, 1.9), (10.0, 0.5), (2.05, 0.002))
DEEPLAB = ((0.2, 1.0), (1.2, 1.5), (7.1, 2.5), (15.0, 2.0), (15.5, 3.0), (1.5, 4.0))
TIRAMISU = ((0.5, 2.0), (1.5, 2.0), (3.0, 1.5), (2.5, 2.0), (1.5, 2.5))


@dataclass(frozen=True)
class Result:
    """A published efficiency, and what is assumed about the runs behind it.

    Args:
        title: Whose and what.
        efficiency: As published.
        num_ranks: GPUs.
        baseline: GPUs it is taken against.
        model: (millions of parameters, billions of multiply-adds) from the first layer to the last.
        bytes_per_value: Of a gradient on its way.
        step_s: Of one GPU: batch over its throughput.
        network: Between the nodes.
        assumed: Where the step's time comes from, and what else is assumed.
        overlaps: Whether gradients travel while others are still being computed.
        lags: Whether a step uses the gradients of the one before.
    """

    title: str
    efficiency: float
    num_ranks: int
    baseline: int
    model: Sequence[tuple[float, float]]
    bytes_per_value: int
    step_s: float
    network: Network
    assumed: str
    overlaps: bool = True
    lags: bool = False

    def workload(self, jitter: float) -> Workload:
        """Return one GPU's step. With a lag of one step a rank may run ahead, and two steps' jitter evens out."""
        jitter = jitter / math.sqrt(2) if self.lags else jitter
        work = sum(share for _, share in self.model)
        layers = tuple(Layer(1e6 * count * self.bytes_per_value, share / work) for count, share in self.model)
        return Workload(self.step_s, layers, jitter=jitter, overlaps=self.overlaps)

    def predicted(self, parameters: Parameters) -> float:
        """Return the forecast of its efficiency."""
        network = dataclasses.replace(self.network, wire_share=parameters.wire_share)
        workload = self.workload(parameters.jitter)
        step, base = (forecast_step(workload, network, count).step_s for count in (self.num_ranks, self.baseline))
        return base / step


@dataclass(frozen=True)
class Parameters:
    """What is fixed on two of the results.

    Args:
        wire_share: What allreduce can use of a link's bandwidth.
        jitter: Standard deviation of a rank's step, as a share of it.
    """

    wire_share: float
    jitter: float


ROCE = PRESETS["roce-25g"]
RESNET_RATE = "115 images/s: 103.6 at 16 GPUs is 90 %"
HOROVOD = "batch 64 and images/s of one P100 in TensorFlow's benchmarks of 2017"
RESULTS = (
    Result("Horovod, Inception V3", 0.90, 128, 1, INCEPTION3, FP32, 64 / 142, ROCE, f"{HOROVOD}: 142"),
    Result("Horovod, Inception V3", 0.90, 512, 1, INCEPTION3, FP32, 64 / 142, ROCE, f"{HOROVOD}: 142"),
    Result("Horovod, ResNet-101", 0.90, 128, 1, RESNET101, FP32, 64 / 115, ROCE, RESNET_RATE),
    Result("Horovod, ResNet-101", 0.90, 512, 1, RESNET101, FP32, 64 / 115, ROCE, RESNET_RATE),
    Result("Horovod, VGG-16", 0.79, 128, 1, VGG16, FP32, 64 / 154, ROCE, f"{HOROVOD}: 154"),
    Result("Horovod, VGG-16", 0.68, 512, 1, VGG16, FP32, 64 / 154, ROCE, f"{HOROVOD}: 154"),
    Result(
        "Goyal et al., ResNet-50", 0.90, 256, 8, RESNET50, FP32, 0.22, PRESETS["ethernet-50g"],
        "batch 32; 1 hour for 90 epochs at 90 % leaves 0.22 s a step on 8 GPUs",
    ),
    Result(
        "Akiba et al., ResNet-50", 0.80, 1024, 8, RESNET50, FP16, 0.205,
        dataclasses.replace(PRESETS["ib-fdr"], algorithm="ring"),
        "batch 32; 15 min for 90 epochs at 80 % leaves 0.205 s a step; gradients in half precision, after backward: "
        "ChainerMN does this over NCCL 2 alone, which had rings only",
        overlaps=False,
    ),
    Result(
        "Jia et al., ResNet-50", 0.879, 2048, 8, RESNET50, FP16, 0.2,
        Network("ethernet-100g", "100 Gbit/s Ethernet, 8 GPUs per node", "the paper", 12.5, 10.0, 8, 10.0),
        "batch 32, gradients in half precision; 6.6 min for 90 epochs at 88 % leaves 0.2 s a step",
    ),
    Result(
        "Mikami et al. (Sony), ResNet-50", 0.9162, 1088, 4, RESNET50, FP16, 0.05,
        dataclasses.replace(PRESETS["ib-edr-dual"], ranks_per_node=4),
        "batch 32, half precision, about 640 images/s of one V100",
    ),
    Result(
        "Kurth et al., DeepLabv3+", 0.907, 27360, 1, DEEPLAB, FP32, 1.15, PRESETS["ib-edr-dual"],
        "one example a step, 14.4 TFLOP each, 43 million parameters; 12.5 TFLOP/s of one V100; lag of one step",
        lags=True,
    ),
    Result(
        "Kurth et al., Tiramisu", 0.79, 5300, 1, TIRAMISU, FP32, 0.84, PRESETS["aries"],
        "one example a step, 4.2 TFLOP each, 9 million parameters; 5 TFLOP/s of one P100",
    ),
)  # fmt: skip
FIXED_ON = (RESULTS[1], RESULTS[4])  # one that computes most of the time, and one that waits for gradients


def calibrate(results: Sequence[Result] = FIXED_ON) -> Parameters:
    """Return the parameters with the smallest squared error on the given results, from a grid."""
    grid = [Parameters(share / 100, jitter / 1000) for share in range(20, 101, 1) for jitter in range(0, 81, 1)]
    return min(grid, key=lambda p: sum((one.predicted(p) - one.efficiency) ** 2 for one in results))


@dataclass(frozen=True)
class Validation:
    """How the forecast did.

    Args:
        parameters: Fixed on `FIXED_ON`.
        predicted: (result, predicted efficiency) of the others.
        mean_error: Mean distance of predicted and published efficiency.
        constant_error: The same of the best constant: the median of what was to be predicted.
    """

    parameters: Parameters
    predicted: tuple[tuple[Result, float], ...]
    mean_error: float
    constant_error: float


def validate() -> Validation:
    """Return the forecast of every published result that did not fix a parameter."""
    parameters = calibrate()
    predicted = tuple((one, one.predicted(parameters)) for one in RESULTS if one not in FIXED_ON)
    errors = [abs(value - one.efficiency) for one, value in predicted]
    middle = statistics.median(one.efficiency for one, _ in predicted)
    constant = [abs(middle - one.efficiency) for one, _ in predicted]
    return Validation(parameters, predicted, statistics.mean(errors), statistics.mean(constant))


def validation_text() -> str:
    """Return the table, the errors and the assumptions as Markdown."""
    found = validate()
    values = {id(one): one.predicted(found.parameters) for one in RESULTS}
    rows = [
        (
            one.title,
            f"{one.num_ranks:,}",
            f"{one.efficiency:.1%}",
            f"{values[id(one)]:.1%}",
            f"{100 * (values[id(one)] - one.efficiency):+.1f}",
            "fixed on it" if one in FIXED_ON else "",
            one.network.name,
            one.assumed,
        )
        for one in RESULTS
    ]
    head = ("result", "GPUs", "published", "forecast", "points off", "", "network", "assumed")
    verdict = (
        f"Wire share {found.parameters.wire_share:.2f}, jitter {found.parameters.jitter:.1%}. Mean error of what was "
        f"predicted: {100 * found.mean_error:.1f} points; of the best constant: {100 * found.constant_error:.1f}."
    )
    return table(head, rows, markdown=True) + "\n\n" + verdict


if __name__ == "__main__":
    print(validation_text())
