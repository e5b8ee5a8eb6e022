"""Worlds of real ranks for tests: one mpirun per world runs all cases of this folder, or the core of them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from hvdtrain.facts import gather_facts, search_path
from hvdtrain.launch import LAUNCHERS, LaunchRequest
from hvdtrain.launch.job import worker_environment

PROJECT = Path(__file__).parents[2]
TIMEOUT_S = 1200
# What everything else stands on, with any number of ranks: the tests marked `core`.
CORE_CASES = (
    "adasum", "dropout_masks_differ", "divide", "flat_buffers", "global_metrics", "gradient_equals_big_batch",
    "horovods_own_wrapper", "in_sync_adam", "in_sync_adamw", "in_sync_momentum_clipped", "in_sync_rmsprop",
    "in_sync_sgd", "moving_statistics", "one_writer", "own_files", "reduction", "same_weights_without_wrapper",
    "shards", "staging", "staging_again", "staging_faults", "stop_together", "tampered_replica",
    "trajectory_equals_one_process", "warm_up",
)  # fmt: skip
# What depends on how gradients travel too: the tests marked `travel`.
TRAVEL_CASES = (
    "accumulation", "bfloat16_weights_are_looked_at", "bit_flips", "checkpoint_round_trip", "compression",
    "embeddings", "groups", "in_sync_adam_accumulated", "in_sync_adam_clipvalue", "in_sync_adam_ema",
    "mixed_bfloat16", "mixed_float16", "multi_optimizer_and_built", "nonfinite_anywhere",
    "nonfinite_with_loss_scaling", "padded_arrays", "retraced_on_one_rank", "skipped_updates",
    "stop_asked_by_rank_0", "sync_batch_norm_uneven", "uneven_shares",
)  # fmt: skip


class World(NamedTuple):
    """How many ranks, how gradients travel, the marks of the tests that see it, and their cases; none means all.

    A thorough world is left to `make test-all`.
    """

    size: int
    reduction: str
    marks: frozenset[str] = frozenset()
    cases: tuple[str, ...] = ()
    is_thorough: bool = False


WORLDS = {
    "2ranks": World(2, "shared_memory"),
    "4ranks-horovod": World(4, "horovod", frozenset({"core"}), CORE_CASES),
    "3ranks-horovod": World(3, "horovod", frozenset({"core", "travel"}), (*CORE_CASES, *TRAVEL_CASES), True),
    "4ranks": World(4, "shared_memory", frozenset({"core"}), CORE_CASES, True),
}


class Results:
    """What the ranks of one world returned, case by case."""

    def __init__(self, size: int, reduction: str, by_rank: list[dict], log: str) -> None:
        self.size = size
        self.reduction = reduction
        self._by_rank = by_rank
        self._log = log

    def of(self, case: str) -> list:
        for rank, results in enumerate(self._by_rank):
            if case not in results:
                pytest.fail(f"rank {rank} of {self.size} never finished {case}; end of the log:\n{self._log[-3000:]}")
            if "error" in results[case]:
                pytest.fail(f"rank {rank} of {self.size}, {case}:\n{results[case]['error']}")
        return [results[case]["value"] for results in self._by_rank]


def rank_command(size: int, reduction: str, module: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment that start a Python module on every rank."""
    facts = gather_facts()
    assert facts.mpi is not None
    request = LaunchRequest(size, facts.num_cores or size)
    launcher = LAUNCHERS[facts.mpi]
    settings = [*worker_environment(size, 1, 0.1), *launcher.environment(request)]
    environ = {**os.environ, "PATH": search_path(), "PYTHONPATH": str(PROJECT)}
    environ |= dict(setting.tokens[0].split("=", 1) for setting in settings)
    environ["HVDTRAIN_REDUCTION"] = reduction
    tokens = [token for setting in launcher.tokens(request) for token in setting.tokens]
    return [*tokens, sys.executable, "-m", module, *arguments], environ


def run_cases(folder: Path, world: World) -> Results:
    log = run_module(folder, world.size, world.reduction, "tests.ranks.run_cases", str(folder), *world.cases)
    files = [folder / f"rank_{rank}.json" for rank in range(world.size)]
    by_rank = [json.loads(file.read_text()) if file.exists() else {} for file in files]
    return Results(world.size, world.reduction, by_rank, log)


def run_module(folder: Path, size: int, reduction: str, module: str, *arguments: str) -> str:
    """Run a Python module on all ranks of a new world and return what they printed."""
    command, environ = rank_command(size, reduction, module, *arguments)
    log = folder / "log.txt"
    with open(log, "wb") as file:
        subprocess.run(command, env=environ, stdout=file, stderr=file, timeout=TIMEOUT_S, check=False)
    return log.read_text(errors="replace")


def all_equal(values: list) -> bool:
    return all(value == values[0] for value in values)
