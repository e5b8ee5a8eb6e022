"""The command line: one module per verb, each handler short and without logic.

Verbs are imported when they are called, so that `hvdtrain --help` is instant.
"""

from __future__ import annotations

import contextlib
import importlib
import sys

import click

from hvdtrain._version import __version__
from hvdtrain.errors import ExitCode, HvdtrainError

# verb -> (module, what --help says). The module defines `command`.
VERBS = {
    "run": ("run", "Train a configuration, or start your own script, on several ranks."),
    "submit": ("submit", "Submit a configuration to a cluster's scheduler."),
    "status": ("status", "Show where runs and their jobs are."),
    "logs": ("logs", "Show the log of a run or of one rank."),
    "cancel": ("cancel", "Stop a run's job, its state saved."),
    "requeue": ("requeue", "Queue a run's job again."),
    "why": ("why", "Tell why a run ended, and what to change."),
    "tensorboard": ("tensorboard", "Show a run's curves in TensorBoard, and how to reach it."),
    "interact": ("interact", "Take an interactive allocation on a site."),
    "data": ("data", "Fetch data sets before compute nodes need them."),
    "site": ("site", "List, show and draft site profiles."),
    "plan": ("plan", "Show every derived number and the rule that made it."),
    "render": ("render", "Print the job script that `run` would execute."),
    "check": ("check", "Check a configuration; with --deep also its model and data."),
    "schema": ("schema", "Print the JSON Schema of configurations, for editors."),
    "list": ("list_runs", "List runs, newest first."),
    "scale": ("scale", "Measure how well a configuration scales, and why."),
    "tune": ("tune", "Find settings that make a configuration faster here."),
    "forecast": ("forecast", "Forecast what more ranks than were measured would do."),
    "compare": ("compare", "Show the significant differences between two scaling studies."),
    "allreduce": ("allreduce", "Measure how long adding up gradients takes here."),
    "ladder": ("ladder", "Train the workshop's seven models and compare them with what was published."),
    "sweep": ("sweep", "Train a configuration with many settings, and find the best."),
    "augment": ("augment", "Draw what a configuration's augmentation makes of its images."),
    "evaluate": ("evaluate", "Evaluate a run's newest checkpoint on its test data."),
    "predict": ("predict", "Predict with a run's newest checkpoint; write a submission file."),
    "export": ("export", "Write a run's newest checkpoint for plain Keras or TensorFlow."),
    "diff": ("diff", "Tell what differed between two runs."),
    "doctor": ("doctor", "Tell whether this environment can train, and what to do if not."),
    "build-horovod": ("build_horovod", "Build Horovod against the TensorFlow and MPI found here."),
    "outcome": ("outcome", ""),
}


class LazyGroup(click.Group):
    """A click group that imports a verb's module only when that verb is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb."""
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"hvdtrain.cli.{VERBS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items() if text])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest a verb for one that does not exist."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from hvdtrain.names import did_you_mean

            raise click.UsageError(f"no command {args[0]!r}{did_you_mean(args[0], VERBS)}", ctx) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hvdtrain")
def cli() -> None:
    """Take a Keras 3 model from one machine to a whole cluster with Horovod."""


def main() -> None:
    """Run the command line; turn every explained error into its message and exit code."""
    try:
        try:
            code = cli.main(prog_name="hvdtrain", standalone_mode=False)  # click returns the code of `ctx.exit`
        finally:
            _flush()
        sys.exit(code if isinstance(code, int) else ExitCode.OK)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.CONFIG)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(ExitCode.INTERRUPTED)
    except HvdtrainError as error:
        click.echo(f"hvdtrain: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader (head, less) went away; there is nobody left to tell.
        _drop_output()
        sys.exit(ExitCode.OK)
    except OSError as error:
        _drop_output()
        sys.exit(_refused(error))


def _flush() -> None:
    """Write what standard output still holds, while an error of it can be explained."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _drop_output() -> None:
    """Forget what standard output does not take; Python would try it once more at its end."""
    try:
        _flush()
    except OSError:
        with contextlib.suppress(OSError):
            sys.stdout.close()


def _refused(error: OSError) -> ExitCode:
    """Say what the system refused, and return the exit code."""
    from hvdtrain.rundir import NO_SPACE

    place, reason = f"{error.filename}: " if error.filename else "", error.strerror or str(error)
    if error.errno in NO_SPACE:
        click.echo(f"hvdtrain: {place}{reason}; free some space or choose another disk", err=True)
        return ExitCode.NO_SPACE
    if place:
        click.echo(f"hvdtrain: {place}{reason}; check this path, or give another one", err=True)
        return ExitCode.CONFIG
    click.echo(f"hvdtrain: the system refused something: {reason}; run: hvdtrain doctor", err=True)
    return ExitCode.ENVIRONMENT
