"""`hvdtrain sweep`: many trainings that differ in some settings."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hvdtrain.cli.options import changes_of, json_option, refuse_others, site_options, studies_option
from hvdtrain.errors import ConfigError


@click.command(name="sweep")
@click.argument("file", required=False, metavar="[SWEEP.yaml]")
@click.option("--parallel", type=click.IntRange(min=1), metavar="N",
              help="Trials at a time. Default: one for each core and rank, at most 8; on a site: all.")  # fmt: skip
@click.option("--ranks", type=click.IntRange(min=1), help="Ranks of each trial (launch.num_ranks).")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key of the base for all trials.")
@click.option("--dry-run", "is_dry", is_flag=True, help="Check and list the trials; start nothing.")
@click.option("--resume", is_flag=False, flag_value="", metavar="[SWEEP]", help="Train what a sweep is missing.")
@click.option("--collect", is_flag=False, flag_value="", metavar="[SWEEP]", help="Table and report of what there is.")
@site_options
@click.option("--submit", "submits", is_flag=True, help="Submit to --site (which alone does so as well).")
@click.option("--wait", is_flag=True, help="With --site, --resume or --collect: wait for the jobs.")
@json_option
@studies_option
@click.pass_context
def command(
    context: click.Context,
    file: str | None,
    parallel: int | None,
    ranks: int | None,
    settings: tuple[str, ...],
    is_dry: bool,
    resume: str | None,
    collect: str | None,
    site: str | None,
    nodes: int | None,
    submits: bool,
    wait: bool,
    as_json: bool,
    root: Path,
) -> None:
    """Train a configuration with many settings, and find the best: a grid, random draws, or successive halving.

    \b
    hvdtrain sweep configs/sweeps/workshop.yaml
    hvdtrain sweep configs/sweeps/workshop.yaml --site mycluster --parallel 8
    hvdtrain sweep --resume
    """
    from hvdtrain.sweeps import jobs, local
    from hvdtrain.sweeps.file import load_sweep
    from hvdtrain.sweeps.sweepdir import find_sweep

    if sum(one is not None for one in (file, resume, collect)) != 1:
        raise ConfigError("give one of: a sweep file, --resume [SWEEP], --collect [SWEEP]; see hvdtrain sweep --help")
    if file is None:
        allowed = ("resume", "collect", "wait", "as_json", "root", *(["parallel"] if collect is None else []))
        rule = "a sweep goes on as it began: --resume takes --parallel, --wait and --json, --collect the last two"
        refuse_others(context, allowed, rule)
        found = find_sweep(resume or collect or "", root)
        if collect is not None:
            sys.exit(jobs.collect(found, wait=wait, as_json=as_json))
        if found.sweep().site is not None:
            sys.exit(jobs.go_on(found, width=parallel, wait=wait, as_json=as_json))
        sys.exit(local.go_on(found, width=parallel, as_json=as_json))
    changes = changes_of(ranks, None, None, settings, site=site, nodes=nodes)
    if site is None:
        if submits or wait or nodes:
            raise ConfigError("--submit, --wait and --nodes are for batch jobs; name the cluster: --site SITE")
        sys.exit(local.sweep_here(load_sweep(file), changes, width=parallel, root=root, is_dry=is_dry, as_json=as_json))
    sys.exit(
        jobs.sweep_on_site(
            load_sweep(file), changes, site, width=parallel, root=root, is_dry=is_dry, wait=wait, as_json=as_json
        )
    )
