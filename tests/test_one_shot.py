"""One-shot learning: the data it begins with, the drawing of examples, and the table of a real run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hvdtrain.errors import UserCodeError
from hvdtrain.known_data import ONE_SHOT, known_num_examples
from hvdtrain.workshop.one_shot import known_classes, pixels, score
from tests.conftest import PROJECT

pytestmark = pytest.mark.beside


def test_two_digits_are_left_out_and_the_others_numbered_anew():
    (x, y), (_, y_test) = known_classes(held_out=[0, 5])
    assert len(x) == len(y) == known_num_examples(ONE_SHOT, {"held_out": [0, 5]})
    assert set(y) == set(y_test) == set(range(8))
    (all_x, all_y), _ = known_classes(held_out=[8, 9])
    assert np.array_equal(x[y == 0], all_x[all_y == 1]), "digit 1 is the first that is known"


@pytest.mark.parametrize("held_out", [[1], [1, 1], [1, 10], ["a", "b"], 3])
def test_other_than_two_digits_are_refused(held_out: object):
    with pytest.raises(UserCodeError, match="must be two different digits"):
        known_classes(held_out=held_out)  # type: ignore[arg-type]


def test_directions_that_tell_digits_apart_score_full_and_others_by_chance():
    labels = np.repeat(np.arange(10), 30)
    apart = (np.eye(10)[labels], labels)
    found = score(np.asarray, apart, apart, [3, 7], num_draws=20)
    assert (found.of_two == 1).all()
    assert (found.of_ten == 1).all()
    random = np.random.default_rng(0)
    blind, asked = ((random.normal(size=(300, 50)), labels) for _ in range(2))
    found = score(pixels, blind, asked, [3, 7], num_draws=300)
    assert found.of_two.mean() == pytest.approx(0.5, abs=0.03)
    assert found.of_ten.mean() == pytest.approx(0.1, abs=0.03)


@pytest.mark.thorough
def test_the_example_runs_and_its_table_has_what_was_measured(tmp_path: Path, require_horovod: None):
    run = [sys.executable, "-m", "hvdtrain", "run", str(PROJECT / "configs" / "one_shot.yaml"), "--set"]
    subprocess.run([*run, "training.epochs=6", "--runs", str(tmp_path)], check=True, timeout=300, capture_output=True)
    (place,) = tmp_path.glob("one_shot/*")
    command = [sys.executable, "-m", "hvdtrain.workshop.one_shot", str(place), "--draws", "100"]
    table = subprocess.run(command, check=True, timeout=300, capture_output=True, text=True).stdout
    row = next(line for line in table.splitlines() if line.startswith("| 8 and 9"))
    of_two, of_ten, *_, known = (float(cell.split()[0]) for cell in row.split("|")[2:-1])
    assert of_two > 60
    assert of_ten > 25
    assert known > 90
    assert re.search(r"\| chance +\| 50\.0 +\| 10\.0", table)
    bad = subprocess.run([*command[:3], "nothing"], capture_output=True, text=True, check=False)
    assert bad.returncode == 4
    assert bad.stderr.splitlines()[-1].startswith("hvdtrain: ")
