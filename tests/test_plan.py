import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvdtrain.config import Config
from hvdtrain.errors import CorruptError, EnvironmentNotFitError, PlanError
from hvdtrain.facts import Facts, assumed_facts, mpi_dialect
from hvdtrain.plan import Plan, make_plan

HERE = Facts(num_cores=8, mpi="openmpi5", mpi_found="mpirun (Open MPI) 5.0.11", has_horovod=True, num_gpus=0)


def config(**sections) -> Config:
    base: dict[str, Any] = {
        "name": "try",
        "model": {"source": "my_code:build"},
        "data": {"source": "my_code:load", "num_examples": 1000},
        "training": {"epochs": 10, "batch_size_per_replica": 10},
        "launch": {"num_ranks": 4},
    }
    for name, values in sections.items():
        base[name] = {**base.get(name, {}), **values} if isinstance(values, dict) else values
    return Config(**base)


def rule(plan: Plan, name: str) -> str:
    return next(entry.rule for entry in plan.ledger if entry.name == name)


def test_every_number_follows_from_config_and_world():
    optimizer = {"learning_rate": 0.01, "lr_scaling": "linear", "warmup_epochs": 2, "schedule": "cosine"}
    plan = make_plan(config(optimizer=optimizer), HERE)
    assert (plan.num_replicas, plan.global_batch_size, plan.steps_per_epoch, plan.total_steps) == (4, 40, 25, 250)
    assert plan.learning_rate == pytest.approx(0.04)
    assert plan.warmup_steps == 50
    assert plan.cores_per_rank == 2
    assert plan.launcher == "openmpi5"
    assert rule(plan, "learning rate") == "0.01 x 4 (linear, 4 replicas)"
    assert rule(plan, "schedule") == "warm-up 2 epochs (50 steps) from 0.01"


def test_a_plan_survives_json():
    plan = make_plan(config(), HERE)
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.digest() == plan.digest()
    assert replace(plan, epochs=11).digest() != plan.digest()
    with pytest.raises(PlanError, match="of version 1, written by another hvdtrain"):
        Plan.from_json(replace(plan, version=1).to_json())


def test_a_plan_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(CorruptError, match=r"is damaged \(IsADirectoryError: "):
        Plan.read(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}x", '{"version": 6}', "\x00\xff"])
def test_a_damaged_plan_is_named(text, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(CorruptError, match=r"plan.json is damaged \("):
        Plan.read(path)


def test_divide_splits_epochs_and_shows_everything():
    plan = make_plan(config(data={"epoch_splitting": "divide"}), HERE)
    assert (plan.epochs, plan.steps_per_epoch) == (3, 100)
    assert rule(plan, "epochs") == "divide: ceil(10 / 4 replicas)"


def test_what_is_left_out_is_said():
    plan = make_plan(config(data={"num_examples": 1009}), HERE)
    assert "9 left out each epoch" in rule(plan, "steps per epoch")


def uneven(**sections: Any) -> Plan:
    return make_plan(config(training={"batch_size_per_replica": None, "global_batch_size": 66}, **sections), HERE)


def test_a_global_batch_is_shared_out():
    plan = make_plan(config(training={"batch_size_per_replica": None, "global_batch_size": 64}), HERE)
    assert (plan.batch_size_per_replica, plan.global_batch_size, plan.last_batch_size) == (16, 64, 64)
    plan = uneven()
    assert (plan.batch_size_per_replica, plan.global_batch_size, plan.steps_per_epoch) == (17, 66, 15)
    assert rule(plan, "batch per replica") == "training.global_batch_size 66 / 4 replicas: 16 or 17"


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"data": {"epoch_splitting": "divide"}}, "as epoch_splitting 'divide' needs it"),
        ({"launch": {"num_ranks": None, "strategy": "mirrored", "num_devices": 4}}, "as MirroredStrategy needs it"),
    ],
)
def test_where_replicas_need_equal_parts_other_global_batches_are_refused(sections, why):
    with pytest.raises(PlanError, match=rf"global_batch_size: 66 does not divide by 4 replicas, {why}; use 64 or 68"):
        uneven(**sections)


def test_the_last_batch_can_be_used():
    plan = make_plan(config(data={"num_examples": 1009, "remainder": "pad"}), HERE)
    assert (plan.steps_per_epoch, plan.last_batch_size) == (26, 9)
    assert "9 in the last one (pad)" in rule(plan, "steps per epoch")
    # Three examples cannot give each of four replicas one, and a replica without any has no loss.
    plan = make_plan(config(data={"num_examples": 1003, "remainder": "pad"}), HERE)
    assert (plan.steps_per_epoch, plan.last_batch_size) == (25, 40)
    assert "3 left out each epoch" in rule(plan, "steps per epoch")
    small = {"num_examples": 30, "remainder": "pad"}
    assert make_plan(config(data=small), HERE).last_batch_size == 30
    with pytest.raises(PlanError, match=r"remainder: 'pad' does not go with gradient_accumulation_steps"):
        make_plan(config(data=small, training={"gradient_accumulation_steps": 2}), HERE)
    launch = {"num_ranks": None, "strategy": "mirrored", "num_devices": 4}
    with pytest.raises(PlanError, match=r"remainder: 'pad' needs Horovod or one process"):
        make_plan(config(data=small, launch=launch), HERE)


@given(st.integers(1, 10**6), st.integers(1, 512), st.integers(1, 64), st.booleans())
def test_steps_use_whole_global_batches_and_waste_less_than_one(num_examples, batch, replicas, pads):
    sections: dict[str, Any] = {
        "data": {"num_examples": num_examples, "remainder": "pad" if pads else "drop"},
        "training": {"batch_size_per_replica": batch},
        "launch": {"num_ranks": replicas},
    }
    if num_examples < (replicas if pads else batch * replicas):
        with pytest.raises(PlanError, match="cannot fill one global batch"):
            make_plan(config(**sections), HERE)
        return
    plan = make_plan(config(**sections), HERE)
    used = (plan.steps_per_epoch - 1) * plan.global_batch_size + plan.last_batch_size
    assert replicas <= plan.last_batch_size <= plan.global_batch_size
    assert 0 <= num_examples - used < (replicas if pads else batch * replicas)


def test_saves_within_an_epoch_come_between_executions():
    plan = make_plan(config(data={"num_examples": 10_000}, checkpoint={"every_steps": 21}), HERE)
    assert (plan.steps_per_epoch, plan.steps_per_execution) == (250, 7)
    with pytest.raises(PlanError, match=r"checkpoint.every_steps is 21, which 20 does not divide"):
        make_plan(config(training={"steps_per_execution": 20}, checkpoint={"every_steps": 21}), HERE)
    with pytest.raises(PlanError, match=r"checkpoint.every_steps: 21 steps end in the middle of an update of 2"):
        make_plan(config(training={"gradient_accumulation_steps": 2}, checkpoint={"every_steps": 21}), HERE)


def test_steps_instead_of_epochs():
    plan = make_plan(config(training={"epochs": None, "steps": 60}), HERE)
    assert (plan.epochs, plan.total_steps) == (3, 60)
    assert 10 % plan.steps_per_execution == 0, "the short last epoch must end on a call"
    with pytest.raises(PlanError, match="the last epoch has 10 steps, which 3 does not divide"):
        make_plan(config(training={"epochs": None, "steps": 60, "steps_per_execution": 3}), HERE)


def test_mirrored_runs_one_step_per_call():
    launch = {"num_ranks": None, "strategy": "mirrored", "num_devices": 2}
    assert make_plan(config(launch=launch), HERE).steps_per_execution == 1
    with pytest.raises(PlanError, match=r"training.steps_per_execution: MirroredStrategy .* got 5"):
        make_plan(config(launch=launch, training={"steps_per_execution": 5}), HERE)


def test_impossible_numbers_are_refused_with_their_key():
    with pytest.raises(PlanError, match=r"training.batch_size_per_replica: .* 4 x 500 = 2000 .* at most 250"):
        make_plan(config(training={"batch_size_per_replica": 500}), HERE)
    with pytest.raises(PlanError, match=r"optimizer.warmup_epochs: the warm-up of 10 epochs"):
        make_plan(config(optimizer={"warmup_epochs": 10, "lr_scaling": "linear"}), HERE)
    with pytest.raises(PlanError, match=r"data.num_examples: needed"):
        make_plan(config(data={"num_examples": None}), HERE)
    with pytest.raises(PlanError, match="has 1437 training examples; got 1000"):
        make_plan(config(data={"source": "hvdtrain.workshop.data:digits"}), HERE)


def test_adaptive_optimizers_with_linear_scaling_are_warned_about():
    plan = make_plan(config(optimizer={"name": "adam", "lr_scaling": "linear"}), HERE)
    assert "adaptive" in plan.warnings[0]
    assert not make_plan(config(optimizer={"name": "sgd", "lr_scaling": "linear"}), HERE).warnings
    idle = make_plan(config(optimizer={"lr_scaling": "none", "warmup_epochs": 1}), HERE)
    assert "has no effect" in idle.warnings[0]


def test_without_horovod_auto_falls_back_loudly_unless_ranks_were_asked_for():
    without = replace(HERE, has_horovod=False)
    plan = make_plan(config(launch={"num_ranks": None}), without)
    assert (plan.strategy, plan.num_replicas) == ("mirrored", 1)
    assert "falling back to MirroredStrategy" in plan.warnings[0]
    assert make_plan(config(launch={"num_ranks": None}), replace(without, num_gpus=4)).num_replicas == 4
    with pytest.raises(PlanError, match="which MirroredStrategy keeps to itself"):
        make_plan(config(launch={"num_ranks": None}, sync={"on_nonfinite": "skip"}), without)
    with pytest.raises(EnvironmentNotFitError, match="4 ranks were asked for, but Horovod is not installed"):
        make_plan(config(), without)
    with pytest.raises(EnvironmentNotFitError, match="strategy 'horovod' was asked for"):
        make_plan(config(launch={"num_ranks": None, "strategy": "horovod"}), without)


def test_ranks_default_to_one_per_gpu():
    assert make_plan(config(launch={"num_ranks": None}), replace(HERE, num_gpus=4)).num_ranks == 4
    alone = make_plan(config(launch={"num_ranks": None}), HERE)
    assert (alone.num_ranks, alone.launcher) == (1, "none")


def test_without_mpi_several_ranks_are_refused():
    with pytest.raises(EnvironmentNotFitError, match="4 ranks need Open MPI 4 or 5, found: no mpirun"):
        make_plan(config(), replace(HERE, mpi=None, mpi_found="no mpirun on PATH"))


def test_horovod_sleeps_for_a_moment_whatever_cores_a_rank_has():
    assert make_plan(config(), replace(HERE, num_cores=4)).cycle_time_ms == 0.1
    assert make_plan(config(), HERE).cycle_time_ms == 0.1
    assert make_plan(config(horovod={"cycle_time_ms": 2.5}), HERE).cycle_time_ms == 2.5


def test_mirrored_counts_devices():
    plan = make_plan(config(launch={"num_ranks": None, "strategy": "mirrored", "num_devices": 3}), HERE)
    assert (plan.num_ranks, plan.num_replicas, plan.global_batch_size) == (1, 3, 30)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 64),
    st.integers(1, 64),
    st.integers(1, 100_000),
    st.integers(1, 30),
    st.sampled_from(["shard", "divide"]),
)
def test_any_plan_is_consistent_or_refused(ranks, batch, num_examples, epochs, splitting):
    chosen = config(
        launch={"num_ranks": ranks},
        training={"batch_size_per_replica": batch, "epochs": epochs},
        data={"num_examples": num_examples, "epoch_splitting": splitting},
    )
    try:
        plan = make_plan(chosen, assumed_facts())
    except PlanError:
        assert num_examples < batch * (1 if splitting == "divide" else ranks)
        return
    assert plan.total_steps == plan.epochs * plan.steps_per_epoch
    assert plan.global_batch_size == batch * ranks
    used_per_step = batch if splitting == "divide" else plan.global_batch_size
    assert plan.steps_per_epoch * used_per_step <= num_examples
    json.loads(plan.to_json())


@pytest.mark.parametrize(
    ("text", "dialect"),
    [
        ("mpirun (Open MPI) 4.1.4\n\nReport bugs to", "openmpi4"),
        ("mpirun (Open MPI) 5.0.11", "openmpi5"),
        ("mpirun (Open MPI) 3.1.0", None),
        ("HYDRA build details:\n    Version: 4.0", None),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.9", None),
        ("", None),
    ],
)
def test_mpi_dialects(text, dialect):
    assert mpi_dialect(text)[0] == dialect
