"""A completed save survives a power failure at any moment; and each kind of fsync in it is needed for that."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from hvdtrain.errors import CorruptError
from hvdtrain.train import checkpoint
from tests.harness import saves
from tests.harness.kill_writer import is_same
from tests.harness.power_loss import after_crash, put, recording

FIRST = 3


@pytest.fixture(scope="module")
def ops(tmp_path_factory) -> list:
    """What a row of saves does, the first one in a directory whose parents are new as well."""
    base = tmp_path_factory.mktemp("journal")
    with recording(base) as journal:
        for number in range(len(saves.STEPS_ON)):
            checkpoint.save(base / "runs" / "checkpoints", saves.make(FIRST, number, 0), keep=saves.KEEP)
            journal.note("done", number)
    return journal.ops


def losses(ops: list, folder: Path) -> list[str]:
    """Let the power fail after each operation, four times; return what went wrong."""
    found = []
    for place in range(1, len(ops) + 1):
        done = max((op[1] for op in ops[:place] if op[0] == "done"), default=-1)
        for attempt in range(4):
            put(after_crash(ops[:place], random.Random(f"{place} {attempt}")), folder / "disk")
            problem = look(folder / "disk" / "runs" / "checkpoints", done)
            shutil.rmtree(folder / "disk")
            if problem:
                found.append(f"after {ops[place - 1][:2]}: {problem}")
    return found


def look(root: Path, done: int) -> str:
    try:
        found, complaints = checkpoint.load_newest(root)
    except CorruptError as error:
        return str(error)
    allowed = [None if done < 0 else saves.make(FIRST, done, 0)]
    if done + 1 < len(saves.STEPS_ON):
        allowed.append(saves.make(FIRST, done + 1, 0))
    if complaints or not any(is_same(found, one) for one in allowed):
        return f"save {done} was done, and {found and found.state} is there; {complaints}"
    return ""


def test_a_completed_save_survives_a_power_failure_at_any_moment(ops, tmp_path):
    assert len(ops) > 80
    assert losses(ops, tmp_path) == []


def is_sync(op: tuple, kind: str) -> bool:
    """Tell whether an operation is the fsync of a file, of a new checkpoint's directory, of their root or above it."""
    if op[0] != "sync":
        return False
    _, path, content = op
    if content is not None:
        return kind == "file"
    return kind == {0: "parents", 1: "parents", 2: "root", 3: "new"}[len(path)]


@pytest.mark.parametrize("kind", ["file", "new", "root", "parents"])
def test_control_without_one_kind_of_fsync_something_is_lost(ops, tmp_path, kind):
    without = [op for op in ops if not is_sync(op, kind)]
    assert len(without) < len(ops)
    assert losses(without, tmp_path)
