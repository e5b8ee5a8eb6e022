"""The Horovod that `hvdtrain build-horovod` makes leaves a rank's core alone while nothing is asked of it."""

import importlib.metadata
import json
import subprocess
from pathlib import Path

import pytest

from hvdtrain.doctor.recipe import RECIPE
from tests.conftest import missing
from tests.ranks.worlds import rank_command

pytestmark = pytest.mark.usefixtures("require_horovod")


def ranks_of(folder: Path, idle_wait: str) -> list[dict]:
    folder.mkdir()
    command, environ = rank_command(2, "horovod", "tests.ranks.idle", str(folder))
    environ["HOROVOD_IDLE_WAIT"] = idle_wait
    log = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert log.returncode == 0, log.stdout + log.stderr
    return [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.thorough
def test_an_idle_rank_is_left_alone_and_all_sums_are_right(tmp_path):
    if "+tf" not in importlib.metadata.version("horovod"):
        missing("horovod", f"the Horovod installed here is not from hvdtrain build-horovod, recipe {RECIPE}")
    for rank in all_sums_are_right(ranks_of(tmp_path / "sleeping", "1")):
        assert rank["idle share"] < 0.01


@pytest.mark.thorough
def test_control_horovod_as_released_spins_through_the_whole_time(tmp_path):
    for rank in all_sums_are_right(ranks_of(tmp_path / "spinning", "0")):
        assert rank["idle share"] > 0.03


def all_sums_are_right(ranks: list[dict]) -> list[dict]:
    for rank in ranks:
        assert rank["first"] == rank["cached"] == rank["late"] == len(ranks)
        assert rank["any order"] == [len(ranks), 10.0 * len(ranks)]
    return ranks
