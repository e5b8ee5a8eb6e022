"""Short forms of two long harnesses, and their control: Keras's own saving in place."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from tests.conftest import PROJECT, missing
from tests.harness import damage, kill_writer, saves


@pytest.fixture(scope="module")
def require_compiler() -> None:
    if shutil.which("cc") is None:
        missing("compiler", "there is no C compiler for the library that kills")


def test_a_writer_killed_at_any_call_leaves_a_loadable_state(require_compiler):
    """Forty places of all; `python -m tests.harness.kill_writer` does every one."""
    rows = [kill_writer.one_case(case) for case in range(40)]
    assert sum(row["kills"] for row in rows) == 60
    assert {row["found"] for row in rows} == {"last", "next"}
    assert len({(row["layout"], row["at"], row["how"]) for row in rows}) == 40


def test_every_kind_of_call_is_a_point(require_compiler):
    """Per save at least: a directory, three files opened, written and synced, two directories synced, one rename."""
    assert all(kill_writer.num_points(layout) > 14 * len(saves.STEPS_ON) for layout in range(len(saves.LAYOUTS)))


def test_bit_flips_and_truncations_are_all_found():
    bench = damage.Bench()
    try:
        rows = [bench.one_case(case) for case in range(400)]
    finally:
        bench.close()
    assert {row["file"] for row in rows} == set(damage.FILES)
    assert {row["outcome"] for row in rows} == {"older used", "explained", "read"}


def test_control_saving_in_place_fails_both(require_compiler):
    done = subprocess.run(
        [sys.executable, "-m", "tests.harness.keras_in_place", "--kills", "40", "--damages", "200"],
        env=kill_writer.preloaded(), cwd=PROJECT, stdout=subprocess.PIPE, timeout=300, check=True,
    )  # fmt: skip
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["kills"].get("not loadable", 0) + counts["kills"].get("wrong weights without a word", 0) > 10
    assert counts["damages"].get("wrong weights without a word", 0) > 10
