"""`hvdtrain run`: train a configuration, or start a user's own script, on several ranks."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import click

from hvdtrain.cli.options import changes_of, config_options, resume_option, runs_option
from hvdtrain.errors import ConfigError


@click.command(name="run", context_settings={"ignore_unknown_options": False})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="CONFIG | -- COMMAND [ARGS]...")
@config_options
@resume_option
@click.option("--dry-run", is_flag=True, help="Print the script and start nothing.")
@click.option("--timeline", is_flag=True, help="Record some steps on all ranks and say what they were spent on.")
@click.option("--timeline-steps", metavar="FIRST:LAST", help="Which ones, from 1, e.g. 101:120.")
@runs_option
@click.pass_context
def command(
    context: click.Context,
    words: tuple[str, ...],
    ranks: int | None,
    strategy: str | None,
    launcher: str | None,
    settings: tuple[str, ...],
    resume: str | None,
    dry_run: bool,
    timeline: bool,
    timeline_steps: str | None,
    runs_root: Path,
) -> None:
    """Train CONFIG, or start your own COMMAND on several ranks.

    \b
    hvdtrain run configs/digits_cnn.yaml --ranks 2
    hvdtrain run --ranks 2 -- python my_script.py --my-option
    """
    from hvdtrain import jobs
    from hvdtrain.config_file import load_config

    if is_user_command(words):
        if settings or strategy or timeline or timeline_steps or resume is not None:
            given = "--set, --strategy, --timeline and --resume"
            raise ConfigError(f"{given} belong to a configuration, not to a command of your own")
        sys.exit(jobs.run_command(words, num_ranks=ranks or 1, launcher=launcher or "auto", dry_run=dry_run))
    config_path, resume = what_to_run(words, resume)
    is_missing = timeline and (config_path is None or load_config(config_path, settings).timeline is None)
    settings = (*settings, *timeline_settings(is_missing, timeline_steps))
    changes = changes_of(ranks, strategy, launcher, settings)
    sys.exit(jobs.run_config(config_path, changes, resume=resume, dry_run=dry_run, runs_root=runs_root))


def timeline_settings(is_missing: bool, steps: str | None) -> list[str]:
    """Return what `--timeline`, where the configuration has none, and `--timeline-steps` set.

    Raises:
        ConfigError: If the steps are not two numbers in order.

    >>> timeline_settings(True, None), timeline_settings(False, None), timeline_settings(False, "101:120")
    (['timeline={}'], [], ['timeline={first_step: 101, last_step: 120}'])
    """
    if steps is None:
        return ["timeline={}"] if is_missing else []
    found = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", steps)
    if found is None or int(found[1]) > int(found[2]):
        raise ConfigError(f"--timeline-steps takes the first and the last step, e.g. 101:120; got {steps!r}")
    return [f"timeline={{first_step: {found[1]}, last_step: {found[2]}}}"]


def what_to_run(words: tuple[str, ...], resume: str | None, *, verb: str = "run") -> tuple[str | None, str | None]:
    """Return (configuration or None for the resumed run's own, what to resume).

    `--resume` takes an optional value, so in `run --resume x.yaml` the configuration lands there.
    """
    if not words and resume:
        is_config = Path(resume).suffix in (".yaml", ".yml")
        return (resume, "") if is_config else (None, resume)
    return one_config(words, verb, resume), resume


def is_user_command(words: tuple[str, ...]) -> bool:
    """Tell whether `--` stood before the words, or the first one is plainly a program."""
    return bool(words) and "--" in sys.argv and list(words) == sys.argv[sys.argv.index("--") + 1 :]


def one_config(words: tuple[str, ...], verb: str = "run", resume: str | None = None) -> str:
    """Return the configuration's path.

    Raises:
        ConfigError: If there is none, or more than one word.
    """
    if not words and resume is not None:
        raise ConfigError(
            "--resume needs a run, or a configuration whose newest unfinished run it takes: "
            f"hvdtrain {verb} --resume RUN; hvdtrain list shows the runs"
        )
    if not words:
        command = ", or -- and a command" if verb == "run" else ""
        raise ConfigError(f"{verb} needs a configuration{command}; try: hvdtrain {verb} configs/digits_cnn.yaml")
    if len(words) > 1:
        hint = shlex.join(words)
        own = f". For a command of your own write: hvdtrain run --ranks N -- {hint}" if verb == "run" else ""
        raise ConfigError(f"{verb} takes one configuration; got {len(words)} words: {hint}{own}")
    if words[0].endswith(".py"):
        raise ConfigError(
            f"{words[0]} is a script, not a configuration; write: hvdtrain run --ranks N -- python {words[0]}"
        )
    return words[0]

