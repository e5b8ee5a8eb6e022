"""What is written for TensorBoard, without ranks: events, folders that go, pictures, settings."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from hvdtrain.config_file import load_config
from hvdtrain.errors import ConfigError, NotFoundError
from hvdtrain.shown_runs import shown_runs
from hvdtrain.train import events
from hvdtrain.train.board import CLOSE_S, EPOCHS, MAX_WAITING, Board
from hvdtrain.train.callbacks.curves import MAX_RANKS, by_rank
from hvdtrain.train.callbacks.speed import Lap
from hvdtrain.train.events import Event, Summary
from hvdtrain.train.images import classes_of
from hvdtrain.train.mistakes import Mistakes, as_shares
from tests.conftest import PROJECT


def scalar(tag: str, value: float) -> Callable[[], Any]:
    return lambda: events.scalars({tag: value})


def test_what_cannot_be_made_is_left_out_and_said_once(tmp_path: Path):
    said: list[str] = []
    board = Board(tmp_path, last_step=0, say=said.append)
    for step in range(3):
        board.add(EPOCHS, step, lambda: [1 / 0])
        board.add(EPOCHS, step, scalar("a", 1.0))
    board.close()
    assert said == ["warning: left out of TensorBoard: ZeroDivisionError: division by zero"]
    found = [event.step for event in events_of(tmp_path / EPOCHS) if event.summary.value]
    assert found == [0, 1, 2]


def events_of(folder: Path) -> list[Event]:
    return [event for path in folder.glob(events.FILES) for _, event in events.records(path.read_bytes())]


def test_a_folder_that_cannot_be_made_ends_curves_not_training(tmp_path: Path):
    said: list[str] = []
    (tmp_path / "file").write_text("")
    board = Board(tmp_path / "file", last_step=0, say=said.append)
    for step in range(MAX_WAITING // 2):
        board.add(EPOCHS, step, scalar("a", 1.0))
    began = time.monotonic()
    board.close()
    assert time.monotonic() - began < CLOSE_S / 2, "what nobody can write is not waited for"
    assert len(said) == 1
    assert "no more curves for TensorBoard are written" in said[0]
    assert "training goes on" in said[0]


def test_a_disk_that_stands_still_is_not_waited_for(tmp_path: Path):
    said: list[str] = []
    disk = threading.Event()

    def stand_still() -> list[Any]:
        disk.wait(60)
        return []

    board = Board(tmp_path, last_step=0, say=said.append)
    board.add(EPOCHS, 0, stand_still)
    began = time.monotonic()
    for step in range(1, 2 * MAX_WAITING):
        board.add(EPOCHS, step, scalar("a", 1.0))
    assert time.monotonic() - began < 10
    disk.set()
    board.close()
    assert said == ["warning: points are left out of TensorBoard: the disk does not keep up"]
    steps = [event.step for event in events_of(tmp_path / EPOCHS) if event.summary.value]
    assert MAX_WAITING - 1 <= len(steps) <= MAX_WAITING + 1
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.parametrize("last_step", [0, 3, 10])
def test_cutting_keeps_what_is_not_later_byte_by_byte(last_step: int, tmp_path: Path):
    file = events.EventFile(tmp_path)
    for step in range(1, 6):
        file.write(Event(step=step, summary=Summary(value=events.scalars({"a": float(step)}))))
    file.close()
    (path,) = tmp_path.glob(events.FILES)
    whole = path.read_bytes()
    events.cut(tmp_path, last_step=last_step)
    if last_step == 0:
        assert not path.exists()
        return
    assert whole.startswith(path.read_bytes())
    # TensorFlow's own reader checks the checksums.
    kept = [Event.FromString(raw.numpy()).step for raw in tf.data.TFRecordDataset(str(path))]
    assert kept == [0, *range(1, min(last_step, 5) + 1)]


def test_a_histogram_of_nothing_finite_is_empty():
    value = events.histogram("w", np.array([np.nan, np.inf]))
    assert tf.make_ndarray(value.tensor).shape == (0, 3)


def test_many_ranks_are_shown_by_their_range():
    laps = [Lap(10, 100 * (rank + 1), 1.0, 0.01) for rank in range(MAX_RANKS + 1)]
    found = by_rank(laps)
    assert found["examples_per_s by rank/lowest"] == 100
    assert found["examples_per_s by rank/median"] == 900
    assert found["examples_per_s by rank/highest"] == 1700
    assert found["exposed_communication_ms by rank/median"] == pytest.approx(1.0)
    assert len(by_rank(laps[:2])) == 4
    assert by_rank([]) == by_rank(laps[:1]) == {}
    unknown = [Lap(10, 100, 1.0, None), Lap(10, 100, 1.0, 0.01)]
    assert list(by_rank(unknown)) == ["examples_per_s by rank/0000", "examples_per_s by rank/0001"]


@pytest.mark.parametrize("exposed_s", [None, 0.25])
def test_a_lap_travels_as_numbers(exposed_s: float | None):
    lap = Lap(4, 128, 0.5, exposed_s)
    assert Lap.of_row(lap.row() + 0.0) == lap


def test_targets_that_are_no_classes():
    assert classes_of(np.array([[0.2, 0.8]])) is None
    assert classes_of(np.array([[3.0], [1.0]])).tolist() == [3, 1]  # type: ignore[union-attr]


def test_logits_are_turned_into_shares():
    shares = as_shares(np.array([[2.0, -1.0, 0.5]]))
    assert shares is not None
    assert shares.sum() == pytest.approx(1)
    assert shares.argmax() == 0


def test_the_most_certain_mistakes_come_first():
    found = Mistakes(np.zeros((3, 1, 1)), np.arange(3), np.arange(3), np.array([0.5, 0.9, 0.7]))
    assert found.worst(2).true.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("tensorboard.profile_steps=[9, 3]", "tensorboard.profile_steps: first step 9 comes after last step 3"),
        ("tensorboard.profile_steps=[9]", "tensorboard.profile_steps"),
        ("tensorboard.image=3", "tensorboard.image: unknown key; did you mean 'images'?"),
        ("tensorboard.images=-1", "tensorboard.images: must be"),
    ],
)
def test_wrong_settings_are_explained(setting: str, words: str):
    with pytest.raises(ConfigError) as error:
        load_config(PROJECT / "configs" / "digits_cnn.yaml", [setting])
    assert words in str(error.value)


def test_a_profile_and_a_timeline_exclude_each_other():
    with pytest.raises(ConfigError, match="leave one of the two out"):
        load_config(PROJECT / "configs" / "digits_cnn.yaml", ["tensorboard.profile_steps=[3, 9]", "timeline={}"])


def make_run(place: Path, *, has_curves: bool = True) -> Path:
    (place / "tensorboard" if has_curves else place).mkdir(parents=True)
    (place / "plan.json").write_text("{}")
    return place


def test_one_run_or_all_below_a_directory(tmp_path: Path):
    root = tmp_path / "runs"
    one = make_run(root / "a" / "20260101-000000-abcdef")
    make_run(root / "a" / "20260102-000000-123456", has_curves=False)
    deep = make_run(tmp_path / "studies" / "ladder" / "x" / "runs" / "fc" / "run")
    make_run(deep / "inside")
    assert shown_runs("abcdef", root).folder == one / "tensorboard"
    by_name = shown_runs("a", root)
    assert (by_name.folder, [run.path for run in by_name.runs]) == (root / "a", [one])
    assert [run.path for run in shown_runs(str(tmp_path / "studies"), root).runs] == [deep]
    (tmp_path / "empty").mkdir()
    for name, words in [
        (str(tmp_path / "empty"), "no run in it"),
        ("123456", "no curves yet"),
        ("x" * 5000, "no run"),
    ]:
        with pytest.raises(NotFoundError, match=words):
            shown_runs(name, root)
    assert os.path.isabs(by_name.folder)
