"""Saves beside the training: one at a time, told when done, errors kept, and finished however the process ends."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from hvdtrain.errors import CorruptError, NoSpaceError
from hvdtrain.train import checkpoint
from hvdtrain.train.background import BackgroundWriter, finish_all
from hvdtrain.train.checkpoint import Checkpoint
from tests.conftest import PROJECT, missing


def make(step: int, size: int = 10) -> Checkpoint:
    return Checkpoint(step, {"epochs_done": step}, {"w": np.full(size, float(step))})


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


@pytest.fixture
def slow_disk(monkeypatch) -> list[threading.Thread]:
    """A disk whose fsync takes 20 ms; returns the thread of each call."""
    threads: list[threading.Thread] = []
    real = os.fsync

    def fsync(descriptor):
        threads.append(threading.current_thread())
        time.sleep(0.02)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return threads


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]).returncode:
        missing("root", "a small file system cannot be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_saves_never_overlap_and_are_told_when_they_can_be_loaded(tmp_path, slow_disk):
    told = []
    writer = BackgroundWriter(tmp_path, keep=9, on_saved=lambda path: told.append(checkpoint.load(path).step))
    began = time.monotonic()
    writer.write(make(1))
    assert time.monotonic() - began < 0.05, "the training must not wait for its own save"
    for step in (2, 3, 4):
        writer.write(make(step))
        assert told == list(range(1, step)), "the one before is on disk, and told"
    writer.flush()
    assert told == [1, 2, 3, 4]
    turns = [thread for thread, _ in itertools.groupby(slow_disk)]
    assert len(turns) == 4, "one thread after another, never two in turns"
    assert threading.main_thread() not in turns


def test_a_full_disk_is_reported_at_the_next_save_and_that_one_is_not_begun(small_disk):
    writer = BackgroundWriter(small_disk, keep=3)
    writer.write(make(1))
    writer.write(make(2, size=100_000))
    with pytest.raises(NoSpaceError, match="no space left for the checkpoint of step 2"):
        writer.write(make(3))
    writer.flush()
    assert names(small_disk) == ["step_00000001"]
    writer.write(make(3))
    writer.flush()
    assert names(small_disk) == ["step_00000001", "step_00000003"]


def test_a_failed_save_is_reported_at_the_end_and_once(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fadvise", lambda descriptor, *rest: os.ftruncate(descriptor, 1))
    writer = BackgroundWriter(tmp_path, keep=3)
    writer.write(make(1))
    with pytest.raises(CorruptError, match="does not read back"):
        writer.flush()
    writer.flush()
    writer.write(make(2))
    assert finish_all(5.0)[0].startswith("the checkpoint of step 2 is lost:")
    assert finish_all(5.0) == []
    assert names(tmp_path) == []


def test_a_failed_save_is_known_without_waiting(tmp_path, monkeypatch, slow_disk):
    monkeypatch.setattr(os, "posix_fadvise", lambda descriptor, *rest: os.ftruncate(descriptor, 1))
    writer = BackgroundWriter(tmp_path, keep=3)
    writer.write(make(1))
    writer.check()
    time.sleep(0.5)
    with pytest.raises(CorruptError):
        writer.check()


def test_what_is_told_may_fail_and_that_is_reported(tmp_path):
    def tell(path):
        raise LookupError(path.name)

    writer = BackgroundWriter(tmp_path, keep=3, on_saved=tell)
    writer.write(make(1))
    with pytest.raises(LookupError, match="step_00000001"):
        writer.flush()


def test_another_rank_waits_for_the_one_that_writes(tmp_path, slow_disk):
    writer = BackgroundWriter(tmp_path, keep=3)
    other = BackgroundWriter(tmp_path, keep=3, is_writer=False)
    writer.write(make(1))
    assert other.finish(10.0) == ""
    assert names(tmp_path) == ["step_00000001"]
    writer.flush()
    (tmp_path / f"{checkpoint.TEMPORARY}step_00000002-1").mkdir()
    began = time.monotonic()
    assert other.finish(0.5) == ""
    assert 0.45 < time.monotonic() - began < 2, "not for ever: the writer may be dead"


PROCESS = """
import os, sys, time
from pathlib import Path
import numpy as np
from hvdtrain.train import background, checkpoint, failure
real = os.fsync
def fsync(descriptor):
    time.sleep(0.1)
    real(descriptor)
os.fsync = fsync
writer = background.BackgroundWriter(Path(sys.argv[1]), keep=3)
writer.write(checkpoint.Checkpoint(1, {"epochs_done": 1}, {"w": np.ones(int(sys.argv[2]))}))
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("raise ValueError('mine')", 1),
        ("failure.fail(ValueError('mine'), rank=0, record=None)", 1),
        ("failure.fail(SystemExit(5), rank=0, record=None)", 5),
        ("failure.install_excepthook(0)\nraise ValueError('mine')", 1),
        ("failure.install_excepthook(0)\nraise KeyboardInterrupt", 130),
    ],
)
def test_a_save_in_flight_is_finished_before_the_process_leaves(tmp_path, end, code):
    done = subprocess.run(
        [sys.executable, "-c", PROCESS + end, str(tmp_path), "10"], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert names(tmp_path) == ["step_00000001"]
    checkpoint.verify(tmp_path / "step_00000001")


def test_control_a_process_that_just_leaves_loses_its_save(tmp_path):
    done = subprocess.run([sys.executable, "-c", PROCESS + "os._exit(4)", str(tmp_path), "10"], cwd=PROJECT)
    assert done.returncode == 4
    assert checkpoint.checkpoints(tmp_path) == []


@pytest.mark.parametrize(
    ("end", "code"), [("", 0), ("failure.fail(ValueError('mine'), rank=0, record=None)", 1)]
)
def test_a_full_disk_is_told_even_at_the_end(small_disk, end, code):
    """Nobody asks the writer any more: the words come all the same, and the exit code stays that of the first error."""
    done = subprocess.run(
        [sys.executable, "-c", PROCESS + end, str(small_disk), "100000"], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == code
    assert done.stderr.count("the checkpoint of step 1 is lost:") == 1
    assert "no space left" in done.stderr
    assert names(small_disk) == []
