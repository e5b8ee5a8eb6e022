"""The benchmark's pure parts: ratios, intervals, tables, commands, and processes that meet."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hvdtrain.bench import overhead, recipe, report, startup, turns
from hvdtrain.bench.arms import ARMS, command_of, default_environment, variant
from hvdtrain.bench.launch import Failure, execute_logged, rows_of, tail
from hvdtrain.bench.machine import Usage, cpu_ticks
from hvdtrain.bench.meeting import Meeting
from hvdtrain.bench.rounds import Launch, Ledger, run_rounds
from hvdtrain.bench.statistics import bootstrap_interval, estimate, paired_ratios, quartiles, rotated
from hvdtrain.bench.table import Target, ratio_row, table
from hvdtrain.bench.task import Task, steps_per_epoch
from hvdtrain.bench.turns import Contender, Gate
from hvdtrain.config_file import load_config
from hvdtrain.facts import assumed_facts
from hvdtrain.train.bench import memory
from hvdtrain.train.bench.stopwatch import Stopwatch, turn_length

QUIET = Usage(load=0.1, steal=0.0, others=0.0, seconds=1.0)


def row(number, arm, model, speed, *, is_disturbed=False):
    return {
        "round": number, "arm": arm, "launch": arm, "model": model, "examples_per_s": speed,
        "load": 0.5, "steal": 0.0, "others": 0.0, "is_disturbed": is_disturbed,
    }  # fmt: skip


def test_ratios_pair_the_same_round_and_skip_holes():
    assert paired_ratios({0: 1.0, 1: 4.0, 3: 9.0}, {1: 2.0, 2: 5.0, 3: 3.0}) == [2.0, 3.0]


def test_estimate_of_one_value_is_that_value():
    found = estimate([0.9])
    assert found is not None
    assert (found.n, found.low, found.median, found.high, found.first_quartile) == (1, 0.9, 0.9, 0.9, 0.9)
    assert estimate([]) is None


def test_quartiles_include_the_ends():
    assert quartiles([1.0, 3.0]) == (1.5, 2.0, 2.5)


def test_bootstrap_interval_is_repeatable_and_covers_the_true_median():
    random_numbers = random.Random(5)
    covered = 0
    for _ in range(40):
        low, high = bootstrap_interval([random_numbers.gauss(1.0, 0.1) for _ in range(15)], num_resamples=400)
        covered += low <= 1.0 <= high
    assert covered >= 34
    values = [0.97, 1.0, 1.02, 0.99, 1.01]
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values) == (0.97, 1.02)


def test_every_arm_comes_first_once():
    names = ["a", "b", "c"]
    assert [rotated(names, number)[0] for number in range(3)] == names
    assert all(sorted(rotated(names, number)) == names for number in range(5))


@pytest.mark.parametrize(
    ("target", "value", "is_met"),
    [
        (Target(0.98), 0.98, True),
        (Target(0.98), 0.979, False),
        (Target(1, is_strict=True), 1.0, False),
        (Target(1, is_strict=True), 1.01, True),
        (Target(1.15, is_upper=True), 1.15, True),
        (Target(1.15, is_upper=True), 1.2, False),
    ],
)
def test_targets(target, value, is_met):
    assert target.is_met(value) is is_met


def test_a_missed_target_and_a_missing_number_are_said():
    assert ratio_row("a / b", "CNN", estimate([0.5]), Target(0.98))[-1] == "NOT MET"
    assert ratio_row("a / b", "CNN", None, Target(0.98))[-1] == "not measured"


def test_markdown_has_a_rule_below_its_head():
    lines = table(("x", "y"), [("1", "22")], markdown=True).splitlines()
    assert lines == ["| x | y  |", "|---|----|", "| 1 | 22 |"]
    assert "|" not in table(("x", "y"), [("1", "22")], markdown=False)


@pytest.mark.parametrize("text", ["x,1", "0", "1,,2", "-1", "²"])
def test_numbers_of_ranks_that_are_none_are_said_in_words(text, capsys):
    with pytest.raises(SystemExit) as end:
        recipe.main(["demo.yaml", f"--ranks={text}"])
    assert end.value.code == 2
    assert f"numbers of at least 1 with commas between them, such as 1,2; got {text!r}" in capsys.readouterr().err


def test_no_text_leaves_its_cell():
    lines = table(("a|b",), [("1\n2",), ("c|d",)], markdown=True).splitlines()
    assert lines == [r"| a\|b |", "|------|", "| 1 2  |", r"| c\|d |"]
    assert table(("a|b",), [], markdown=False) == "a|b"


def test_throughput_tables_hold_ratio_target_and_speeds():
    speeds = {"hvdtrain": 99.0, "ceiling": 100.0}
    rows = [row(number, arm, "cnn", speed) for number in range(3) for arm, speed in speeds.items()]
    text = report.throughput_tables(rows, ["hvdtrain", "ceiling", "default"], ["cnn"], markdown=False)
    ceiling = next(line for line in text.splitlines() if "/ ceiling" in line)
    assert "0.990" in ceiling
    assert ">= 0.98" in ceiling
    assert ceiling.endswith("met")
    assert "not measured" in next(line for line in text.splitlines() if "/ default" in line)


def test_disturbed_launches_can_be_left_out_and_are_counted():
    rows = [row(0, "hvdtrain", "cnn", 1.0), row(1, "hvdtrain", "cnn", 2.0, is_disturbed=True)]
    assert [kept["round"] for kept in report.undisturbed(rows)] == [0]
    assert "1 launches disturbed" in report.circumstances(rows)
    assert Usage(load=1, steal=0.03, others=0, seconds=1).is_disturbed
    assert not QUIET.is_disturbed


def test_all_examples_over_the_slowest_rank():
    part = {"model": "cnn", "examples": 300, "seconds": [2.0, 1.0], "cpu_s": 1.5, "steps": 3}
    part |= {"warmup_steps": 40, "peak_rss_mb": 9.0}
    rows = rows_of([{"models": [part]}, {"models": [{**part, "seconds": [1.0, 2.0]}]}])
    assert rows[0]["examples_per_s"] == 150.0
    assert rows[0]["seconds"] == [[2.0, 1.0], [1.0, 2.0]]


def test_a_failed_launch_is_a_row_with_the_end_of_its_log(tmp_path, capsys):
    ledger = Ledger(tmp_path / "rows.jsonl")
    good = {"model": "cnn", "examples_per_s": 5.0}
    launches: dict[str, tuple[str, Launch]] = {
        "hvdtrain": ("hvdtrain", lambda: ([good], QUIET)),
        "default": ("default", lambda: (Failure(3, "no mpirun"), QUIET)),
    }
    assert run_rounds(2, launches, ledger)
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 4
    assert report.failures_text(ledger.rows).count("no mpirun") == 2
    assert "left" in capsys.readouterr().err


def test_stopping_keeps_what_was_measured():
    def stop():
        raise KeyboardInterrupt

    ledger = Ledger(None)
    launches = {"a": ("a", lambda: ([{"model": "cnn", "examples_per_s": 5.0}], QUIET)), "b": ("b", stop)}
    assert not run_rounds(3, launches, ledger)
    assert len(ledger.rows) == 1


def test_output_of_a_launch_goes_to_its_log(tmp_path):
    command = ["bash", "-c", "echo out; echo err >&2; exit 3"]
    code, _ = execute_logged(command, {"PATH": "/usr/bin:/bin"}, tmp_path / "log")
    assert code == 3
    assert tail(tmp_path / "log") == "out\nerr"


def test_product_and_hand_written_start_alike_and_default_has_none_of_it(monkeypatch):
    monkeypatch.setenv("HOROVOD_CYCLE_TIME", "7")
    facts = assumed_facts()
    product = command_of(ARMS["hvdtrain"], "/x/task.json", facts, 2)
    released = "  HOROVOD_IDLE_WAIT=0\n"
    by_hand = command_of(ARMS["hand-written"], "/x/task.json", facts, 2)
    assert released in by_hand[0][2]
    assert product[0][2] == by_hand[0][2].replace(released, ""), "all else is the same"
    assert "HOROVOD_CYCLE_TIME=0.1\n" in product[0][2]
    command, environ = command_of(ARMS["default"], "/x/task.json", facts, 2)
    assert command[:3] == ["mpirun", "-np", "2"]
    assert "HOROVOD_CYCLE_TIME" not in environ
    assert environ["HOROVOD_IDLE_WAIT"] == "0", "Horovod as it was released"
    assert command_of(ARMS["horovodrun"], "/x/task.json", facts, 2)[0][:2] == ["horovodrun", "--gloo"]
    assert default_environment({"TF_NUM_INTRAOP_THREADS": "1", "HOME": "/h"})["HOME"] == "/h"
    alone = command_of(ARMS["one process"], "/x/task.json", facts, 2)[0][2]
    assert "mpirun" not in alone
    assert "TF_NUM_INTRAOP_THREADS=2" in alone


def test_a_variant_changes_the_environment_last():
    text = command_of(variant("HOROVOD_CYCLE_TIME=5"), "/x/task.json", assumed_facts(), 2)[0][2]
    assert text.index("HOROVOD_CYCLE_TIME=0.1\n") < text.index("HOROVOD_CYCLE_TIME=5")


def test_task_survives_its_file(tmp_path):
    task = Task("hvdtrain", ("cnn", "fc64"), 1.5, 128, 20, 2, str(tmp_path))
    task.write()
    assert Task.read(task.path) == task


def test_epochs_are_whole_executions_within_the_data():
    assert steps_per_epoch(batch_size=128, num_ranks=2, steps_per_execution=20) == 220
    assert steps_per_epoch(batch_size=1000, num_ranks=2, steps_per_execution=20) == 20
    with pytest.raises(ValueError, match="cannot fill"):
        steps_per_epoch(batch_size=60_000, num_ranks=2, steps_per_execution=1)


@pytest.mark.parametrize("executions_per_epoch", [1, 4, 11, 234])
@pytest.mark.parametrize("num_turns", [1, 3, 11])
@pytest.mark.parametrize("wanted", [0.01, 1.4, 700.0])
def test_turns_are_whole_epochs_together_and_about_as_long_as_wanted(executions_per_epoch, num_turns, wanted):
    length = turn_length(wanted, executions_per_epoch, num_turns)
    assert length >= 1
    assert length * num_turns % executions_per_epoch == 0
    assert abs(length - wanted) <= executions_per_epoch


def test_a_turn_begins_after_the_first_epochs_end_and_counts_its_own_executions(tmp_path):
    gates = []

    class Open(Gate):
        def wait(self):
            gates.append(True)

    ranks, gate = Meeting(tmp_path, 0, 1), Open(tmp_path, 0)
    watch = Stopwatch(ranks, gate, num_turns=3, seconds=1e-9, steps_per_epoch=60, steps_per_execution=20)
    is_over = [watch.execution_done() for _ in range(7)]
    assert is_over == [False] * 6 + [True]
    assert (watch.warmup_steps, watch.timed_steps, len(watch.timed_s), len(gates)) == (80, 60, 3, 3)


def test_arms_take_turns_and_stand_still_between_them(tmp_path, monkeypatch):
    program = (
        "import json, sys, time; from pathlib import Path; from hvdtrain.bench.turns import Gate\n"
        "place = Path(sys.argv[1]); gate = Gate(place, 0); gate.wait(); gate.wait()\n"
        "row = {'model': 'cnn', 'examples': 1, 'seconds': [1.0], 'cpu_s': 1, 'steps': 1, 'warmup_steps': 1}\n"
        "(place / 'result_0000.json').write_text(json.dumps({'models': [{**row, 'peak_rss_mb': 1}]}))\n"
    )
    monkeypatch.setattr(
        turns, "command_of", lambda *_: ([sys.executable, "-c", program, str(tmp_path)], dict(os.environ))
    )
    task = Task("hvdtrain", ("cnn",), 1.0, 1, 1, 1, str(tmp_path))
    contender = Contender(ARMS["hvdtrain"], task, assumed_facts(), 1)
    try:
        assert contender.run()
        pid = int(turns.ready_place(tmp_path, 1, 0).read_text())
        assert state_of(pid) == "T"
        assert contender.run()
        assert state_of(pid) == "T"
        assert not contender.run()
        rows = contender.outcome()
        assert isinstance(rows, list)
        assert [row["model"] for row in rows] == ["cnn"]
    finally:
        contender.end()


def test_a_contender_that_is_ended_leaves_no_process(tmp_path, monkeypatch):
    program = (
        "import sys; from pathlib import Path; from hvdtrain.bench.turns import Gate; Gate(Path(sys.argv[1]), 0).wait()"
    )
    monkeypatch.setattr(
        turns, "command_of", lambda *_: ([sys.executable, "-c", program, str(tmp_path)], dict(os.environ))
    )
    contender = Contender(ARMS["hvdtrain"], Task("hvdtrain", ("cnn",), 1.0, 1, 1, 1, str(tmp_path)), assumed_facts(), 1)
    assert contender.run()
    pid = int(turns.ready_place(tmp_path, 1, 0).read_text())
    contender.end()
    assert not Path(f"/proc/{pid}").exists()
    assert isinstance(contender.outcome(), Failure)


def state_of(pid):
    time.sleep(0.05)
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_ranks_that_meet_see_each_others_values(tmp_path):
    found = {}

    def meet(rank):
        meeting = Meeting(tmp_path, rank, 2, timeout_s=20)
        found[rank] = [meeting.exchange(rank * 10), meeting.exchange("done")]

    threads = [threading.Thread(target=meet, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: [[0, 10], ["done"] * 2], 1: [[0, 10], ["done"] * 2]}


def test_a_rank_does_not_wait_for_ever(tmp_path):
    with pytest.raises(TimeoutError, match="rank_0001"):
        Meeting(tmp_path, 0, 2, timeout_s=0.01).exchange(1)


def test_cpu_ticks_count_steal_apart():
    assert cpu_ticks("cpu  10 0 5 80 5 0 0 4 0 0\ncpu0 ...") == (15, 4, 104)


def test_peak_memory_starts_again():
    block = bytearray(b"x") * 60_000_000
    high = memory.peak_rss_mb()
    del block
    memory.reset_peak()
    assert memory.peak_rss_mb() < high - 40


def test_startup_configuration_is_valid(tmp_path):
    path = tmp_path / "startup.yaml"
    path.write_text(startup.config_text(2, 128))
    assert load_config(str(path)).training.steps == 1


def test_saving_is_an_arm_of_its_own_beside_the_product():
    words = ["--arms", "hvdtrain", "--models", "cnn", "--save-every", "50", "--steps-per-execution", "25"]
    options = overhead.parse(words)
    arms = overhead.throughput_arms(options)
    assert [(arm.name, arm.kind, arm.launch) for arm in arms] == [
        ("hvdtrain", "hvdtrain", "product"), ("hvdtrain saving", "hvdtrain saving", "product"),
    ]  # fmt: skip
    rows = [row(0, arm.name, "cnn", speed) for arm, speed in zip(arms, (102.0, 100.0), strict=True)]
    assert "<= 1.01  NOT MET" in report.throughput_tables(rows, [arm.name for arm in arms], ["cnn"], markdown=False)
    assert steps_per_epoch(batch_size=128, num_ranks=2, steps_per_execution=25, steps_per_save=50) == 100


@pytest.mark.parametrize(
    "arguments",
    ["--arms nobody", "--models vgg", "--rounds 0", "--batch-size 9999", "--save-every 50", "--save-every 400"],
)
def test_wrong_options_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        overhead.parse(arguments.split())
    assert "error" in capsys.readouterr().err


@pytest.mark.usefixtures("require_horovod")
@pytest.mark.thorough
def test_the_product_runs_in_the_benchmark(tmp_path):
    """With all its callbacks and a stand-in for the plan: what they ask of it must be there."""
    command = [
        sys.executable, "-m", "hvdtrain.bench.overhead", "--models", "fc64", "--arms", "hvdtrain,ceiling", "--checks",
        "--curves", "--save-every", "40", "--rounds", "1", "--turns", "1", "--seconds", "0.1",
        "--out", str(tmp_path / "rows"),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "FAILED" not in result.stdout + result.stderr
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert len([row for row in rows if row.get("examples_per_s")]) == 5
