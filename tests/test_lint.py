"""What is refused before a job is submitted, and what it would cost."""

import pytest

from hvdtrain.config_file import load_config
from hvdtrain.lint import charge, findings
from hvdtrain.schedulers.layout import make_layout
from hvdtrain.sites import load_site
from tests.conftest import PROJECT

CONFIG = PROJECT / "configs" / "digits_cnn.yaml"


def site(name: str):
    return load_site(str(PROJECT / "configs" / "sites" / f"{name}.yaml"), {})


def found(where: str, *overrides: str, run_folder: str = "/ocean/projects/x/runs") -> tuple[list[str], list[str]]:
    """Return (errors, warnings) as text."""
    config = load_config(CONFIG, overrides)
    seen = list(findings(config, make_layout(config, site(where)), run_folder=run_folder))
    return [str(one.problem) for one in seen if one.is_error], [str(one.problem) for one in seen if not one.is_error]


def test_a_fitting_job_passes():
    assert found("local-cluster", run_folder="/anywhere") == ([], [])


@pytest.mark.parametrize(
    ("where", "overrides", "words"),
    {
        "too long": ("local-cluster", ["slurm.time_limit_min=61"], "allows 60"),
        "too many nodes": ("local-cluster", ["slurm.nodes=5", "launch.num_ranks=5"], "at most 4"),
        "one node only": ("bridges2", ["slurm.partition=GPU-shared", "slurm.nodes=2"], "gets at most 1"),
        "too many CPUs": ("local-cluster", ["slurm.cpus_per_rank=2"], "are 4 on each node"),
        "too much memory": ("local-cluster", ["slurm.memory=8G"], "have 4G"),
        "too many GPUs": ("bridges2", ["slurm.gpus_per_node=9", "launch.num_ranks=9"], "have 8"),
        "GPUs where there are none": ("local-cluster", ["slurm.gpus_per_node=1"], "have none"),
        "an unknown GPU": ("bridges2", ["slurm.gpu_type=a100"], "it has v100-32, v100-16"),
        "ranks that share a GPU": ("bridges2", ["slurm.gpus_per_node=1"], "each rank needs one of its own"),
        "GPUs per task": ("bridges2", ["slurm.options={gpus-per-task: '1'}"], "NCCL cannot reach its peers"),
        "no account": ("perlmutter", [], "refuses jobs without one"),
        "no time to stop": ("local-cluster", ["slurm.stop_lead_s=1800"], "leaves no time to train"),
    }.values(),
)
def test_what_would_pend_for_ever_or_waste_is_refused(where, overrides, words):
    errors, _ = found(where, *overrides)
    assert len([error for error in errors if words in error]) == 1, errors


def test_a_run_directory_that_nodes_do_not_share_is_refused():
    errors, _ = found("bridges2", "slurm.gpus_per_node=2", run_folder="/home/me/runs")
    assert "not on a file system" in errors[0]
    assert "/ocean" in errors[0]
    assert found("bridges2", "slurm.gpus_per_node=2", run_folder="/oceanic/runs")[0], "a prefix is not a folder"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["slurm.stop_lead_s=0"], "killed without a save"),
        (["slurm.stop_lead_s=20"], "may be too short"),
    ],
)
def test_doubtful_settings_are_said_and_not_refused(overrides, words):
    errors, warnings = found("local-cluster", *overrides)
    assert errors == []
    assert any(words in warning for warning in warnings)


def test_idle_gpus_are_noticed():
    _, warnings = found("bridges2", "slurm.gpus_per_node=8")
    assert any("stay idle" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["slurm.nodes=2", "slurm.time_limit_min=90", "launch.num_ranks=16"], (3.0, 24.0)),
        (["slurm.partition=GPU-shared", "slurm.gpus_per_node=2", "slurm.time_limit_min=60"], (1.0, 2.0)),
        (["slurm.partition=RM-shared", "slurm.cpus_per_rank=4", "slurm.time_limit_min=30"], (0.5, 4.0)),
    ],
)
def test_the_charge_counts_what_the_partition_charges(overrides, expected):
    config = load_config(CONFIG, overrides)
    assert charge(config, make_layout(config, site("bridges2"))) == expected
