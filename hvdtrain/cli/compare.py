"""`hvdtrain compare`: what differs between two studies."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from hvdtrain.cli.options import json_option, studies_option
from hvdtrain.errors import ConfigError


@click.command(name="compare")
@click.argument("study_a")
@click.argument("study_b")
@json_option
@studies_option
def command(study_a: str, study_b: str, as_json: bool, root: Path) -> None:
    """Show where STUDY_B differs from STUDY_A by more than noise."""
    from hvdtrain.bench.table import table
    from hvdtrain.study.compare import differences, pairs
    from hvdtrain.study.scaling_table import make_table
    from hvdtrain.studydir import find_study

    studies = [find_study(name, root) for name in (study_a, study_b)]
    before, after = (make_table(study.question(), study.samples()) for study in studies)
    if before.question.mode != after.question.mode:
        raise ConfigError(f"one study is of {before.question.mode} scaling, the other of {after.question.mode}")
    if not pairs(before, after):
        raise ConfigError("the two studies have no size in common")
    found, compared = differences(before, after)
    if compared == 0:
        raise ConfigError("nothing can be compared: an interval needs at least 3 repeats in both studies (--repeats 3)")
    if as_json:
        print(json.dumps([{**dataclasses.asdict(one), "ratio": one.ratio} for one in found], indent=1))
        return
    rows = [
        (
            one.size,
            one.quantity,
            f"{one.before.median:,.4g}",
            f"{one.after.median:,.4g}",
            f"{one.ratio:.3f}",
            "better" if one.is_better else "worse",
        )
        for one in found
    ]
    if rows:
        print(table(("ranks", "quantity", "A", "B", "B / A", ""), rows, markdown=False))
    print(f"{len(found)} of {compared} comparisons differ by more than their 95 % intervals (at least 3 repeats each).")
