"""The workshop's ladder: its models, its statistics, and a short one for real, stopped and gone on with."""

import csv
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from hvdtrain.ladderdir import find_ladder
from hvdtrain.study.ladder_table import Outcome, few_cells, published_error, score_cells, scores, step_cells, steps
from hvdtrain.study.robustness import CHANGED, robustness_table
from hvdtrain.study.rungs import BY_NAME, RUNGS, Climb, Question, config_of, seeds_of
from tests.browser import find_browser, open_page
from tests.conftest import missing

pytestmark = pytest.mark.beside


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_models_have_the_workshops_number_of_parameters(rung):
    from hvdtrain.workshop import models

    assert getattr(models, rung.function)(**rung.args).count_params() == rung.parameters


def test_a_rungs_configuration_is_the_workshops_recipe_at_any_number_of_ranks():
    for ranks in (1, 2, 4):
        config = config_of(Climb("cnn_dropout", 3), data="mnist", num_ranks=ranks)
        assert config["training"] == {"global_batch_size": 32, "seed": 3, "epochs": 15}
        assert config["optimizer"] == {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9}
        assert config["launch"] == {"num_ranks": ranks}


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("size", [1, 10, 100, 1000, 5000])
def test_few_examples_make_several_steps_of_batches_that_ranks_can_share(size, ranks):
    training = config_of(Climb("fc_64_64", 0, size), data="mnist", num_ranks=ranks)["training"]
    batch = training["global_batch_size"]
    assert batch % ranks == 0
    assert 10 * size // batch >= (4 if 10 * size >= 4 * ranks else 1)
    assert BY_NAME["fc_64_64"].epochs <= training["epochs"] <= 4 * BY_NAME["fc_64_64"].epochs
    used = 10 * size * training["epochs"]
    assert Climb("fc_64_64", 0, size).work == pytest.approx(used / (60_000 * BY_NAME["fc_64_64"].epochs))


def test_seeds_are_given_to_all_or_by_the_beginning_of_names():
    assert seeds_of("2", ["cnn_one", "fc_64_64"]) == {"fc_64_64": 2, "cnn_one": 2}
    assert seeds_of("fc_64:5,fc:4,3", ["fc_512_512", "cnn_one", "fc_64_64"]) == {
        "fc_64_64": 5, "fc_512_512": 4, "cnn_one": 3,
    }  # fmt: skip
    for wrong in ("", "0", "x", "fc:2", "fc:-1,cnn:1"):
        with pytest.raises(ValueError, match="no number of seeds"):
            seeds_of(wrong, ["fc_64_64", "cnn_one"])


def test_every_training_comes_once_and_first_seeds_first():
    question = Question("mnist", 2, {"fc_64_64": 3, "cnn_one": 1}, (10, 100), ("cnn_one",))
    climbs = list(question.climbs())
    assert len(climbs) == len(set(climbs)) == 3 + 1 + 2
    assert [climb.rung for climb in climbs[:2]] == ["fc_64_64", "cnn_one"]
    assert len({climb.name for climb in climbs}) == len(climbs)


def drawn(name: str, mean: float, spread: float, n: int, chance: random.Random) -> list[Outcome]:
    return [Outcome(name, seed, chance.gauss(mean, spread), 60.0, 7) for seed in range(n)]


def test_a_step_of_noise_is_called_noise_and_a_real_one_is_not():
    chance = random.Random(1)
    verdicts: dict[float, list[str]] = {0.0: [], 0.5: []}
    for gain, found in verdicts.items():
        for _ in range(200):
            outcomes = drawn("fc_64_64", 98.0, 0.1, 10, chance) + drawn("fc_512_512", 98.0 + gain, 0.1, 10, chance)
            found.append(steps(scores(outcomes))[0].verdict)
    assert 0.01 <= 1 - verdicts[0.0].count("noise") / 200 <= 0.1, "1 of 20"
    assert verdicts[0.5].count("better") == 200


def test_means_and_errors_are_those_of_the_seeds():
    outcomes = drawn("fc_64_64", 97.5, 0.2, 5, random.Random(2))
    (score,) = scores(outcomes)
    values = [one.accuracy for one in outcomes]
    assert score.mean == pytest.approx(statistics.fmean(values))
    assert score.error == pytest.approx(statistics.stdev(values) / 5**0.5)
    (cells,) = score_cells([score], is_mnist=True)
    assert cells[2] == "97.55"
    assert score_cells([score], is_mnist=False)[0][2] == "", "nothing is published on digits"


def test_one_seed_cannot_tell_a_step_from_noise():
    found = steps(scores([Outcome("fc_64_64", 0, 97.0, 1.0, 7), Outcome("fc_512_512", 0, 99.0, 1.0, 7)]))
    assert found[0].verdict == "one seed: cannot be told from noise"
    assert step_cells(found, is_mnist=True)[0][1] == "+0.66 (more than noise)"
    assert published_error(99.19) == pytest.approx(0.0896, rel=1e-2)


def test_few_examples_are_a_table_of_their_own():
    outcomes = [Outcome("cnn_one", 0, 90.0, 1.0, 7, 10), Outcome("cnn_one", 0, 95.0, 1.0, 7, 100)]
    assert scores(outcomes) == []
    assert [cells[1] for cells in few_cells(scores(outcomes, is_whole=False))] == ["10", "100"]


def test_so_many_of_each_class_are_drawn_by_the_seed():
    from hvdtrain.errors import UserCodeError
    from hvdtrain.known_data import known_num_examples
    from hvdtrain.workshop.data import digits

    (x, y), (x_test, _) = digits(examples_per_class=7, subset_seed=1)
    assert np.bincount(y).tolist() == [7] * 10
    assert len(y) == known_num_examples("hvdtrain.workshop.data:digits", {"examples_per_class": 7})
    assert len(x_test) == 360
    assert not np.array_equal(digits(examples_per_class=7, subset_seed=2)[0][0], x)
    with pytest.raises(UserCodeError, match="must be 1 to 133; got 134"):
        digits(examples_per_class=134)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--models", "cnn_on"], "did you mean 'cnn_one'"),
        (["--seeds", "fc:2"], "no number of seeds for cnn_one"),
        (["--examples-per-class", "ten"], "numbers with commas between them"),
        (["--examples-per-class", "5,134"], "at most 133 on digits; got 134"),
        (["--resume", "nowhere"], "no ladder 'nowhere'"),
        (["--seeds", "3", "--models", "cnn_one", "--resume"], "takes --studies alone; got --seeds, --models"),
    ],
)
def test_bad_input_is_explained_before_anything_starts(words, said, tmp_path):
    result = ladder(*words, cwd=tmp_path, code=None)
    assert result.returncode in (2, 4)
    assert said in result.stderr
    assert not list(tmp_path.iterdir())


def ladder(*words, cwd, code=0):
    result = subprocess.run(command(*words), cwd=cwd, env=environ(), capture_output=True, text=True, check=False)
    assert code is None or result.returncode == code, result.stdout + result.stderr
    return result


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "hvdtrain", "ladder", *words]


def environ() -> dict[str, str]:
    return {**os.environ, "HVDTRAIN_DATA": "/nonexistent"}


@pytest.mark.thorough
def test_a_ladder_that_was_stopped_goes_on_to_table_pictures_and_page(tmp_path, require_horovod):
    words = ("--ranks", "2", "--models", "fc_64_64,cnn_one", "--seeds", "1", "--examples-per-class", "5")
    said, started = tmp_path / "said", command(*words)
    with open(said, "w") as file, subprocess.Popen(started, cwd=tmp_path, env=environ(), stderr=file) as process:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("studies/ladder/*/runs/*/run/metrics.jsonl"))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
    talk = said.read_text()
    assert process.returncode == 130, talk
    found = find_ladder("", tmp_path / "studies")
    assert f"hvdtrain ladder --resume {found.short_id}" in talk
    assert "digits" in talk, "MNIST is not at hand, and that must be said"

    result = ladder("--resume", cwd=tmp_path)
    assert "2 of 3 trainings to do" in result.stderr
    with open(found.table("csv"), encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["seed"]) for row in rows] == [
        ("fc_64_64", "0"), ("cnn_one", "0"), ("cnn_one", "0"),
    ]  # fmt: skip
    assert all(float(row["accuracy"]) > 85 for row in rows if not row["examples_per_class"])
    assert "FC 64-64" in result.stdout
    config = yaml.safe_load(found.config(Climb("cnn_one", 0)).read_text())
    assert config["training"]["global_batch_size"] == 32

    with np.load(found.pictures("cnn_one")) as pictures:
        assert pictures["confusion"].sum() == 360
        assert np.trace(pictures["confusion"]) == pictures["right"].sum()
        assert pictures["filters"].shape == (32, 3, 3)
        assert (pictures["worst_true"] != pictures["worst_seen"]).all()
        accuracy = 100 * pictures["right"].mean()
    assert accuracy == pytest.approx(float(rows[1]["accuracy"]), abs=1e-3), "pictures are of the model in the table"
    check_robustness(found.run(Climb("cnn_one", 0)).path, accuracy)
    if find_browser() is None:
        missing("browser", "there is no Chromium")
    opened = open_page(found.report, "figure")
    assert opened.console == []
    assert len(opened.items) == 2 + 4 * 2
    assert all(item["paths"] > 5 or "worst" in item["id"] or "filters" in item["id"] for item in opened.items)


def check_robustness(run, accuracy):
    """Any run can be evaluated on changed test images: nothing changed is what is known, and more noise is worse."""
    words = [sys.executable, "-m", "hvdtrain", "evaluate", str(run), "--robustness"]
    found = json.loads(subprocess.run([*words, "--json"], capture_output=True, text=True, check=True).stdout)
    robust = {name: 100 * value for name, value in found[0]["accuracy"].items()}
    assert list(robust) == [one.name for one in CHANGED]
    assert robust["unchanged"] == pytest.approx(accuracy)
    assert robust["unchanged"] > robust["rotation_30"] > robust["rotation_45"]
    assert robust["noise_01"] > robust["noise_05"]
    assert robustness_table({"a": found[0]["accuracy"]}).count("\n") == len(CHANGED)
