"""Comparing two studies: noise is not a difference, and a difference is not noise."""

import json
import subprocess
import sys

import pytest

from hvdtrain.study.compare import differences
from hvdtrain.study.expand import Question
from hvdtrain.study.sample import sample_of
from hvdtrain.study.scaling_table import make_table
from hvdtrain.studydir import StudyDir, write_study
from tests.test_sample import measurement, rank

QUESTION = Question("c.yaml", (1, 2), "weak", 5, 10.0, 50, "real")
NOISE = (1.0, 1.01, 0.99, 1.005, 0.995)


def study(factor=1.0, repeats=5):
    samples = []
    for repeat, noise in enumerate(NOISE[:repeats]):
        samples.append(sample_of(measurement(rank()), kind="ranks", repeat=repeat))
        slow = rank(step=0.011 * factor * noise, function=0.0105 * factor * noise)
        samples.append(sample_of(measurement(slow, slow), kind="ranks", repeat=repeat))
    return make_table(QUESTION, samples)


def test_the_same_twice_does_not_differ():
    found, compared = differences(study(), study(1.001))
    assert found == []
    assert compared > 0


def test_a_tenth_slower_is_seen_and_called_worse():
    found, _ = differences(study(), study(1.1))
    assert {(one.size, one.quantity) for one in found} >= {("2", "examples/s"), ("2", "efficiency")}
    assert not any(one.is_better for one in found)
    assert all(one.is_better for one in differences(study(1.1), study())[0])


def test_two_repeats_are_too_few_to_tell():
    assert differences(study(repeats=2), study(1.1, repeats=2))[0] == []


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_studies_of_too_few_repeats_are_an_error_in_every_form(words, tmp_path):
    for name in ("a", "b"):
        study_dir = StudyDir(tmp_path / "c" / f"now-{name}")
        write_study(study_dir, "c", QUESTION)
        rows = [{"kind": "ranks", "repeat": repeat, **measurement(rank())} for repeat in range(2)]
        study_dir.measurements.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "hvdtrain", "compare", "a", "b", "--studies", str(tmp_path), *words]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert "nothing can be compared" in result.stderr


def test_speedup_is_taken_within_a_repeat():
    table = study()
    assert [row.num_ranks for row in table.sizes] == [1, 2]
    assert table.sizes[0].speedup is not None
    assert table.sizes[0].speedup.median == 1
    speedup = table.sizes[1].speedup
    assert speedup is not None
    assert abs(speedup.median - 2 / 1.1) < 0.05
