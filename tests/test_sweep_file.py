"""Sweep files: every problem at once with its line, and every trial checked before the first one starts."""

import os

import pytest

from hvdtrain.cli.options import Changes
from hvdtrain.errors import ConfigError
from hvdtrain.facts import assumed_facts
from hvdtrain.study.sweep_space import rungs
from hvdtrain.sweeps.config import Objective
from hvdtrain.sweeps.file import load_sweep
from hvdtrain.sweeps.jobs import array_text
from hvdtrain.sweeps.trials import make_trials, stages_text
from tests.conftest import PROJECT

NOTHING = Changes((), ())
BASE = """\
name: base
model: {source: "hvdtrain.workshop.models:dense_dropout", args: {input_shape: [8, 8, 1]}}
data: {source: "hvdtrain.workshop.data:digits"}
training: {epochs: 9, global_batch_size: 32}
optimizer: {name: sgd, momentum: 0.9}
"""
GOOD = "base: base.yaml\nmethod: grid\nparameters:\n  model.args.units: [16, 32]\n"


@pytest.fixture
def written(tmp_path):
    """Write a sweep file beside its base, and return its path."""

    def write(text: str, base: str = BASE):
        (tmp_path / "base.yaml").write_text(base)
        (tmp_path / "my.yaml").write_text(text)
        return tmp_path / "my.yaml"

    return write


def trials_of(path, *overrides: str):
    return make_trials(load_sweep(path), Changes(overrides, ()), assumed_facts())


@pytest.mark.parametrize("name", ["workshop", "random", "halving"])
def test_the_examples_are_valid(name):
    found = trials_of(PROJECT / "configs" / "sweeps" / f"{name}.yaml")
    assert len(found.prepared) == {"workshop": 12, "random": 16, "halving": 18}[name]
    assert all(one.plan.num_validation == 144 for _, one in found.prepared)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("model.args.units: 16", "my.yaml:5: parameters.model.args.units: must be a list of values, such as [16]"),
        ("model.args.units: []", "must list at least one value"),
        ("model.args.units: [16, 32, 16]", "16 is given twice"),
        (
            "optimizer.lerning_rate: [0.1]",
            "no configuration has the key 'optimizer.lerning_rate'; did you mean 'learning",
        ),
        ("optimiser.name: [sgd]", "did you mean 'optimizer'?"),
        ("training.epochs.x: [1]", "training.epochs has no keys inside"),
        ("data: [{source: a:b}]", "swept as a whole: data.validation_split, data.validation_seed must stay"),
        ("launch.num_ranks: [1, 2]", "cannot be swept: all trials run in the same way"),
        ("data.validation_split: [0.1, 0.2]", "compared on the same examples"),
        ("model.args.units: {low: 16, high: 64}", "a grid needs a list of values"),
        ("model.args.units: {low: 64, high: 16}", "must be less than high"),
        ("model.args.units: {low: 0, high: 16, log: true}", "must be greater than 0, since log is true"),
        ("model.args.units: {low: 1.0e-320, high: 1.0e+300, log: true}", "is too far below high, since log is true"),
        ("model.args.units: {low: 0.5, high: 16, integer: true}", "must be a whole number"),
        ("model.args.units: {low: 1, hihg: 16}", "did you mean 'high'?"),
        ("optimizer: [{name: sgd}]\n  optimizer.name: [adam]", "lies inside 'optimizer', which is swept as well"),
    ],
)
def test_wrong_parameters_are_said_with_their_line(written, line, said):
    with pytest.raises(ConfigError) as caught:
        load_sweep(written(f"base: base.yaml\nmethod: grid\n# a comment\nparameters:\n  {line}\n"))
    assert said in str(caught.value)
    assert "my.yaml:" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base: base.yaml\nmethod: gird\nparameters: {model.args.units: [1]}", "did you mean 'grid'?"),
        (GOOD.replace("grid", "random"), "my.yaml: num_trials: missing; how many combinations"),
        (GOOD + "num_trials: 3", "my.yaml:5: num_trials: method 'grid' trains every combination"),
        (GOOD + "halving: {factor: 2}", "only for method: halving"),
        (GOOD + "objectiv: {metric: loss}", "unknown key; did you mean 'objective'?"),
        (
            GOOD.replace("grid", "halving").replace("model.args.units", "training.epochs"),
            "decides how long a trial trains",
        ),
        (BASE, "a sweep file names it (base: my.yaml)"),
        ("[1, 2]", "a block of 'key: value' lines"),
        (GOOD.replace("base.yaml", "nowhere.yaml"), "my.yaml:1: base: there is no such file"),
        (GOOD + "objective: {metric: val_acuracy}", "did you mean 'val_accuracy'?"),
        (GOOD + "objective: {metric: val_mine}", "whether more 'val_mine' is better; say mode: max or mode: min"),
        (GOOD.replace("grid", "random") + "num_trials: 5000", "5,000 trials; at most 1,000"),
    ],
)
def test_wrong_files_are_explained(written, text, said):
    with pytest.raises(ConfigError) as caught:
        trials_of(written(text))
    assert said in str(caught.value)


def test_several_problems_are_said_at_once(written):
    with pytest.raises(ConfigError) as caught:
        load_sweep(written("base: base.yaml\nmethod: grid\nseed: -1\nparameters:\n  a.b: [1]\n  training.epochs: 3\n"))
    assert [problem.line for problem in caught.value.problems] == [3, 5, 6]


MIXED = GOOD + "  optimizer.name: [sgd, adam, rmsprop]\n"


def test_a_bad_combination_stops_everything_at_the_line_of_its_parameter(written):
    with pytest.raises(ConfigError) as caught:
        trials_of(written(MIXED))
    (problem,) = caught.value.problems
    assert (problem.line, problem.key) == (5, "parameters.optimizer.name")
    assert "adam takes no momentum" in problem.message
    assert "in 2 of 6 combinations, the first: units 16, optimizer.name adam" in problem.message


def test_bad_combinations_are_left_out_if_that_is_wanted(written):
    found = trials_of(written(MIXED + "invalid: skip\n"))
    assert [trial.values["optimizer.name"] for trial, _ in found.prepared] == ["sgd", "rmsprop"] * 2
    assert [trial.number for trial, _ in found.prepared] == [0, 1, 2, 3]
    assert any("left out" in note and "adam takes no momentum" in note for note in found.notes)
    text = MIXED.replace("grid", "random") + "num_trials: 4\ninvalid: skip\n"
    assert len(trials_of(written(text)).prepared) == 4, "other draws take their place"


def test_what_is_wrong_with_the_base_is_said_as_always(written):
    with pytest.raises(ConfigError, match=r"base.yaml:4: training.batch_size: unknown key"):
        trials_of(written(GOOD, BASE.replace("global_batch_size", "batch_size")))


def test_examples_are_held_out_unless_the_base_says_how_many(written):
    path = written(GOOD)
    first = trials_of(path).first
    assert (first.plan.num_examples, first.plan.num_validation) == (1437 - 144, 144)
    assert "data.validation_split=0.1" in " ".join(trials_of(path).notes)
    assert trials_of(path, "data.validation_split=0.2").first.plan.num_validation == 287
    none = trials_of(path, "data.validation_split=0")
    assert none.first.plan.num_validation == 0
    assert "compared on the test data" in " ".join(none.notes)
    assert trials_of(written(GOOD + "objective: {metric: loss}")).first.plan.num_validation == 0


def test_blocks_can_be_values(written):
    text = GOOD + "  optimizer: [{name: adam}, {name: sgd, learning_rate: 0.1, momentum: 0.9}]\n"
    found = [one.config.optimizer for _, one in trials_of(written(text)).prepared]
    assert [(one.name, one.momentum) for one in found] == [("adam", None), ("sgd", 0.9)] * 2


def test_fewer_combinations_than_were_asked_for_are_said(written):
    found = trials_of(written(GOOD.replace("grid", "random") + "num_trials: 5\n"))
    assert len(found.prepared) == 2
    assert "there are only 2 different combinations" in found.notes[-1]


@pytest.mark.parametrize(
    ("metric", "is_max"),
    [
        ("val_accuracy", True),
        ("val_loss", False),
        ("val_mse", False),
        ("val_mean_absolute_error", False),
        ("val_logcosh", False),
        ("val_poisson", False),
        ("val_categorical_hinge", False),
        ("false_negatives", False),
        ("auc", True),
        ("val_auc_1", True),
        ("val_f1_score", True),
        ("val_one_hot_mean_io_u", True),
        ("val_recall_at_precision", True),
        ("val_brier_score", None),
    ],
)
def test_what_is_better_follows_from_the_name(metric, is_max):
    assert Objective(metric=metric).is_max is is_max
    assert Objective(metric=metric, mode="min").is_max is False


def test_indices_of_arrays_are_as_short_as_can_be():
    assert array_text([4], None) == "4"
    assert array_text([0, 1, 2, 3, 9], 2) == "0-3,9%2"


def test_a_sweep_on_a_site_goes_on_with_the_width_asked_for(hvdtrain, tmp_path, monkeypatch, written):
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    note = f'grep -h ^#SBATCH.*array= "${{@: -2:1}}" >>{tmp_path}/arrays; echo 7'
    for program, line in {"squeue": "", "sbatch": note}.items():
        (tools / program).write_text(f"#!/bin/bash\n{line}\n")
        (tools / program).chmod(0o755)
    site = str(PROJECT / "configs" / "sites" / "local-cluster.yaml")
    code, name, err = hvdtrain("sweep", str(written(GOOD)), "--site", site, "--set", "launch.strategy=single")
    assert code == 0, err
    hvdtrain("sweep", "--resume", name.strip(), "--parallel", "1")
    assert (tmp_path / "arrays").read_text().splitlines() == ["#SBATCH --array=0-1", "#SBATCH --array=0-1%1"]


def test_stages_are_told_in_words():
    assert stages_text(rungs(4, 4, factor=2, min_epochs=1), 4, 4).startswith(
        "4 trials train for 1 epoch, the best 2 go on"
    )
