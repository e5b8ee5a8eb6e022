"""`hvdtrain tune`: settings that make a configuration faster here."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hvdtrain.cli.options import changes_of, config_options, json_option, writable
from hvdtrain.errors import ConfigError, ExitCode


@click.command(name="tune")
@click.argument("config")
@config_options
@click.option("--minutes", type=click.FloatRange(min=0.2), default=5.0, show_default=True,
              help="After this long no further run is started.")  # fmt: skip
@click.option("--allow-rounding", is_flag=True, help="Try also what adds up in another order: other bits, as right.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), callback=writable,
              help="The tuned configuration; default: NAME_tuned.yaml beside CONFIG.")  # fmt: skip
@json_option
def command(
    config: str,
    ranks: int | None,
    strategy: str | None,
    launcher: str | None,
    settings: tuple[str, ...],
    minutes: float,
    allow_rounding: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Try settings of Horovod, Open MPI and TensorFlow on CONFIG, and write those that are really faster here.

    Only what gives the same bits is tried, unless you say --allow-rounding.
    """
    from hvdtrain.cli.show import nice_path, talk
    from hvdtrain.config_file import dump_config, load_config
    from hvdtrain.rundir import write_text
    from hvdtrain.tuning import to_json, tune, tuned_text

    path = out or Path(config).with_name(f"{Path(config).stem}_tuned.yaml")
    if path.exists():
        raise ConfigError(f"{path} exists; move it away, or give another name: --out FILE")
    overrides = changes_of(ranks, strategy, launcher, settings).overrides
    try:
        found = tune(config, overrides, minutes=minutes, allows_rounding=allow_rounding)
    except KeyboardInterrupt:
        talk("stopped; nothing is written")
        sys.exit(int(ExitCode.INTERRUPTED))
    print(to_json(found) if as_json else tuned_text(found))
    if found.chosen:
        changes = [*overrides, *(setting.override for setting in found.chosen)]
        write_text(path, f"# {config}, tuned on this machine\n{dump_config(load_config(config, changes))}")
        talk(f"written: {nice_path(path)}")
