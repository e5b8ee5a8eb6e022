"""From a configuration file to a run directory that holds everything needed to run it."""

from __future__ import annotations

import dataclasses
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
from hvdtrain.launch.container import container_of
from hvdtrain.launch.job import config_script
from hvdtrain.launch.request import Setting
from hvdtrain.launch.shell import Script, quote, script_text
from hvdtrain.plan import Plan, make_plan
from hvdtrain.rundir import RunDir, find_runs, read_json, write_text
from hvdtrain.schedulers import SCHEDULERS
from hvdtrain.schedulers.batch import BatchScript, batch_text
from hvdtrain.schedulers.layout import Layout, make_layout
from hvdtrain.sites import Site


@dataclass(frozen=True)
class Prepared:
    """A configuration, its plan and its script, before anything is written. A batch job has a layout on its site."""

    config: Config
    plan: Plan
    script: Script
    config_path: str
    options: tuple[str, ...]
    layout: Layout | None = None
    batch: BatchScript | None = None

    def text(self, *, explain: bool = False) -> str:
        """Return the job script, byte for byte what is executed or submitted."""
        if self.batch is not None:
            return batch_text(self.batch, explain=explain)
        return script_text(self.script, explain=explain)


def prepare(
    config_path: str,
    facts: Facts,
    *,
    overrides: Sequence[str] = (),
    options: Sequence[str] = (),
    site: Site | None = None,
) -> Prepared:
    """Return everything that follows from a configuration on a machine, or in a batch job on a site.

    Args:
        config_path: The file as the user named it.
        facts: The machine; a site's facts take its place.
        overrides: `key=value` texts that change the configuration.
        options: The command-line options behind the overrides, to be repeated in the script.
        site: The cluster, for a batch script.

    Raises:
        ConfigError: If file, overrides or numbers are wrong; `path:line: key: what`.
    """
    given = config = load_config(config_path, overrides)
    layout = None
    if site is not None:
        layout = make_layout(config, site)
        facts = layout.facts()
        if config.launch.strategy not in ("mirrored", "single"):
            config = _with_ranks(config, layout.num_ranks)
    try:
        plan = make_plan(config, facts)
    except PlanError as error:
        found = [located(problem, config_path, overrides) if problem.key else problem for problem in error.problems]
        raise PlanError(found) from error
    if layout is None:
        return Prepared(config, plan, config_script(plan, config_path, options), config_path, tuple(options))
    env = [*(Setting((f"{name}={value}",), "site") for name, value in layout.site.env.items()), BATCH]
    script = config_script(plan, config_path, options, extra_env=env, srun_mpi=layout.site.srun_mpi)
    script = dataclasses.replace(script, notes=(ARRAY_USAGE if config.slurm.array else JOB_USAGE,))
    box = container_of(
        plan.config["container"], site_runtime=layout.site.container, has_gpus=layout.gpus_per_node > 0
    )
    if box is not None:
        script = dataclasses.replace(
            script,
            launch=(*script.launch, *box.launcher_tokens()),
            container=tuple(box.tokens()),
            command=box.command(script.command[1:]),
        )
    scheduler = SCHEDULERS[layout.site.scheduler]
    lead_s, limit_s = config.slurm.stop_lead_s, 60 * config.slurm.time_limit_min
    batch = BatchScript(
        words=scheduler.words,
        directives=tuple(scheduler.directives(config, layout)),
        script=script,
        modules=(*layout.site.modules, *config.slurm.modules),
        prologue=(*layout.site.prologue, *config.slurm.prologue),
        max_requeues=config.slurm.max_requeues,
        is_array=config.slurm.array is not None,
        stop_after_s=max(1, limit_s - lead_s) if lead_s else None,
    )
    return Prepared(given, plan, script, config_path, tuple(options), layout, batch)


JOB_USAGE = "Usage: hvdtrain submit, or: sbatch THIS_FILE [RUN_DIR]; without RUN_DIR the job makes its own."
ARRAY_USAGE = "Usage: hvdtrain submit, which makes a run directory for each index."
BATCH = Setting(
    ("HVDTRAIN_BATCH=1",), "rank 0 looks for the file STOP; after a stop ranks end with 0 and leave the code in EXIT"
)


def _with_ranks(config: Config, num_ranks: int) -> Config:
    launch = config.launch.model_copy(update={"num_ranks": num_ranks})
    return config.model_copy(update={"launch": launch})


def new_run_name() -> str:
    """Return a name for a new run's directory: when it was made and a short id."""
    return f"{datetime.datetime.now().strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def run_of_job(prepared: Prepared, root: Path, run_id: str) -> RunDir:
    """Return the run directory of a batch job, made at its first start."""
    run_id = run_id.replace("-", "_")  # a short id ends at the last dash, and PBS names servers: 12.pbs-01
    for run in find_runs(root):
        if run.short_id == run_id:
            return run
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return new_run(prepared, root, name=f"{stamp}-{run_id}")


def new_run(prepared: Prepared, root: Path, *, name: str | None = None) -> RunDir:
    """Write a new run directory below `root` and return it.

    Args:
        prepared: What it is for.
        root: The directory of all runs.
        name: Of the directory; None for a new one.
    """
    path = root / prepared.plan.name / (name or new_run_name())
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
    write_text(run.command, _command(run, prepared) + "\n")
    write_plan(run, prepared)
    return run


def _command(run: RunDir, prepared: Prepared) -> str:
    """Return the command that makes a new run of the same; of an array's task without the other tasks."""
    verb = "run" if prepared.batch is None else "submit"
    alone = " --set slurm.array=null" if prepared.config.slurm.array else ""
    return f"cd {quote(str(Path.cwd()))} && hvdtrain {verb} {quote(str(run.config))}{alone}"


def _modules_folder(config: Path) -> Path:
    """Return where the user's modules are: beside the configuration, or where a run's own copy of it came from."""
    run = RunDir(config.parent)
    return run_folder(run) if config == run.config and run.origin.is_file() else config.parent


def make_ready_again(run: RunDir, prepared: Prepared) -> None:
    """Clear what an earlier start of a run left, and write what the next one goes by."""
    for record in run.logs.glob("rank_*.error.json"):
        record.unlink()
    for leftover in (run.exit, run.stop, run.progress):
        leftover.unlink(missing_ok=True)
    write_plan(run, prepared)


def write_plan(run: RunDir, prepared: Prepared) -> None:
    """Write plan and script into a run directory; `plan.json` comes last and makes it a run."""
    write_text(run.script, prepared.text())
    write_text(run.plan, prepared.plan.to_json())


def run_folder(run: RunDir) -> Path:
    """Return the folder beside which a run's user modules are found."""
    return Path(read_json(run.origin).get("folder", "."))
