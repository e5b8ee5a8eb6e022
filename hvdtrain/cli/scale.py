"""`hvdtrain scale`: how well a configuration scales, and why."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hvdtrain.cli.options import ranks_of, refuse_others, studies_option
from hvdtrain.errors import ConfigError


@click.command(name="scale")
@click.argument("config", required=False)
@click.option("--ranks", callback=ranks_of, metavar="1,2,4", help="Sizes; the smallest is the baseline.")
@click.option("--mode", type=click.Choice(["weak", "strong"]), default="weak", show_default=True,
              help="weak: the batch of each rank stays; strong: the global batch.")  # fmt: skip
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each size.")
@click.option("--seconds", type=click.FloatRange(min=0.5), default=10.0, show_default=True,
              help="Of training that are timed in each run.")  # fmt: skip
@click.option("--warmup-steps", type=click.IntRange(min=1), default=50, show_default=True, help="Not timed.")
@click.option("--data", type=click.Choice(["real", "synthetic"]), default="real", show_default=True,
              help="synthetic: random examples of the model's shapes.")  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key of the configuration.")
@click.option("--no-one-process", is_flag=True, help="Leave out the comparison with one process on all cores.")
@click.option("--site", metavar="SITE", help="Submit a job for each run to this site.")
@click.option("--submit", "submits", is_flag=True, help="Submit to --site (which alone does so as well).")
@click.option("--ranks-per-node", type=click.IntRange(min=1), help="With --site; default: one per GPU, else 1.")
@click.option("--wait", is_flag=True, help="With --site or --collect: wait for the jobs.")
@click.option("--resume", metavar="STUDY", help="Run what a study on this machine is missing.")
@click.option("--collect", metavar="STUDY", help="Write the report of what a study's runs have found so far.")
@studies_option
@click.pass_context
def command(
    context: click.Context,
    config: str | None,
    ranks: tuple[int, ...],
    mode: str,
    repeats: int,
    seconds: float,
    warmup_steps: int,
    data: str,
    settings: tuple[str, ...],
    no_one_process: bool,
    site: str | None,
    submits: bool,
    ranks_per_node: int | None,
    wait: bool,
    resume: str | None,
    collect: str | None,
    root: Path,
) -> None:
    """Measure CONFIG at several sizes: throughput, efficiency, and where a step's time goes.

    \b
    hvdtrain scale configs/synthetic.yaml --ranks 1,2,4
    hvdtrain scale configs/synthetic.yaml --ranks 1,2,4 --site bridges2
    hvdtrain scale --collect STUDY
    """
    from hvdtrain import scale
    from hvdtrain.study.expand import Question
    from hvdtrain.studydir import find_study

    if resume is not None and collect is not None:
        raise ConfigError("--resume runs what is missing, --collect only reports; give one of them")
    if resume is not None:
        refuse_others(context, ("resume", "root"), "a study goes on as it began: --resume takes --studies alone")
        sys.exit(scale.resume_here(find_study(resume, root)))
    if collect is not None:
        allowed = "--collect reports what was measured: it takes --wait and --studies alone"
        refuse_others(context, ("collect", "wait", "root"), allowed)
        sys.exit(scale.collect(find_study(collect, root), wait=wait))
    if config is None or not ranks:
        raise ConfigError("scale needs a configuration and --ranks; try: hvdtrain scale CONFIG --ranks 1,2")
    if site is None and (submits or wait or ranks_per_node):
        raise ConfigError("--submit, --wait and --ranks-per-node are for batch jobs; name the cluster: --site SITE")
    question = Question(
        config=config,
        ranks=ranks,
        mode=mode,
        repeats=repeats,
        seconds=seconds,
        warmup_steps=warmup_steps,
        data=data,
        overrides=settings,
        with_one_process=not no_one_process,
    )
    if site is None:
        sys.exit(scale.scale_here(question, root))
    sys.exit(scale.scale_on_site(question, site, root, ranks_per_node=ranks_per_node, wait=wait))
