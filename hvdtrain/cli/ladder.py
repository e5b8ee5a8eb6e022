"""`hvdtrain ladder`: the workshop's models, several seeds each."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hvdtrain.cli.options import refuse_others, sizes_of, studies_option
from hvdtrain.errors import ConfigError


@click.command(name="ladder")
@click.option("--ranks", type=click.IntRange(min=1), default=1, show_default=True, help="Ranks of each training.")
@click.option("--seeds", default="1", show_default=True, metavar="K|fc:K,cnn:K",
              help="Trainings of each model, or by the beginning of its name.")  # fmt: skip
@click.option("--models", metavar="NAMES", help="Of the ladder, with commas; default: all seven.")
@click.option("--examples-per-class", "sizes", callback=sizes_of, metavar="10,100,1000,5000",
              help="Train the best of the models on so few examples as well.")  # fmt: skip
@click.option("--resume", is_flag=False, flag_value="", metavar="[LADDER]", help="Train what a ladder is missing.")
@studies_option
@click.pass_context
def command(
    context: click.Context,
    ranks: int,
    seeds: str,
    models: str | None,
    sizes: tuple[int, ...],
    resume: str | None,
    root: Path,
) -> None:
    """Train the workshop's ladder of models for handwritten digits, and compare.

    \b
    hvdtrain ladder --ranks 2 --models fc_64_64,fc_512_512 --seeds 3
    hvdtrain ladder --ranks 2 --seeds fc:10,cnn:3 --examples-per-class 10,100,1000,5000
    hvdtrain ladder --resume
    """
    from hvdtrain import ladder
    from hvdtrain.known_data import smallest_class
    from hvdtrain.ladderdir import find_ladder
    from hvdtrain.names import did_you_mean
    from hvdtrain.study.rungs import BY_NAME, DATA, Question, seeds_of

    if resume is not None:
        refuse_others(context, ("resume", "root"), "a ladder goes on as it began: --resume takes --studies alone")
        sys.exit(ladder.go_on(find_ladder(resume, root)))
    chosen = [name.strip() for name in models.split(",")] if models else list(BY_NAME)
    for name in chosen:
        if name not in BY_NAME:
            hint = did_you_mean(name, BY_NAME) or f"; there are {', '.join(BY_NAME)}"
            raise ConfigError(f"--models: no model {name!r}{hint}")
    try:
        counts = seeds_of(seeds, chosen)
    except ValueError as error:
        raise ConfigError(f"{error}; give a number, or numbers by the beginning of names: fc:10,cnn:3") from error
    data = ladder.data_at_hand()
    most = smallest_class(f"{DATA}:{data}")
    if sizes and sizes[-1] > most:
        raise ConfigError(f"--examples-per-class: at most {most:,} on {data}; got {sizes[-1]:,}")
    best = max(counts, key=lambda name: BY_NAME[name].published)
    question = Question(
        data=data,
        num_ranks=ranks,
        seeds=counts,
        examples_per_class=sizes,
        curve_models=(best,) if sizes else (),
    )
    sys.exit(ladder.climb_ladder(question, root))
