"""Kill the writer of checkpoints at every call that changes the disk: `python -m tests.harness.kill_writer`.

1,100 cases, a few more than there are places. In each an ordinary process saves checkpoint after checkpoint and is
killed (SIGKILL) before, halfway through or after its Nth open, write, fsync, rename, mkdir, unlink or rmdir; in every
second case another process goes on and is killed as well. Then, each time: the newest checkpoint loads without a
complaint and is bit for bit the last one completed or the one in progress, every other visible one is whole, and the
next save works.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from hvdtrain.train import checkpoint
from hvdtrain.train.checkpoint import Checkpoint
from tests.harness import resumable, saves

NUM_CASES = 1100
HOW = ("before", "half", "after")
FIRST = 3
FOREVER = 10**9
SOURCE = Path(__file__).with_name("kill.c")


@cache
def shim() -> Path:
    """Return the compiled library that kills."""
    library = Path(tempfile.mkdtemp(prefix="hvdtrain-kill-"), "kill.so")
    flags = ["-std=gnu17", "-shared", "-fPIC", "-O1", "-U_FORTIFY_SOURCE", "-Wall", "-Werror"]
    subprocess.run(["cc", *flags, "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return library


def preloaded() -> dict[str, str]:
    """Return an environment in which every new process carries the library."""
    return {**os.environ, "LD_PRELOAD": str(shim()), "PYTHONPATH": str(Path(__file__).parents[2])}


def start_saves(root: Path, first: int, layout: int, at: int, how: int) -> tuple[int, list[str]]:
    """Run a row of saves with a kill armed; return the exit code and what the process said."""
    words = [str(root), *map(str, (first, layout, at, how))]
    done = subprocess.run(
        [sys.executable, "-m", "tests.harness.saves", *words], env=preloaded(), stdout=subprocess.PIPE, check=False
    )
    return done.returncode, done.stdout.decode().splitlines()


@cache
def num_points(layout: int) -> int:
    """Return how many calls of a whole row of saves change the disk."""
    with tempfile.TemporaryDirectory() as folder:
        code, lines = start_saves(Path(folder, "ckpt"), FIRST, layout, FOREVER, 0)
    assert code == 0, lines
    return int(lines[-1].removeprefix("passed "))


@cache
def points() -> list[tuple[int, int, int]]:
    """Return every (layout, call, how) there is, in a fixed order without a pattern."""
    found = [
        (layout, at, how)
        for layout in range(len(saves.LAYOUTS))
        for at in range(1, num_points(layout) + 1)
        for how in range(len(HOW))
    ]
    random.Random(0).shuffle(found)
    return found


def one_case(case: int) -> dict[str, Any]:
    """Kill once or twice, look each time, save again. Raises AssertionError where a promise is broken."""
    layout, at, how = points()[case % len(points())]
    row: dict[str, Any] = {"layout": layout, "at": at, "how": HOW[how], "kills": 1}
    folder = Path(tempfile.mkdtemp(prefix="hvdtrain-kill-"))
    try:
        found, row["found"] = kill_and_look(folder / "ckpt", None, layout, at, how)
        if case % 2:
            again = random.Random(case).randint(1, num_points(layout) // 2)
            found, row["found2"] = kill_and_look(folder / "ckpt", found, layout, again, case % 3)
            row |= {"kills": 2, "at2": again}
        save_again(folder / "ckpt", found)
    finally:
        shutil.rmtree(folder)
    return row


def kill_and_look(
    root: Path, before: Checkpoint | None, layout: int, at: int, how: int
) -> tuple[Checkpoint | None, str]:
    """Kill a row of saves that goes on from `before`; return what is there then, and which of the saves that is."""
    first = before.step if before else FIRST
    code, lines = start_saves(root, first, layout, at, how)
    assert code == -9, f"not killed at {at}: exit code {code}, {lines}"
    begun, done = (
        max((int(line.split()[1]) for line in lines if line.startswith(word)), default=-1) for word in ("begin", "done")
    )
    found, complaints = checkpoint.load_newest(root)
    assert complaints == []
    for directory in checkpoint.checkpoints(root):
        checkpoint.verify(directory)
    last = saves.make(first, done, layout) if done >= 0 else before
    if is_same(found, last):
        return found, "last"
    state = found and found.state
    assert begun > done, f"{state} is not what save {done} wrote"
    assert is_same(found, saves.make(first, begun, layout)), f"{state} is of neither save {done} nor {begun}"
    return found, "next"


def is_same(found: Checkpoint | None, expected: Checkpoint | None) -> bool:
    """Tell whether a checkpoint is the expected one, to the bit."""
    if found is None or expected is None:
        return found is expected
    return (
        found.step == expected.step
        and found.state["save"] == expected.state["save"]
        and list(found.arrays) == list(expected.arrays)
        and all(found.arrays[name].tobytes() == array.tobytes() for name, array in expected.arrays.items())
    )


def save_again(root: Path, found: Checkpoint | None) -> None:
    """The next save works, is the newest, and leaves nothing else behind."""
    new = Checkpoint((found.step if found else 0) + 1, {"epochs_done": 1, "save": "again"}, {})
    checkpoint.save(root, new, keep=2)
    assert is_same(checkpoint.load_newest(root)[0], new)
    assert all(path.name.startswith("step_") for path in root.iterdir()), list(root.iterdir())


def main() -> None:
    rows = resumable.run("kill_writer", resumable.num_cases_wanted(__doc__, NUM_CASES), one_case)
    kills = sum(row["kills"] for row in rows)
    found = {which: sum(row["found"] == which for row in rows) for which in ("last", "next")}
    places = len({(row["layout"], row["at"], row["how"]) for row in rows})
    print(f"{len(rows)} cases at {places} of {len(points())} places, {kills} kills: always a loadable state ({found})")


if __name__ == "__main__":
    main()
