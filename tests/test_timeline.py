"""Timelines: what spans count as, what is said of them, and real ones of two ranks, one of them slow."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdtrain.cli.run import timeline_settings
from hvdtrain.config_file import load_config
from hvdtrain.errors import ConfigError
from hvdtrain.timeline import HOROVOD_PID, KINDS, Span, exclusive_us, kind_of, operation, summarise, trace_events, words
from tests.conftest import PROJECT
from tests.workdir import Workdir

MODEL = """
import os, time
import keras, tensorflow as tf

class Slow(keras.layers.Layer):
    def call(self, x):
        def wait(values):
            time.sleep(SLEEP if os.environ["OMPI_COMM_WORLD_RANK"] == "1" else 0)
            return values
        y = tf.numpy_function(wait, [x], tf.float32)
        y.set_shape(x.shape)
        return y

def build():
    inputs = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(inputs)
    return keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(Slow()(flat)))
"""
CONFIG = """
name: slow
model: {source: "slow_model:build"}
data: {source: "hvdtrain.workshop.data:digits"}
training: {epochs: 2, batch_size_per_replica: 32, steps_per_execution: 2}
"""

intervals = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 100), st.integers(0, 100)).map(
        lambda found: (found[0], min(found[1:]), max(found[1:]))
    ),
    min_size=1,
)


@given(intervals)
def test_every_moment_counts_once_and_for_the_first_kind_that_runs(found: list[tuple[str, int, int]]):
    parts = exclusive_us(found)
    begin, end = min(start for _, start, _ in found), max(end for *_, end in found)
    assert sum(parts.values()) == end - begin
    for kind in (*KINDS, "nothing"):
        before = KINDS[: KINDS.index(kind)] if kind in KINDS else KINDS
        moments = [
            moment
            for moment in range(begin, end)
            if (kind == "nothing" or _runs(found, (kind,), moment)) and not _runs(found, before, moment)
        ]
        assert parts[kind] == len(moments)


def _runs(found: list[tuple[str, int, int]], kinds: tuple[str, ...], moment: int) -> bool:
    return any(kind in kinds and start <= moment < end for kind, start, end in found)


@pytest.mark.parametrize(
    ("thread", "name", "kind"),
    [
        (
            "tf_Compute/1",
            "while/body/_1/while/cond/then/_175/a/StatefulPartitionedCall/d/MatMul:_MklMatMul",
            "computing",
        ),
        ("tf_Compute/1", "adam/HvdtrainAdam:HvdtrainAdam", "weights"),
        ("tf_Compute/1", "adam/AssignAddVariableOp_3:AssignAddVariableOp", "weights"),
        ("tf_Compute/1", "HorovodAllreduce_x:HorovodAllreduce", "gradients"),
        ("tf_Compute/1", "OptionalGetValue:OptionalGetValue", "input"),
        ("tf_Compute/1", "ExecutorState::Process", None),
        ("python", "EagerLocalExecute: __inference_multi_step_on_iterator_1834", None),
        ("tf_data_private_threadpool/2", "GatherV2:GatherV2", None),
    ],
)
def test_what_spans_count_as(thread: str, name: str, kind: str | None):
    assert kind_of(Span(thread, name, 0, 1)) == kind


def test_a_summary_is_per_step_and_names_the_longest():
    spans = [
        Span("t", "StatefulPartitionedCall/dense/MatMul:_MklMatMul", 0, 3000),
        Span("t", "StatefulPartitionedCall/dense/MatMul:_MklMatMul", 5000, 3000),
        Span("t", "HvdtrainNodeMean:HvdtrainNodeMean", 8000, 2000),
        Span("python", "FunctionRun", 0, 99999),
    ]
    found = summarise(spans, 2)
    assert found["step_ms"] == 5
    assert found["parts_ms"] == {"computing": 3, "weights": 0, "gradients": 1, "input": 0, "nothing": 1}
    assert found["longest"][0] == ["MatMul", "dense/MatMul", 3, 1]
    assert operation(spans[0].name) == ("dense/MatMul", "MatMul")


def test_words_name_the_rank_that_comes_last():
    def of_rank(computing: float, gradients: float) -> dict[str, Any]:
        parts = {**dict.fromkeys((*KINDS, "nothing"), 0.0), "computing": computing, "gradients": gradients}
        return {"steps": 4, "step_ms": 10.0, "parts_ms": parts, "longest": []}

    early, late = of_rank(6.0, 3.1), of_rank(9.0, 0.1)
    text = "\n".join(words([early, late]))
    assert "rank 1 comes last: the others wait for it, rank 0 3.00 ms a step" in text
    assert "no rank waits" in "\n".join(words([early, early]))


def test_trace_events_are_what_viewers_open():
    events = trace_events([Span("b", "x/MatMul:MatMul", 5.5, 2.0), Span("a", "Iterator::Root", 0.0, 1.0)], rank=3)
    spans = [event for event in events if event["ph"] == "X"]
    assert [(event["name"], event["pid"], event["ts"], event["dur"]) for event in spans] == [
        ("MatMul", 3, 5.5, 2.0),
        ("Iterator::Root", 3, 0.0, 1.0),
    ]
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert [names[event["tid"]] for event in spans] == ["b", "a"]


@pytest.mark.parametrize("steps", ["7", "9:3", "0:4", "a:b"])
def test_steps_that_are_none(steps: str):
    with pytest.raises(ConfigError, match="--timeline-steps takes the first and the last step"):
        timeline_settings(False, steps)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (["--timeline"], (41, 60)),
        (["--timeline", "--set", "timeline={first_step: 5, last_step: 8}"], (5, 8)),
        (["--timeline-steps", "7:9"], (7, 9)),
    ],
)
def test_timeline_leaves_the_steps_that_the_configuration_names(hvdtrain, folder, options, steps):
    code, out, err = hvdtrain("run", "demo.yaml", "--ranks", "1", "--strategy", "single", "--dry-run", *options)
    assert code == 0, err
    found = load_config("demo.yaml", [re.findall(r"timeline=\{.*?\}", out)[-1]]).timeline
    assert found is not None
    assert (found.first_step, found.last_step) == steps


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("timeline.first_step=99", "timeline: first_step 99 comes after last_step 60"),
        ("timeline.frist_step=3", "timeline.frist_step: unknown key; did you mean 'first_step'?"),
        ("timeline.last_step=x", "timeline.last_step: must be a whole number >= 1; got 'x'"),
    ],
)
def test_wrong_settings_are_explained(setting: str, words: str):
    with pytest.raises(ConfigError, match=re.escape(words)):
        load_config(PROJECT / "configs" / "digits_cnn.yaml", [setting])


def recorded(place: Path, sleep: float, steps: str) -> tuple[Path, str]:
    """Train two ranks, of which one sleeps in every step; return the timeline's folder and what was said."""
    folder = Workdir(place / "work")
    (folder.path / "slow_model.py").write_text(MODEL.replace("SLEEP", str(sleep)))
    (folder.path / "slow.yaml").write_text(CONFIG)
    outcome = folder.hvdtrain("run", "slow.yaml", "--ranks", "2", "--timeline-steps", steps)
    assert outcome.code == 0, outcome.err
    (run,) = folder.path.glob("runs/slow/*")
    return run / "timeline", outcome.err


@pytest.mark.usefixtures("require_horovod")
@pytest.mark.parametrize("sleep", [0.0, 0.02])
def test_a_timeline_of_two_ranks(sleep: float, tmp_path: Path):
    folder, said = recorded(tmp_path, sleep, "5:12")
    ranks = json.loads((folder / "summary.json").read_text())
    assert [rank["steps"] for rank in ranks] == [8, 8]
    for rank in ranks:
        assert sum(rank["parts_ms"].values()) == pytest.approx(rank["step_ms"])
        assert rank["parts_ms"]["computing"] > 0
        assert rank["parts_ms"]["gradients"] > 0
    assert re.search(r"timeline of 8 steps, [\d.]+ ms each", said)
    if sleep:
        assert ranks[0]["parts_ms"]["gradients"] > 1000 * sleep / 2
        assert "rank 1 comes last: the others wait for it, rank 0" in said
    else:
        assert ranks[0]["parts_ms"]["gradients"] < 10
    with gzip.open(folder / "trace.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert {event["pid"] for event in spans if event["pid"] < HOROVOD_PID} == {0, 1}
    # One clock: the spans of both ranks lie in the same moments.
    means = {
        rank: [event["ts"] for event in spans if event["pid"] == rank and event["cat"] == "gradients"]
        for rank in (0, 1)
    }
    assert abs(means[0][0] - means[1][0]) < 1e6 * (sleep + 0.5)
    assert list(folder.glob("rank_000?/plugins/profile/*/*.xplane.pb"))
    assert any(
        event["pid"] >= HOROVOD_PID and event["name"] == "NEGOTIATE_ALLGATHER" for event in events if "name" in event
    )


@pytest.mark.usefixtures("require_horovod")
def test_a_run_too_short_says_so(tmp_path: Path):
    folder, said = recorded(tmp_path, 0.0, "900:920")
    assert "warning: no timeline: it was to begin after step 898, and the run had 44;" in said
    assert not folder.exists()
