"""`hvdtrain predict`: the whole way from Kaggle's train.csv to a submission, alone and by two ranks."""

import csv
import io
import json
from pathlib import Path

import keras
import numpy as np
import pytest

from hvdtrain import predicting
from hvdtrain.config import Config
from hvdtrain.csv_table import read_table
from hvdtrain.errors import ConfigError, NotFoundError, UserCodeError
from hvdtrain.facts import assumed_facts
from hvdtrain.prepare import new_run, prepare
from hvdtrain.rundir import RunDir
from hvdtrain.train import trainer
from hvdtrain.train.comm import SoloComm
from hvdtrain.train.console import Console
from hvdtrain.train.job import Job
from hvdtrain.train.predict import Kind, answers_of, predict
from hvdtrain.workshop.data import digits
from tests.conftest import PROJECT
from tests.workdir import Workdir

pytestmark = pytest.mark.beside

HELD_OUT = 37
PIXELS = ",".join(f"pixel{number}" for number in range(784))


def large(images: np.ndarray) -> np.ndarray:
    """Return digits of 8 x 8 as Kaggle has them: 28 x 28 whole numbers up to 255, one row each."""
    three_fold = np.kron(255 * images[..., 0], np.ones((1, 3, 3)))
    return np.pad(three_fold, ((0, 0), (2, 2), (2, 2))).round().astype(int).reshape(len(images), -1)


def write_csv(path: Path, header: str, rows: np.ndarray) -> None:
    np.savetxt(path, rows, fmt="%d", delimiter=",", header=header, comments="")


class Contest:
    """A folder with Kaggle's two files, the right answers, and a run of the exercise that has ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (x, y), (x_test, self.answers) = digits()
        self.pixels = large(x_test)
        write_csv(folder / "train.csv", f"label,{PIXELS}", np.c_[y, large(x)])
        write_csv(folder / "test.csv", PIXELS, self.pixels)
        changes = {
            "data.args.path": folder / "train.csv",
            "data.args.held_out": HELD_OUT,
            "data.num_examples": len(y) - HELD_OUT,
            "model.source": "hvdtrain.workshop.models:fully_connected",
            "model.args.input_shape": "[28, 28, 1]",
            "training.epochs": 5,
            "training.global_batch_size": 32,
            "launch.num_ranks": 1,
        }
        overrides = [f"{key}={value}" for key, value in changes.items()]
        config = str(PROJECT / "configs" / "exercises" / "digit_recognizer.yaml")
        prepared = prepare(config, assumed_facts(), overrides=overrides)
        self.run = new_run(prepared, folder / "runs")
        self.said = io.StringIO()
        console = Console(self.said, has_bar=False)
        self.job = Job(plan=prepared.plan, run=self.run, folder=folder, comm=SoloComm(), console=console)
        self.summary = trainer.train(self.job)

    def predict(self, source: str, output: str) -> dict:
        return predict(self.job, self.folder / source, self.folder / output, "ImageId,Label")


@pytest.fixture(scope="module")
def contest(tmp_path_factory, require_horovod) -> Contest:
    return Contest(tmp_path_factory.mktemp("contest"))


def read(path: Path) -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_a_submission_has_kaggles_form_and_the_right_order(contest):
    done = contest.predict("test.csv", "alone.csv")
    rows = read(contest.folder / "alone.csv")
    assert rows[0] == ["ImageId", "Label"]
    assert [row[0] for row in rows[1:]] == [str(number) for number in range(1, 361)]
    labels = np.array([int(row[1]) for row in rows[1:]])
    assert (labels == contest.answers).mean() > 0.85
    assert (done["rows"], done["step"], done["notes"]) == (360, contest.summary["step"], [])
    assert contest.summary["stand_in_for"] is None
    assert "NOT REAL" not in contest.said.getvalue()


def test_probabilities_are_those_of_the_model_and_agree_with_the_labels(contest):
    contest.predict("test.csv", "alone.npy")
    found = np.load(contest.folder / "alone.npy")
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    np.save(contest.folder / "images.npy", contest.pixels)
    np.savez(contest.folder / "images.npz", anything=contest.pixels)
    for source in ("images.npy", "images.npz"):
        contest.predict(source, "again.npy")
        np.testing.assert_array_equal(np.load(contest.folder / "again.npy"), found)


def test_two_ranks_write_the_same_file(contest):
    contest.predict("test.csv", "alone.csv")
    work = Workdir(contest.folder / "work")
    files = ["--output", "two.csv", "--ranks", "2", "--json"]
    done = work.hvdtrain("predict", str(contest.run.path), str(contest.folder / "test.csv"), *files)
    assert done.code == 0, done.err
    assert json.loads(done.out)["rows"] == 360
    assert (work.path / "two.csv").read_bytes() == (contest.folder / "alone.csv").read_bytes()
    work.assert_nothing_is_left()


def test_inputs_that_do_not_fit_are_refused_with_the_reason(contest, tmp_path):
    (tmp_path / "page.npy").write_bytes(b"<html>")
    np.save(tmp_path / "empty.npy", np.zeros((0, 784)))
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "narrow.npy", contest.pixels[:, 1:])
    for name, said in {
        "page.npy": "is no file of NumPy arrays",
        "empty.npy": "holds no row",
        "objects.npy": "is no file of NumPy arrays",
        "narrow.npy": "a row must have 784 pixels, as test.csv has them, without a label; got rows of shape",
    }.items():
        with pytest.raises(UserCodeError, match=rf"{name}: {said}"):
            predict(contest.job, tmp_path / name, tmp_path / "out.csv", "a,b")
    assert not (tmp_path / "out.csv").exists()


def test_a_first_row_that_lacks_a_value_is_no_header(tmp_path):
    (tmp_path / "gap.csv").write_text("1,,3\n4,5,6\n")
    with pytest.raises(UserCodeError, match=r"gap\.csv:1: value 2 must be a number; got ''"):
        read_table(tmp_path / "gap.csv")


def test_a_header_may_be_in_any_encoding(tmp_path):
    (tmp_path / "latin.csv").write_bytes("höhe,breite\n1,2\n3,4\n".encode("latin-1"))
    assert read_table(tmp_path / "latin.csv").rows.tolist() == [[1, 2], [3, 4]]
    (tmp_path / "mark.csv").write_bytes(b"\xef\xbb\xbf1,2\n3,4\n")
    assert read_table(tmp_path / "mark.csv").rows.tolist() == [[1, 2], [3, 4]]


def test_rows_are_the_models_inputs_where_no_function_is_named(contest, tmp_path):
    from hvdtrain.train.predict import in_shape

    model = keras.Sequential([keras.layers.Input((2, 3)), keras.layers.Flatten()])
    assert in_shape(np.zeros((4, 6)), model, Path("rows.csv")).shape == (4, 2, 3)
    with pytest.raises(UserCodeError, match=r"rows\.csv: has 5 columns, and the model takes .*\(2, 3\); data\.inputs"):
        in_shape(np.zeros((4, 5)), model, Path("rows.csv"))


def test_a_regressions_answers_are_numbers_and_others_are_refused():
    assert answers_of(np.array([[21.5], [1 / 3]], np.float32), Kind("mse")) == [21.5, 0.3333333]
    assert answers_of(np.array([[0.1, 0.9]]), Kind("hvdtrain.workshop.losses:smoothedcrossentropy")) == [1]
    with pytest.raises(UserCodeError, match=r"use --output NAME\.npy"):
        answers_of(np.zeros((3, 4)), Kind("mse"))


@pytest.mark.parametrize("loss", ["binary_crossentropy", "BinaryCrossentropy", "bce", "BinaryFocalCrossentropy"])
def test_a_yes_is_more_than_a_half_or_a_positive_logit(loss):
    outputs = np.array([[-0.3], [0.2], [0.8]])
    for args, answers in (({}, [0, 0, 1]), ({"from_logits": True}, [0, 1, 1])):
        assert answers_of(outputs, Kind.of({"loss": loss, "loss_args": args})) == answers
    with pytest.raises(UserCodeError, match=r"no single answer.*\.npy"):
        answers_of(np.zeros((3, 4)), Kind.of({"loss": loss, "loss_args": {}}))


def test_names_are_checked_before_anything_starts(tmp_path):
    (tmp_path / "x.npy").touch()
    (tmp_path / "there.csv").touch()
    for source, target, error, said in (
        ("x.txt", "out.csv", ConfigError, r"x\.txt: must end in \.npy or \.npz or \.csv"),
        ("x.npy", "out.txt", ConfigError, r"out\.txt: must end in \.npy or \.csv"),
        ("absent.npy", "out.csv", NotFoundError, "there is no such file"),
        ("x.npy", "there.csv", ConfigError, "is there already; .* --force"),
    ):
        with pytest.raises(error, match=said):
            predicting.check_names(tmp_path / source, tmp_path / target, force=False)
    predicting.check_names(tmp_path / "x.npy", tmp_path / "there.csv", force=True)
    for header in ("", "one", "a,b,c", 'a","b'):
        with pytest.raises(ConfigError, match="must be two names"):
            predicting.check_header(header)


def test_predictions_of_a_run_on_a_stand_in_say_so(contest, tmp_path):
    config = Config.model_validate(
        {
            "name": "houses",
            "model": {"source": "hvdtrain.workshop.exercises:house_prices"},
            "data": {"source": "hvdtrain.workshop.data:boston_housing", "args": {"stand_in": "always"}},
            "training": {"epochs": 1, "global_batch_size": 64},
            "optimizer": {"name": "adam"},
            "loss": "mse",
            "metrics": ["mae"],
        }
    )
    from hvdtrain.plan import make_plan

    said = io.StringIO()
    run = RunDir(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    console = Console(said, has_bar=False)
    job = Job(plan=make_plan(config, assumed_facts()), run=run, folder=tmp_path, comm=SoloComm(), console=console)
    assert trainer.train(job)["stand_in_for"] == "boston_housing"
    assert said.getvalue().count("WARNING: NOT REAL DATA") == 1
    assert "accuracy" not in said.getvalue()
    assert "val_mae" in said.getvalue()
    np.save(tmp_path / "x.npy", np.zeros((3, 13), np.float32))
    done = predict(job, tmp_path / "x.npy", tmp_path / "y.csv", "Id,Price")
    assert done["notes"] == ["the run was trained on made-up data (stand_in)"]
    rows = read(tmp_path / "y.csv")
    assert rows[0] == ["Id", "Price"]
    assert rows[1][1] == rows[2][1] == rows[3][1]
    assert trainer.evaluate(job)["stand_in_for"] == "boston_housing"
