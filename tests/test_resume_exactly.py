"""Exact resume and exactly-once data: the short forms of `tests/harness/resume_*` and `world_changes`, and stops."""

import pytest

from tests.harness import resume_kills, resume_points, world_changes
from tests.harness.launches import Launches

pytestmark = pytest.mark.beside


ALWAYS = ("adam", "ema", "accumulated")
RARER = [name for name in resume_points.VARIANTS if name not in ALWAYS]


@pytest.mark.parametrize("variant", [*ALWAYS, *(pytest.param(name, marks=pytest.mark.thorough) for name in RARER)])
def test_every_step_after_an_interruption_anywhere_is_the_same(variant):
    row = resume_points.resumed(variant, seed=1)
    assert row["equal"], row
    assert row["steps_after"] > 0


def test_control_keras_backup_in_the_middle_of_an_epoch_is_caught():
    row = resume_points.keras_backup(seed=1)
    assert not row["equal"], row
    assert row["seen_twice"] > 0


def test_killed_ranks_resume_to_the_state_of_a_run_nobody_killed(require_horovod):
    row = resume_kills.killed(2, seed=0, most_kills=1)
    assert row["kills"] == 1
    assert row["digest"] == resume_kills.whole(2)["digest"]


@pytest.mark.thorough
def test_other_worlds_see_every_example_exactly_once(require_horovod):
    row = world_changes.changing(global_batch=10, seed=1)
    assert (row["missing"], row["twice"]) == (0, 0)
    assert all(steps > 0 for _, steps in row["resumed_at"]), "the kills must come within epochs"
    assert row["ledger"] == ["2 -> 4 replicas", "4 -> 1 replicas", "1 -> 3 replicas"]
    assert row["learning_rate"] == pytest.approx(0.01), "0.005 x 2 replicas of the first start"


def test_control_shards_of_their_own_lose_and_repeat_examples():
    control = world_changes.shards_of_their_own(12, 2)
    assert control["missing"] > 0
    assert control["twice"] > 0


def test_a_time_limit_stops_all_ranks_and_resume_goes_on_exactly(tmp_path, require_horovod):
    training = {"epochs": 2, "global_batch_size": 4}
    at_the_end = {"every_epochs": None}
    limited = {**training, "max_minutes": 0.02}
    run = Launches(tmp_path / "limited", pause_s=0.25, training=limited, checkpoint=at_the_end)
    code, said = run.call(2)
    assert code == 75, said
    assert "training.max_minutes 0.02" in said
    assert f"run --resume {run.run.short_id}" in said
    assert run.run.exit_code() == 75
    assert run.run.state() == "unfinished"
    (tmp_path / "limited" / "config.yaml").write_text(
        (tmp_path / "limited" / "config.yaml").read_text().replace("0.02", "60").replace("0.25", "0")
    )
    run.start(2)
    [_, (epochs, steps)] = run.resumed_at()
    assert (epochs, steps > 0) == (0, True)
    assert run.run.exit_code() is None
    whole = Launches(tmp_path / "whole", pause_s=0, training=training, checkpoint=at_the_end)
    whole.start(2)
    assert run.digest() == whole.digest()


def test_a_script_goes_on_in_the_middle_with_its_callbacks_decisions(results):
    values = results.of("script_goes_on_in_the_middle")
    for value in values:
        whole, resumed = value["whole"], value["resumed"]
        assert (whole.pop("first"), resumed.pop("first")) == (0, 3)
        assert resumed == whole
        assert whole["rate"] < 0.3, "the plateau must have been seen"
    assert len({tuple(value["whole"]["general_seed"]) for value in values}) == results.size, "ranks draw other noise"
