"""Silent errors and stopping on real ranks: the results of tests/ranks/faults.py, and real commands' exit codes."""

import pytest

from hvdtrain.train import checkpoint
from tests.harness import determinism
from tests.ranks.faults import STEPS, STOPS
from tests.ranks.worlds import all_equal
from tests.workdir import Workdir


@pytest.mark.travel
def test_a_flipped_bit_is_caught_at_the_next_check_or_healed(results):
    for rows in results.of("bit_flips"):
        assert [row for row in rows if not row["ok"]] == []
        outcomes = [row["outcome"] for row in rows]
        assert outcomes.count("caught") > len(rows) / 3
        assert outcomes[-1] == "control: unnoticed", "without the check nobody sees it"


@pytest.mark.travel
def test_a_value_that_is_not_finite_stops_all_ranks_at_its_step(results):
    for rows in results.of("nonfinite_anywhere"):
        assert [row for row in rows if not row["ok"]] == []
        assert [row["outcome"] for row in rows] == ["stopped"] * (len(rows) - 1) + ["control: poisoned"]


@pytest.mark.travel
def test_weights_in_bfloat16_are_looked_at(results):
    assert all("only/kernel on rank 0" in value for value in results.of("bfloat16_weights_are_looked_at"))


@pytest.mark.travel
def test_skipped_updates_leave_no_trace(results):
    values = results.of("skipped_updates")
    for value in values:
        for result in value.values():
            assert result["same"]
            assert result["iterations"] == 2 * 9
            assert result["num_skipped"] == 6
            assert len(result["said"]) == 2
            assert result["loss"][0] == pytest.approx(result["loss"][1], rel=1e-6)
            assert result["said"][0].startswith("skipped 3 updates because of values that are not finite; the first: ")
            assert "step 3, " in result["said"][0]
            assert "on rank 0" in result["said"][0]


def test_an_epoch_without_any_update_stops(results):
    for value in results.of("skipping_every_update"):
        assert value.startswith("OutOfSyncError: not finite at step 1: ")
        assert "on rank 0" in value


def test_skip_is_refused_where_it_cannot_be_right(results):
    for value in results.of("skip_refused"):
        assert "does not go with gradient_accumulation_steps" in value["accumulation"]
        assert "must be 'stop' or 'skip'; got 'ignore'" in value["unknown"]


@pytest.mark.travel
def test_loss_scaling_keeps_its_infinities_and_nothing_else_passes(results):
    last = results.size - 1
    for value in results.of("nonfinite_with_loss_scaling"):
        assert value["gradient"] == "nothing was raised"
        assert f"not finite at step 3: fp16/norm/moving_mean on rank {last} " in value["statistic"]
        assert f"not finite at step 3: fp16/hidden/kernel on rank {last} " in value["weight"]


def test_one_process_finds_the_step_too(results):
    for value in results.of("nonfinite_alone"):
        for name in ("plain", "xla"):
            assert "not finite at step 4: the gradient of alone/only/kernel on rank 0" in value[name]
        assert "not finite at step 4: alone/only/kernel, alone/only/bias, " in value["undistributed"]


def test_one_ranks_wish_stops_all_at_one_step_and_the_run_goes_on(results):
    values = results.of("stop_in_mid_epoch")
    assert all_equal(values)
    assert results.size != 2 or list(values[0]) == list(STOPS)
    for name, value in values[0].items():
        steps_done = STOPS[name][-1]
        done = (value["stopped"]["epochs_done"], value["stopped"]["steps_done"])
        assert done == ((2, 0) if steps_done == STEPS else (1, steps_done)), name
        assert value["resumed"] == value["whole"], name
        assert value["stopped"]["state"] != value["whole"]["state"], name


@pytest.mark.travel
def test_rank_0_can_ask_all_to_stop(results):
    assert results.of("stop_asked_by_rank_0") == [list(range(5))] * results.size


# -- real commands ------------------------------------------------------------------------------

NAN_CODE = """
import numpy as np
import tensorflow as tf

from my_code import draw, model


def dataset():
    x, y = draw(192, 1)
    x[101, 3] = np.nan
    return tf.data.Dataset.from_tensor_slices((x, y)), draw(50, 2)
"""


@pytest.fixture
def nan_folder(tmp_path, require_horovod):
    folder = Workdir(tmp_path / "work", data={"source": "nan_code:dataset", "num_examples": 192})
    (folder.path / "nan_code.py").write_text(NAN_CODE)
    return folder


def test_nan_ends_a_run_with_code_70_and_no_checkpoint(nan_folder):
    # Rows are dealt out in turn: row 101 is the 51st of rank 1, and a step takes 16 of them.
    outcome = nan_folder.hvdtrain("run", "demo.yaml")
    assert outcome.code == 70
    assert "not finite at step 4: the gradient of " in outcome.err
    assert "on rank 1" in outcome.err
    assert checkpoint.checkpoints(nan_folder.run.checkpoints) == []


def test_a_run_that_skips_says_so_once_per_epoch(nan_folder):
    outcome = nan_folder.hvdtrain("run", "demo.yaml", "--set", "sync.on_nonfinite=skip")
    assert outcome.code == 0, outcome.err
    said = [line for line in outcome.err.splitlines() if "skipped" in line]
    assert len(said) == 5
    assert "skipped 1 update because of values that are not finite; the first: step 4, " in said[0]
    assert nan_folder.summary()["step"] == 5 * 6 - 5


@pytest.mark.thorough
def test_deterministic_launches_give_one_digest(require_horovod):
    first, second = determinism.launch(0), determinism.launch(0)
    assert first == second
    assert first["reduction"] == "shared memory"
    assert determinism.launch(determinism.NUM_CASES - 2)["digest"] != first["digest"], "another seed, another digest"
