"""Options that several verbs share, and how they change a configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from hvdtrain.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

RUNS = "runs"
STUDIES = "studies"
KEYS = {
    "ranks": "launch.num_ranks",
    "strategy": "launch.strategy",
    "launcher": "launch.launcher",
    "site": "slurm.site",
    "nodes": "slurm.nodes",
}


@dataclass(frozen=True)
class Changes:
    """What the command line changes in a configuration.

    Args:
        overrides: `key=value` texts for `load_config`.
        options: The same as command-line options, for the script that repeats them.
    """

    overrides: tuple[str, ...]
    options: tuple[str, ...]


def refuse_others(context: click.Context, allowed: Collection[str], rule: str) -> None:
    """Refuse what the command line gives and the command would ignore.

    Args:
        context: Of the command.
        allowed: Names of the parameters that count.
        rule: What is allowed, in words.

    Raises:
        ConfigError: If anything else is given.
    """
    ignored = [
        one.opts[-1] if isinstance(one, click.Option) else str(context.params[one.name or ""])
        for one in context.command.params
        if one.name not in allowed and context.get_parameter_source(one.name or "") is ParameterSource.COMMANDLINE
    ]
    if ignored:
        raise ConfigError(f"{rule}; got {', '.join(ignored)}")


def changes_of(
    ranks: int | None,
    strategy: str | None,
    launcher: str | None,
    settings: tuple[str, ...],
    *,
    site: str | None = None,
    nodes: int | None = None,
) -> Changes:
    """Return the changes that these options make; named options win over --set.

    Their values are quoted, because overrides are read as YAML, in which a site `2024` is a number.

    >>> changes_of(2, None, None, (), site="2024").overrides
    ('launch.num_ranks=2', 'slurm.site="2024"')
    """
    named = {"ranks": ranks, "strategy": strategy, "launcher": launcher, "site": site, "nodes": nodes}
    given = {name: value for name, value in named.items() if value is not None}
    overrides = [*settings, *(f"{KEYS[name]}={json.dumps(value, ensure_ascii=False)}" for name, value in given.items())]
    options = [token for name, value in given.items() for token in (f"--{name}", str(value))]
    options += [token for setting in settings for token in ("--set", setting)]
    return Changes(tuple(overrides), tuple(options))


def config_options(function: F) -> F:
    """Add the options that change a configuration."""
    for decorate in reversed(
        (
            click.option("--ranks", type=click.IntRange(min=1), help="Processes to start (launch.num_ranks)."),
            click.option(
                "--strategy",
                type=click.Choice(["auto", "horovod", "mirrored", "single"]),
                help="How replicas are kept together.",
            ),
            click.option(
                "--launcher",
                type=click.Choice(["auto", "mpirun", "srun", "native", "horovodrun", "none"]),
                help="What starts the ranks; srun and native in Slurm jobs only.",
            ),
            click.option(
                "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key, e.g. training.epochs=3."
            ),
        )
    ):
        function = decorate(function)
    return function


def site_options(function: F) -> F:
    """Add the options of batch jobs."""
    nodes = click.option("--nodes", type=click.IntRange(min=1), help="Nodes to ask for (slurm.nodes).")
    return click.option("--site", metavar="SITE", help="Site profile, by name or path (slurm.site).")(nodes(function))


def resume_option(function: F) -> F:
    """Add --resume, with a run or without."""
    return click.option(
        "--resume",
        is_flag=False,
        flag_value="",
        default=None,
        metavar="[RUN]",
        help="Continue RUN; without it, the newest unfinished run of CONFIG.",
    )(function)


def runs_option(function: F) -> F:
    """Add --runs, the directory of runs."""
    return _folder_option("--runs", "runs_root", RUNS)(function)


def studies_option(function: F) -> F:
    """Add --studies, the directory of studies."""
    return _folder_option("--studies", "root", STUDIES)(function)


def _folder_option(flag: str, parameter: str, name: str) -> Callable[[F], F]:
    return click.option(
        flag,
        parameter,
        type=click.Path(path_type=Path, file_okay=False),
        default=Path(name),
        show_default=True,
        help=f"Directory that holds all {name}.",
    )


def ranks_of(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...]:
    """Return the numbers of ranks of a list with commas, each once, from the smallest."""
    return numbers_of(text, "numbers of ranks with commas between them, such as 1,2,4")


def sizes_of(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[int, ...]:
    """Return the numbers of a list with commas, each once, from the smallest."""
    return numbers_of(text, "numbers with commas between them, such as 10,100,1000")


def numbers_of(text: str | None, allowed: str) -> tuple[int, ...]:
    """Return positive numbers from a list with commas.

    Raises:
        click.BadParameter: If it is something else; says what is allowed.
    """
    if text is None:
        return ()
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or found[0] < 1:
        raise click.BadParameter(f"{allowed}; got {text!r}")
    return tuple(found)


def writable(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Return the file that is to be written, before what comes into it takes minutes to find.

    Raises:
        click.BadParameter: If its directory is not there, or must not be written to.
    """
    if path is not None and not path.parent.is_dir():
        raise click.BadParameter(f"there is no directory {path.parent}; make it first, or give another file")
    if path is not None and not os.access(path.parent, os.W_OK):
        raise click.BadParameter(f"the directory {path.parent} cannot be written to; give another file")
    return path


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
