"""Tuning for real: what is plainly slow is found, what is written works, and nothing is overwritten."""

import json
import subprocess
import sys

import pytest

from hvdtrain.config_file import load_config
from hvdtrain.facts import Facts
from hvdtrain.prepare import prepare
from hvdtrain.study.knobs import Setting
from hvdtrain.tuning import Tuned, in_force, tuned_text
from tests.conftest import PROJECT

pytestmark = pytest.mark.beside

DIGITS = str(PROJECT / "configs" / "digits_cnn.yaml")
SLOW = ("--ranks", "1", "--set", "training.steps_per_execution=1")


def tune(*words, cwd, code=0):
    command = [sys.executable, "-m", "hvdtrain", "tune", DIGITS, *words]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=400, check=False)
    assert result.returncode == code, result.stdout + result.stderr
    return result


@pytest.mark.thorough
def test_one_step_per_call_is_found_to_be_slow_and_mended(tmp_path, require_horovod):
    result = tune(*SLOW, "--minutes", "2", "--json", "--out", "tuned.yaml", cwd=tmp_path)
    found = json.loads(result.stdout)
    chosen = {setting["key"]: setting["value"] for setting in found["chosen"]}
    assert int(chosen["training.steps_per_execution"]) > 1
    assert found["gain"][0] > 1.05, "Python between the steps of a small model is more than a twentieth"
    assert not any(trial["setting"]["changes_rounding"] for trial in found["trials"])
    tuned = load_config(tmp_path / "tuned.yaml")
    assert str(tuned.training.steps_per_execution) == chosen["training.steps_per_execution"]
    assert tuned.measure is None, "the tuned configuration trains"


SAME_BITS = (
    ("training.steps_per_execution=1", "launch.yield_when_idle=false"),
    ("horovod.reduction=horovod", "horovod.cycle_time_ms=0.5", "horovod.num_groups=2"),
)


@pytest.mark.thorough
def test_what_is_tried_without_asking_leaves_every_bit_of_the_training(tmp_path, require_horovod):
    digests = [digest(tmp_path / str(number), *settings) for number, settings in enumerate(((), *SAME_BITS))]
    assert len(set(digests)) == 1
    assert digest(tmp_path / "seed", "training.seed=1") != digests[0], "another seed gives other bits"


def digest(runs, *settings):
    """Train 3 epochs with these settings, and return the digest of the weights."""
    changes = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "hvdtrain", "run", DIGITS, "--ranks", "2", "--set", "training.epochs=3", *changes]
    subprocess.run([*command, "--runs", str(runs)], capture_output=True, timeout=120, check=True)
    (summary,) = runs.glob("*/*/summary.json")
    return json.loads(summary.read_text())["digest"]


@pytest.mark.parametrize(("given", "now"), [("auto", "true"), ("true", "true"), ("false", "false")])
def test_the_opposite_of_a_setting_that_was_given_is_tried(given, now):
    facts = Facts(num_cores=2, mpi="openmpi5", mpi_found="Open MPI 5", has_horovod=True, num_gpus=0)
    prepared = prepare(DIGITS, facts, overrides=(f"launch.yield_when_idle={given}", "launch.num_ranks=2"))
    assert in_force(prepared)["launch.yield_when_idle"] == now


@pytest.mark.parametrize(
    ("num_pairs", "gain", "chosen", "said"),
    [
        (None, None, (), "Nothing is faster than the configuration as it is."),
        (0, None, (), "too seldom to tell (n = 0, at least 3)"),
        (1, (1.2, 1.2, 1.2), (), "too seldom to tell (n = 1, at least 3)"),
        (4, (1.02, 0.99, 1.05), (), "does not win together (1.020, 0.990 to 1.050, n = 4)"),
        (3, (1.04, 1.03, 1.05), (Setting("a.b", "1"),), "Faster by 4.0% (+3.0% to +5.0%, n = 3):\n  a.b=1"),
    ],
)
def test_what_was_found_is_said_with_how_often_it_was_measured(num_pairs, gain, chosen, said):
    text = tuned_text(Tuned((), chosen, gain, num_pairs, 60.0, 2, is_out_of_time=num_pairs == 0))
    assert said in text
    assert ("The time was up before everything was measured (0 of 2 settings were tried)" in text) == (num_pairs == 0)


def test_a_file_that_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "mine.yaml").write_text("precious")
    result = tune("--out", "mine.yaml", cwd=tmp_path, code=2)
    assert "exists" in result.stderr
    assert (tmp_path / "mine.yaml").read_text() == "precious"


def test_a_file_without_a_directory_is_refused_before_anything_is_measured(tmp_path):
    result = tune("--out", "nowhere/t.yaml", cwd=tmp_path, code=2)
    assert "'--out': there is no directory nowhere; make it first" in result.stderr
    assert not list(tmp_path.iterdir())


def test_mirrored_has_nothing_to_tune(tmp_path):
    result = tune("--strategy", "mirrored", "--ranks", "1", "--out", "t.yaml", cwd=tmp_path, code=2)
    assert "MirroredStrategy" in result.stderr
    assert not (tmp_path / "t.yaml").exists()
