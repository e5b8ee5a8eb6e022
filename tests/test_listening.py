"""Ranks of one machine do not listen to the network."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.listeners import listening, workers


@pytest.mark.usefixtures("require_horovod")
def test_no_rank_of_one_machine_listens_to_the_network(tmp_path):
    """mpirun itself still does; docs/slurm.md says so."""
    command = [
        sys.executable, "-m", "hvdtrain", "run", str(PROJECT / "configs" / "digits_cnn.yaml"), "--ranks", "2",
        "--runs", str(tmp_path), "--set", "training.epochs=400",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        run = wait_for_training(tmp_path)
        ranks = workers(run)
        assert len(ranks) == 2
        assert set().union(*listening(ranks).values()) <= {"127.0.0.1", "::1"}
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_for_training(root: Path) -> Path:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        for metrics in root.glob("*/*/metrics.jsonl"):
            if '"kind": "epoch"' in metrics.read_text():
                return metrics.parent
        time.sleep(0.1)
    raise AssertionError("no epoch within two minutes")
