"""The benchmarks that hold predictions and choices against measurements: their arithmetic, and PyTorch's models."""

from __future__ import annotations

import argparse
import math
from importlib.util import find_spec

import numpy as np
import pytest

from hvdtrain.bench.allreduce_grid import SIZES, scores
from hvdtrain.bench.tune_grid import combinations
from hvdtrain.train.bench import problems
from tests.conftest import PROJECT, missing


def sweep(num_ranks: int, noise: float) -> dict[str, object]:
    random = np.random.default_rng(0)
    return {
        "num_ranks": num_ranks,
        "rows": [
            {"way": "mpi", "bytes": size, "seconds": (2e-6 + size / 1e9) * (1 + noise * random.uniform(-1, 1))}
            for size in SIZES
        ],
    }


def test_the_grid_goes_over_five_decades_in_whole_floats_and_meets_no_power_of_two():
    assert SIZES[0] < 1024
    assert 50 * 2**20 < SIZES[-1] < 64 * 2**20
    assert not any(math.log2(size).is_integer() for size in SIZES)
    assert all(size % 4 == 0 for size in SIZES)
    assert list(SIZES) == sorted(set(SIZES))


@pytest.mark.parametrize(("ranks", "noise", "verdict"), [(2, 0.0, "met"), (4, 0.2, "met"), (2, 0.9, "NOT MET")])
def test_predictions_are_scored_on_sizes_the_model_has_not_seen(ranks: int, noise: float, verdict: str):
    ((*_, asked, middle, _, found),) = scores(sweep(ranks, noise))
    assert found == verdict
    assert asked == (">= 90%" if ranks == 2 else ">= 80%")
    assert (middle == "0.0%") == (noise == 0)


def test_the_grid_of_settings_is_every_combination_that_keeps_all_bits():
    config = str(PROJECT / "configs" / "digits_cnn.yaml")
    found = combinations(argparse.Namespace(config=config, overrides=["launch.num_ranks=2"]))
    keys = {tuple(setting.key for setting in combined) for combined in found}
    assert keys == {("training.steps_per_execution", "launch.yield_when_idle", "horovod.reduction")}
    assert len(found) == len({tuple(setting.value for setting in combined) for combined in found}) == 3 * 2 * 2
    assert not any(setting.changes_rounding for combined in found for setting in combined)


@pytest.mark.parametrize("name", ["cnn", "fc512", "fc64"])
def test_the_models_in_pytorch_have_the_parameters_of_those_in_keras(name: str):
    if find_spec("torch") is None:
        missing("torch", "PyTorch is not installed (pip install 'hvdtrain[bench]')")
    from hvdtrain.train.bench import torch_loop

    ours = sum(parameter.numel() for parameter in torch_loop.build(name).parameters())
    assert ours == problems.build(name).count_params()
