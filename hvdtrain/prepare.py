"""From a configuration file to a run directory that holds everything needed to run it."""

from __future__ import annotations

import datetime
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hvdtrain.config import Config
from hvdtrain.config_file import dump_config, load_config, located
from hvdtrain.errors import PlanError
from hvdtrain.facts import Facts
from hvdtrain.launch.job import config_script
from hvdtrain.launch.shell import Script, quote, script_text
from hvdtrain.plan import Plan, make_plan
from hvdtrain.rundir import RunDir, read_json, write_text


@dataclass(frozen=True)
class Prepared:
    """A configuration, its plan and its script, before anything is written."""

    config: Config
    plan: Plan
    script: Script
    config_path: str
    options: tuple[str, ...]


def prepare(config_path: str, facts: Facts, *, overrides: Sequence[str] = (), options: Sequence[str] = ()) -> Prepared:
    """Return everything that follows from a configuration on a machine.

    Args:
        config_path: The file as the user named it.
        facts: The machine.
        overrides: `key=value` texts that change the configuration.
        options: The command-line options behind the overrides, to be repeated in the script.

    Raises:
        ConfigError: If file, overrides or numbers are wrong; `path:line: key: what`.
    """
    config = load_config(config_path, overrides)
    try:
        plan = make_plan(config, facts)
    except PlanError as error:
        found = [located(problem, config_path, overrides) if problem.key else problem for problem in error.problems]
        raise PlanError(found) from error
    script = config_script(plan, config_path, options)
    return Prepared(config, plan, script, config_path, tuple(options))


def new_run(prepared: Prepared, root: Path) -> RunDir:
    """Write a new run directory below `root` and return it."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = root / prepared.plan.name / f"{stamp}-{secrets.token_hex(3)}"
    path.mkdir(parents=True)
    run = RunDir(path.resolve())
    run.logs.mkdir()
    write_text(run.config, dump_config(prepared.config))
    origin = {
        "config": str(Path(prepared.config_path).resolve()),
        "folder": str(_modules_folder(Path(prepared.config_path).resolve())),
        "options": list(prepared.options),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    write_text(run.origin, json.dumps(origin, indent=1) + "\n")
    write_text(run.command, f"bash {quote(str(run.script))} {quote(str(run.path))}\n")
    write_plan(run, prepared)
    return run


def _modules_folder(config: Path) -> Path:
    """Return where the user's modules are: beside the configuration, or where a run's own copy of it came from."""
    run = RunDir(config.parent)
    return run_folder(run) if config == run.config and run.origin.is_file() else config.parent


def write_plan(run: RunDir, prepared: Prepared) -> None:
    """Write plan and script into a run directory; `plan.json` comes last and makes it a run."""
    write_text(run.script, script_text(prepared.script))
    write_text(run.plan, prepared.plan.to_json())


def run_folder(run: RunDir) -> Path:
    """Return the folder beside which a run's user modules are found."""
    return Path(read_json(run.origin).get("folder", "."))
