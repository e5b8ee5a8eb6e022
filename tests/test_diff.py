"""`hvdtrain diff` on run directories that no rank has touched yet."""

import json
import shutil

import pytest
from click.testing import CliRunner

from hvdtrain.cli import cli
from hvdtrain.rundir import RunDir
from tests.test_resuming import begun


def diff(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["diff", *arguments])
    return result.exit_code, result.output


@pytest.fixture
def runs(tmp_path) -> tuple[RunDir, RunDir]:
    first = begun(tmp_path, 2)
    second = begun(tmp_path, 4, training={"seed": 7}, data={"remainder": "pad"}, optimizer={"momentum": 0.9})
    for run, keras, accuracy in ((first, "3.15.1", 0.5), (second, "3.16.0", 0.75)):
        run.environment.write_text(json.dumps({"keras": keras, "tensorflow": "2.21", "ranks": [{"host": "n1"}]}))
        run.summary.write_text(json.dumps({"digest": "ab", "seconds": 3 * accuracy, "metrics": {"accuracy": accuracy}}))
    return first, second


def test_each_difference_stands_in_its_section(runs):
    code, out = diff("--json", *(str(run.path) for run in runs))
    assert code == 1
    found = {(entry["section"], entry["key"]): (entry["first"], entry["second"]) for entry in json.loads(out)}
    assert found["config", "optimizer.momentum"] == (None, 0.9)
    assert found["data", "data.remainder"] == ("drop", "pad")
    assert found["seeds", "training.seed"] == (0, 7)
    assert found["world", "num_replicas"] == (2, 4)
    assert found["plan", "learning_rate"] == (0.02, 0.04)
    assert found["versions", "keras"] == ("3.15.1", "3.16.0")
    assert found["results", "accuracy"] == (0.5, 0.75)
    assert not {"tensorflow", "hosts", "digest", "seconds", "name"} & {key for _, key in found}


def test_people_read_one_line_per_difference(runs):
    code, out = diff(*(str(run.path) for run in runs))
    assert code == 1
    assert runs[0].short_id in out.splitlines()[0]
    [line] = [line for line in out.splitlines() if "training.seed" in line]
    assert line.split() == ["training.seed", "0", "7"]


@pytest.mark.parametrize("damaged", [{"ranks": [1], "metrics": [1]}, {"ranks": 1, "metrics": None}])
def test_what_is_damaged_is_not_there(runs, damaged):
    for path in (runs[1].environment, runs[1].summary):
        path.write_text(json.dumps(damaged))
    code, out = diff("--json", *(str(run.path) for run in runs))
    assert code == 1
    second = {entry["key"]: entry["second"] for entry in json.loads(out)}
    assert second["hosts"] == second["accuracy"] == second["keras"] == "(not there)"


def test_equal_runs_give_exit_code_0(runs, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(runs[0].path, copy)
    code, out = diff(str(runs[0].path), str(copy))
    assert (code, "do not differ" in out) == (0, True)
    assert diff("--json", str(runs[0].path), str(copy)) == (0, "[]\n")
