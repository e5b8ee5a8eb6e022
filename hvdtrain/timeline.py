"""What the steps of a recorded timeline were spent on: from spans of time to words, and to a file for trace viewers.

Pure: `hvdtrain.train.recording` gets the spans from TensorFlow's profiler.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

# What something counts as while several go on at once: the first of these that is running.
KINDS = ("computing", "weights", "gradients", "input")
NUM_LONGEST = 5
HOROVOD_PID = 1_000_000  # Horovod's processes in a trace, behind those of the ranks
MEANT_DIFFERENCE = 0.03  # of a step: ranks that wait less longer than others than this are said to be alike

_OPERATION = re.compile(r"(?P<path>[\w.>/-]+):(?P<type>\w+)")
_BEFORE_OWN_NAME = re.compile(r".*(StatefulPartitionedCall|while/body/_\d+)/")
_OF_INTEL = re.compile(r"^_(Mkl)?(Native)?")


@dataclass(frozen=True)
class Span:
    """Something that a thread did.

    Args:
        thread: Its name, the same for all of its spans.
        name: As TensorFlow says it; of an operation its path and type.
        start_us, duration_us: Microseconds; all ranks count from the same moment.
    """

    thread: str
    name: str
    start_us: float
    duration_us: float

    @property
    def end_us(self) -> float:
        """When it was over."""
        return self.start_us + self.duration_us


def operation(name: str) -> tuple[str, str] | None:
    """Return (path, type) of an operation's span without what is the same for all; None for other spans.

    >>> operation("while/body/_1/then/StatefulPartitionedCall/dense_1/MatMul:_MklMatMul")
    ('dense_1/MatMul', 'MatMul')
    >>> operation("ExecutorState::Process") is operation("EagerLocalExecute: Sum") is None
    True
    """
    found = _OPERATION.fullmatch(name)
    if found is None:
        return None
    return _BEFORE_OWN_NAME.sub("", found["path"]), _OF_INTEL.sub("", found["type"])


def kind_of(span: Span) -> str | None:
    """Return what a span counts as; None for what is not the training step's own work.

    >>> kind_of(Span("tf_Compute/1", "a/HvdtrainNodeMean:HvdtrainNodeMean", 0, 1))
    'gradients'
    >>> kind_of(Span("tf_data_iterator_get_next/1", "IteratorGetNextAsOptionalOp::DoCompute", 0, 1))
    'input'
    >>> kind_of(Span("tf_data_private_threadpool/1", "GatherV2:GatherV2", 0, 1)) is None
    True
    """
    if span.name.startswith("IteratorGetNext"):
        return "input"
    found = None if span.thread.startswith("tf_data") else operation(span.name)
    if found is None:
        return None
    kind = found[1]
    if kind.startswith(("HvdtrainNodeMean", "Horovod")):
        return "gradients"
    if kind.startswith(("HvdtrainAdam", "Assign", "ResourceApply")):
        return "weights"
    return "input" if kind.startswith(("Iterator", "Optional")) else "computing"


def summarise(spans: Iterable[Span], num_steps: int) -> dict[str, Any]:
    """Return what one rank's recorded steps were spent on, ready for JSON.

    Args:
        spans: All of them.
        num_steps: Recorded.

    Returns:
        `steps`; `step_ms`; `parts_ms`: per step by kind, `nothing` where no operation ran; `longest`: [type, path, ms
        per step, times per step] of the operations that took longest, waiting included.
    """
    counted = [(kind, span) for span in spans if (kind := kind_of(span)) is not None]
    parts = exclusive_us([(kind, span.start_us, span.end_us) for kind, span in counted])
    total_us: Counter[tuple[str, str]] = Counter()
    times: Counter[tuple[str, str]] = Counter()
    for _, span in counted:
        found = operation(span.name)
        if found is not None:
            key = (found[1], found[0])
            total_us[key] += span.duration_us  # type: ignore[assignment]
            times[key] += 1
    return {
        "steps": num_steps,
        "step_ms": sum(parts.values()) / num_steps / 1000,
        "parts_ms": {kind: value / num_steps / 1000 for kind, value in parts.items()},
        "longest": [
            [*key, value / num_steps / 1000, times[key] / num_steps] for key, value in total_us.most_common(NUM_LONGEST)
        ],
    }


def exclusive_us(intervals: Sequence[tuple[str, float, float]]) -> dict[str, float]:
    """Return for how long each kind was the first of those that ran, and for how long nothing did.

    >>> exclusive_us([("computing", 0, 4), ("gradients", 3, 6), ("input", 8, 9)])
    {'computing': 4, 'weights': 0, 'gradients': 2, 'input': 1, 'nothing': 2}
    """
    moments = sorted(
        [(start, 1, kind) for kind, start, _ in intervals] + [(end, -1, kind) for kind, _, end in intervals]
    )
    found: dict[str, float] = dict.fromkeys((*KINDS, "nothing"), 0)
    running: Counter[str] = Counter()
    before = moments[0][0] if moments else 0
    for moment, change, kind in moments:
        first = next((name for name in KINDS if running[name] > 0), "nothing")
        found[first] += moment - before
        running[kind] += change
        before = moment
    return found


def words(summaries: Sequence[dict[str, Any]]) -> list[str]:
    """Return lines that say what the steps were spent on, one summary for each recorded rank."""
    slowest = max(range(len(summaries)), key=lambda rank: summaries[rank]["step_ms"])
    step_ms = summaries[slowest]["step_ms"]
    lines = [f"timeline of {summaries[0]['steps']} steps, {step_ms:.2f} ms each (recording slows them down):"]
    lines.append("  rank  ms/step  " + "".join(f"{name:>11}" for name in (*KINDS, "nothing")))
    for rank, summary in enumerate(summaries):
        shares = [summary["parts_ms"][name] / summary["step_ms"] for name in (*KINDS, "nothing")]
        lines.append(f"  {rank:>4}  {summary['step_ms']:>7.2f}  " + "".join(f"{share:>11.1%}" for share in shares))
    lines += [f"  {text}" for text in (_waiting(summaries), _longest(summaries[slowest], slowest)) if text]
    return lines


def _waiting(summaries: Sequence[dict[str, Any]]) -> str:
    """Return who waits for whom: who comes last to the gradients spends the least time there."""
    spent = [summary["parts_ms"]["gradients"] for summary in summaries]
    if len(spent) < 2:
        return ""
    last, first = spent.index(min(spent)), spent.index(max(spent))
    if spent[first] - spent[last] < MEANT_DIFFERENCE * summaries[last]["step_ms"]:
        return "no rank waits long for another one"
    return (
        f"rank {last} comes last: the others wait for it, rank {first} {spent[first] - spent[last]:.2f} ms a step; "
        f"compare what they compute and what else runs on its cores"
    )


def _longest(summary: dict[str, Any], rank: int) -> str:
    texts = [
        f"{kind} {milliseconds:.2f} ms ({milliseconds / summary['step_ms']:.0%}) {path}"
        for kind, path, milliseconds, _ in summary["longest"]
    ]
    return f"longest operations of rank {rank}, per step:\n    " + "\n    ".join(texts) if texts else ""


def trace_events(spans: Sequence[Span], rank: int) -> list[dict[str, Any]]:
    """Return one rank's spans as trace events, which Perfetto and chrome://tracing open: a process for each rank."""
    threads = {name: number for number, name in enumerate(sorted({span.thread for span in spans}))}
    named = [
        {"ph": "M", "pid": rank, "name": "process_name", "args": {"name": f"rank {rank}"}},
        {"ph": "M", "pid": rank, "name": "process_sort_index", "args": {"sort_index": rank}},
        *(
            {"ph": "M", "pid": rank, "tid": number, "name": "thread_name", "args": {"name": name}}
            for name, number in threads.items()
        ),
    ]
    return named + [_event(span, rank, threads[span.thread]) for span in spans]


def horovod_events(text: str) -> list[dict[str, Any]]:
    """Return what Horovod wrote of itself, with the times of the other events; none of a file that is cut short.

    Args:
        text: Of its file, which counts from a moment that its first line names.
    """
    try:
        events: list[dict[str, Any]] = json.loads(text)
        began_us = events[0]["args"]["start_time_since_epoch_in_micros"]
    except (ValueError, LookupError, TypeError):
        return []
    found = []
    for event in events[1:]:
        moved = {**event, "pid": HOROVOD_PID + event["pid"]}
        if "ts" in event:
            moved["ts"] = event["ts"] + began_us
        found.append(moved)
    return found


def _event(span: Span, rank: int, thread: int) -> dict[str, Any]:
    found = operation(span.name)
    shown = {"name": span.name} if found is None else {"name": found[1], "args": {"operation": found[0]}}
    return {
        "ph": "X", "pid": rank, "tid": thread, "ts": span.start_us, "dur": span.duration_us,
        "cat": kind_of(span) or "other", **shown,
    }  # fmt: skip
