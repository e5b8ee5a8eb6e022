"""Slurm: the #SBATCH lines of a job, each with its reason, and its programs. Works without accounting (sacct).

https://slurm.schedmd.com/sbatch.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hvdtrain.config import Config
from hvdtrain.launch.request import Setting
from hvdtrain.schedulers.layout import Layout
from hvdtrain.schedulers.programs import ask, call, job_environment
from hvdtrain.schedulers.scheduler import QueueEntry, Words

STOP_SIGNAL = "USR1"
IS_ACTIVE = """\
is_active() {
  local answer
  for _ in 1 2 3 4 5; do
    if answer=$(squeue --noheader --jobs="$1" --states=R,CG,S 2>&1); then [ -n "$answer" ]; return; fi
    case $answer in *"Invalid job id"*) return 1 ;; esac
    sleep 5
  done
  echo "hvdtrain: squeue does not say whether job $1 still runs: $answer" >&2
}"""
WORDS = Words(
    directive="#SBATCH",
    job_id="$SLURM_JOB_ID",
    task_id="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID",
    array_index="$SLURM_ARRAY_TASK_ID",
    prefixes=("SLURM_", "SRUN_"),
    is_active=IS_ACTIVE,
    is_ours=(
        "# What Slurm still calls running is ours to queue again; else it was cancelled, or Slurm does it.",
        'for _ in 1 2 3 4 5; do state=$(scontrol --oneliner show job "$SLURM_JOB_ID") && break; sleep 5; done',
        "case $state in *' JobState=RUNNING '*) ours=yes ;; *) ours=no ;; esac",
    ),
    requeue='scontrol requeue "$job"',
    num_requeues="${SLURM_RESTART_COUNT:-0}",
)


class SlurmScheduler:
    """Slurm's words and programs."""

    name = "slurm"
    words = WORDS

    def directives(self, config: Config, layout: Layout) -> Iterator[Setting]:
        """Yield the options of sbatch that a job's script carries."""
        yield Setting((f"--job-name={config.name}",), "name")
        yield from _where(config, layout)
        yield from _how_much(config, layout)
        yield from _when(config)
        yield from _telling(config)
        for name, value in config.slurm.options.items():
            yield Setting((f"--{name}" if value is None else f"--{name}={value}",), "slurm.options")

    def submit(
        self,
        script: Path,
        argument: str,
        log: str,
        environ: Mapping[str, str],
        *,
        pass_names: Sequence[str],
        is_array: bool,
    ) -> str:
        """Hand a script to sbatch and return the job's id."""
        place = log.replace("%", "%%")  # Slurm looks for patterns such as %j in it
        place = f"{place.removesuffix('INDEX/logs')}%a/logs/slurm-%A.out" if is_array else f"{place}/slurm-%j.out"
        environ = job_environment(environ, pass_names)
        return (
            ask("sbatch", "--parsable", f"--output={place}", str(script), argument, environ=environ)
            .strip()
            .partition(";")[0]
        )

    def queue(self) -> dict[str, QueueEntry]:
        """Return the user's jobs by id, those that ended lately too."""
        text = ask("squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i|%T|%r")
        entries = [QueueEntry(*line.split("|", 2)) for line in text.splitlines() if line.count("|") >= 2]
        return {entry.job_id: entry for entry in entries}

    def details(self, job_id: str) -> dict[str, str]:
        """Return all that Slurm still knows about a job; empty if it has forgotten it."""
        result = call("scontrol", "--oneliner", "show", "job", job_id)
        if result.returncode or not result.stdout.strip():
            return {}
        pairs = (word.partition("=") for word in result.stdout.splitlines()[-1].split())
        return {key: value for key, sign, value in pairs if sign}

    def cancel(self, job_id: str) -> None:
        """Cancel a job at once."""
        ask("scancel", job_id)

    def requeue(self, job_id: str) -> None:
        """Queue a job again."""
        ask("scontrol", "requeue", job_id)


def _where(config: Config, layout: Layout) -> Iterator[Setting]:
    slurm = config.slurm
    if layout.partition.is_named:
        said = "slurm.partition" if slurm.partition else f"the default of site {layout.site.name}"
        yield Setting((f"--partition={layout.partition_name}",), said)
    for key in ("account", "qos", "reservation", "constraint"):
        own, of_partition = getattr(slurm, key), getattr(layout.partition, key, None)
        if own is not None or of_partition is not None:
            reason = f"slurm.{key}" if own is not None else f"site {layout.site.name}, {layout.partition_name}"
            yield Setting((f"--{key}={own if own is not None else of_partition}",), reason)
    if slurm.work_dir is not None:
        yield Setting((f"--chdir={slurm.work_dir}",), "slurm.work_dir")


def _how_much(config: Config, layout: Layout) -> Iterator[Setting]:
    slurm = config.slurm
    yield Setting((f"--nodes={layout.nodes}",), "slurm.nodes")
    yield Setting((f"--ntasks-per-node={layout.ranks_per_node}",), f"{layout.num_ranks} ranks, as many on each node")
    yield Setting((f"--cpus-per-task={layout.cpus_per_rank}",), "CPUs of each rank")
    if layout.gpus_per_node:
        kind = f"{slurm.gpu_type}:" if slurm.gpu_type else ""
        option = "gres=gpu:" if layout.site.gpu_option == "gres" else "gpus-per-node="
        yield Setting(
            (f"--{option}{kind}{layout.gpus_per_node}",),
            "per node, not per task: ranks of one node must see each other's GPUs for NCCL",
        )
    if slurm.memory is not None:
        yield Setting((f"--mem={slurm.memory}",), "slurm.memory, per node")
    if slurm.exclusive:
        yield Setting(("--exclusive",), "slurm.exclusive: whole nodes")


def _when(config: Config) -> Iterator[Setting]:
    slurm = config.slurm
    yield Setting((f"--time={slurm.time_limit_min}",), "slurm.time_limit_min, in minutes")
    if slurm.stop_lead_s:
        yield Setting(
            (f"--signal=B:{STOP_SIGNAL}@{slurm.stop_lead_s}",),
            "seconds before the limit this script, and not the ranks, is told to stop",
        )
    if slurm.max_requeues:
        yield Setting(("--requeue",), "a preempted job, or one whose node fails, is queued again and resumes")
    else:
        yield Setting(("--no-requeue",), "slurm.max_requeues: 0")
    if slurm.dependency is not None:
        yield Setting((f"--dependency={slurm.dependency}",), "slurm.dependency")
    if slurm.array is not None:
        yield Setting((f"--array={slurm.array}",), "slurm.array: a run per index, its seed is training.seed + index")


def _telling(config: Config) -> Iterator[Setting]:
    slurm = config.slurm
    yield Setting(("--open-mode=append",), "a job that is queued again must not lose its first log")
    if slurm.mail_user is not None:
        yield Setting((f"--mail-user={slurm.mail_user}",), "slurm.mail_user")
    if slurm.mail_type:
        yield Setting((f"--mail-type={','.join(slurm.mail_type)}",), "slurm.mail_type")
