"""Start a probe and read what it reported before it ended or crashed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hvdtrain
from hvdtrain.doctor.probe import MARK

PROJECT_ROOT = Path(hvdtrain.__file__).resolve().parent.parent
NUM_TAIL_LINES = 12
# TensorFlow's remarks about itself, printed before its log level is known.
REMARKS = re.compile(r"absl::InitializeLog|^[IW]\d{4} .*\.cc:\d+\]|^To enable the following instructions")


@dataclass(frozen=True)
class ProbeResult:
    """The reports of one child process (several, under mpirun) and how it ended.

    Args:
        reports: Each with `stage`, `pid` and `facts`, in the order of arrival.
        ended: Empty when the process ended well; otherwise how it ended, in words.
        tail: The last lines it printed besides its reports.
    """

    reports: tuple[dict[str, Any], ...]
    ended: str
    tail: str

    def facts(self, stage: str) -> dict[str, Any]:
        """Return what the one process of this probe reported; a missing stage is one it crashed in."""
        for report in self.reports:
            if report["stage"] == stage:
                facts: dict[str, Any] = report["facts"]
                return facts
        return {"error": f"the process {self.ended or 'ended without a word'}\n{self.tail}".strip()}


def run_probe(
    name: str, *, launcher: Sequence[str] = (), environ: Mapping[str, str], timeout_s: float = 90
) -> ProbeResult:
    """Run `python -m hvdtrain.doctor.probe NAME`, with `launcher` in front; never hangs, never raises for a crash."""
    command = [*launcher, sys.executable, "-m", "hvdtrain.doctor.probe", name]
    try:
        output, ended = _run(command, environ, timeout_s)
    except OSError as error:
        return ProbeResult((), f"could not start: {error}", "")
    reports, rest = split_reports(output)
    return ProbeResult(tuple(reports), ended, "\n".join(rest[-NUM_TAIL_LINES:]))


def _run(command: Sequence[str], environ: Mapping[str, str], timeout_s: float) -> tuple[str, str]:
    process = subprocess.Popen(
        command,
        env=probe_environment(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return output, f"was stopped after {timeout_s:.0f} s without an end"
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return output, how_it_ended(process.returncode)


def probe_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a child: able to import this very hvdtrain, and TensorFlow less talkative."""
    path = [part for part in environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    return {
        **environ,
        "PYTHONPATH": os.pathsep.join([*path, str(PROJECT_ROOT)]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def how_it_ended(return_code: int) -> str:
    """Return in words how a process ended, nothing if well.

    >>> how_it_ended(-11)
    'was killed by SIGSEGV'
    """
    if return_code == 0:
        return ""
    if return_code < 0:
        return f"was killed by {signal.Signals(-return_code).name}"
    return f"ended with exit code {return_code}"


def split_reports(output: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the marked reports and the other lines; a launcher may put its own text around a report."""
    reports: list[dict[str, Any]] = []
    rest: list[str] = []
    for line in output.splitlines():
        before, mark, text = line.partition(MARK)
        if mark:
            report, end = json.JSONDecoder().raw_decode(text)
            reports.append(report)
            before += text[end:]
        if before.strip() and not REMARKS.search(before):
            rest.append(before)
    return reports, rest
