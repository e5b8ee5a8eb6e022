"""What a run goes on with in another world, without starting any rank."""

import json
from pathlib import Path
from typing import Any

import pytest

from hvdtrain.errors import PlanError
from hvdtrain.facts import Facts
from hvdtrain.plan import Plan
from hvdtrain.prepare import Prepared, new_run, prepare, write_plan
from hvdtrain.resuming import continued, resumable_run
from hvdtrain.rundir import RunDir

HERE = Facts(num_cores=8, mpi="openmpi5", mpi_found="mpirun (Open MPI) 5.0.11", has_horovod=True, num_gpus=0)
LINEAR = {"learning_rate": 0.01, "lr_scaling": "linear", "warmup_epochs": 1, "schedule": "cosine"}


def prepared_with(folder: Path, ranks: int, **blocks: dict[str, Any]) -> Prepared:
    config: dict[str, Any] = {
        "name": "try",
        "model": {"source": "my_code:build"},
        "data": {"source": "my_code:load", "num_examples": 100},
        "training": {"epochs": 4, "global_batch_size": 12},
        "optimizer": LINEAR,
    }
    for block, values in blocks.items():
        config[block] = {**config.get(block, {}), **values}
    (folder / "c.yaml").write_text(json.dumps(config))
    return prepare(str(folder / "c.yaml"), HERE, overrides=[f"launch.num_ranks={ranks}"])


def begun(folder: Path, ranks: int, **blocks: dict[str, Any]) -> RunDir:
    return new_run(prepared_with(folder, ranks, **blocks), folder / "runs")


def lines(plan: Plan, name: str) -> list[tuple[str, str]]:
    return [(entry.value, entry.rule) for entry in plan.ledger if entry.name == name]


def test_the_learning_rate_of_the_first_start_stays_and_the_ledger_says_so(tmp_path):
    run = begun(tmp_path, 2)
    for ranks in (4, 1, 3):
        then = continued(run, prepared_with(tmp_path, ranks))
        assert then.plan.num_replicas == ranks
        assert then.plan.learning_rate == pytest.approx(0.02), "the global batch is the same"
        write_plan(run, then)
    plan = Plan.from_json(run.plan.read_text())
    assert lines(plan, "learning rate") == [("0.02", "0.01 x 2 (linear, 2 replicas), kept from the run's first start")]
    assert [value for value, _ in lines(plan, "resumed")] == ["2 -> 4 replicas", "4 -> 1 replicas", "1 -> 3 replicas"]
    assert "batch per replica 12 -> 4" in lines(plan, "resumed")[-1][1]


def test_the_same_world_again_changes_nothing(tmp_path):
    run = begun(tmp_path, 2)
    assert continued(run, prepared_with(tmp_path, 2)) == prepared_with(tmp_path, 2)


@pytest.mark.parametrize(
    ("blocks", "ranks", "said"),
    [
        (
            {"training": {"global_batch_size": None, "batch_size_per_replica": 6}},
            4,
            "global batch would change from 12 (2 replicas) to 24",
        ),
        ({"data": {"remainder": "pad", "num_examples": 99}}, 4, "steps per epoch 9 -> 8"),
        ({"data": {"epoch_splitting": "divide"}, "training": {"epochs": 8}}, 4, "epoch_splitting 'divide'"),
    ],
    ids=["batch_per_replica", "last_batch_too_small", "divide"],
)
def test_what_would_be_another_training_is_refused(tmp_path, blocks, ranks, said):
    run = begun(tmp_path, 2, **blocks)
    with pytest.raises(PlanError) as error:
        continued(run, prepared_with(tmp_path, ranks, **blocks))
    assert said in str(error.value)
    assert "use 2 replicas" in str(error.value)


def test_another_configuration_is_refused_and_not_found(tmp_path):
    run = begun(tmp_path, 2)
    other = prepared_with(tmp_path, 2, training={"epochs": 5})
    with pytest.raises(PlanError, match="differs in training"):
        continued(run, other)
    assert resumable_run(prepared_with(tmp_path, 4), tmp_path / "runs") == run


def test_a_damaged_run_is_passed_over_with_a_word(tmp_path, capsys):
    older = begun(tmp_path, 2)
    path = begun(tmp_path, 2).path
    damaged = RunDir(path.rename(path.with_name("29991231-235959-abcdef")))
    damaged.plan.write_text("{")
    assert resumable_run(prepared_with(tmp_path, 2), tmp_path / "runs") == older
    assert f"{damaged.plan} is damaged" in capsys.readouterr().err


def test_scaling_with_a_stated_global_batch_is_warned_about(tmp_path):
    assert any("the batch does not" in text for text in prepared_with(tmp_path, 2).plan.warnings)
    assert not prepared_with(tmp_path, 2, optimizer={"lr_scaling": "none", "warmup_epochs": 0}).plan.warnings
