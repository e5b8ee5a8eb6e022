"""Findings as lines for people (errors first, fixes whole on one line so that they can be copied) and as JSON."""

from __future__ import annotations

import json
from typing import Any

import click

from hvdtrain.doctor.findings import Finding, Status, can_train
from hvdtrain.doctor.ranks import RankStart
from hvdtrain.doctor.survey import Survey

COLORS: dict[Status, str] = {"error": "red", "warning": "yellow", "ok": "green"}
URGENCY: tuple[Status, ...] = ("error", "warning", "ok")


def findings_text(findings: list[Finding]) -> str:
    """Return the findings, errors first, then the verdict."""
    ordered = [finding for status in URGENCY for finding in findings if finding.status == status]
    width = max(len(finding.check) for finding in findings)
    lines = [line for finding in ordered for line in _lines(finding, width)]
    return "\n".join([*lines, "", verdict(findings)])


def verdict(findings: list[Finding]) -> str:
    """Return the one line to read when there is time for one."""
    errors = [finding for finding in findings if finding.status == "error"]
    if can_train(findings):
        return click.style("This environment can train on several ranks.", fg="green", bold=True)
    count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
    text = f"Training on several ranks cannot work here: {count}. Fix the first one first."
    return click.style(text, fg="red", bold=True)


def _lines(finding: Finding, width: int) -> list[str]:
    status = click.style(f"{finding.status:<7}", fg=COLORS[finding.status], bold=finding.status != "ok")
    lines = [f"{status}  {finding.check:<{width}}  {finding.found}"]
    indent = " " * 9
    if finding.cause:
        lines.append(f"{indent}cause: {finding.cause}")
    if finding.fix:
        lines.append(f"{indent}fix:   {click.style(finding.fix, bold=True)}")
    return lines


def to_json(findings: list[Finding], survey: Survey) -> str:
    """Return the findings, the rank map and the facts for programs."""
    return json.dumps(
        {
            "can_train": can_train(findings),
            "findings": [vars(finding) for finding in findings],
            "ranks": rank_map(survey.ranks),
            "packages": dict(survey.packages),
            "mpi": vars(survey.mpi) if survey.mpi else None,
            "horovod": dict(survey.horovod),
            "mpi4py": dict(survey.mpi4py),
            "num_gpus": survey.num_gpus,
            "num_cores": survey.num_cores,
        },
        indent=2,
    )


def rank_map(start: RankStart | None) -> list[dict[str, Any]]:
    """Return where each rank landed."""
    ranks = start.ranks if start else ()
    return [{"rank": rank.rank, "host": rank.host, "cores": list(rank.cores)} for rank in ranks]
