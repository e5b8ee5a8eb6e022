"""Keras's own optimizer tests with hvdtrain's distributed optimizers: on two ranks, and with a wrong mean."""

import json
from pathlib import Path

import pytest

from tests.harness.keras_own_tests import keras_test_files
from tests.ranks.worlds import run_module

pytestmark = pytest.mark.thorough

# What Keras itself skips under TensorFlow, by the reason it gives.
SKIPPED_BY_KERAS = ("stateless_apply is not supported",)


def run_keras_tests(folder, size: int, *options: str) -> list[dict]:
    log = run_module(folder, size, "auto", "tests.harness.keras_own_tests", str(folder), *options)
    files = [folder / f"rank_{rank}.json" for rank in range(size)]
    assert all(file.exists() for file in files), log[-3000:]
    return [json.loads(file.read_text()) for file in files]


def test_kerass_own_optimizer_tests_pass_distributed(tmp_path, require_horovod):
    by_rank = run_keras_tests(tmp_path, 2)
    for run in by_rank:
        assert len(run["tests"]) >= 200, "the walk over Keras's tests found too little"
        assert {Path(name.split("::")[0]).name for name in run["tests"]} == {file.name for file in keras_test_files()}
        for name, test in run["tests"].items():
            if test["outcome"] == "skipped":
                assert any(reason in test["why"] for reason in SKIPPED_BY_KERAS), f"{name}: {test['why']}"
            else:
                assert test["outcome"] == "passed", f"rank {run['rank']}: {name}: {test['why']}"
    assert len({run["means"] for run in by_rank}) == 1
    averaging = [name for name, test in by_rank[0]["tests"].items() if test["means"]]
    assert len(averaging) > 100, "averaging must have taken part"


def test_the_same_tests_catch_a_wrong_mean(tmp_path, require_horovod):
    (run,) = run_keras_tests(tmp_path, 1, "--control")
    failed = [name for name, test in run["tests"].items() if test["outcome"] == "failed"]
    assert len(failed) > len(run["tests"]) / 2 > 5
