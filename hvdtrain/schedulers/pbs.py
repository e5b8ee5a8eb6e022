"""PBS Pro and OpenPBS: the #PBS lines of a job, each with its reason, and its programs. Tried under stubs only.

https://help.altair.com/2022.1.0/PBS%20Professional/PBSUserGuide2022.1.pdf
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hvdtrain.config import Config
from hvdtrain.errors import EnvironmentNotFitError
from hvdtrain.launch.request import Setting
from hvdtrain.schedulers.layout import Layout
from hvdtrain.schedulers.programs import ask, call, job_environment
from hvdtrain.schedulers.scheduler import QueueEntry, Words

# A PBS script is given no arguments: its run directory comes as this variable.
RUN_DIR = "HVDTRAIN_RUN_DIR"
STATES = {
    "Q": "PENDING",
    "H": "PENDING",
    "W": "PENDING",
    "R": "RUNNING",
    "B": "RUNNING",
    "E": "COMPLETING",
    "F": "COMPLETED",
}
# A PBS job cannot queue itself again without rights that users do not have: `hvdtrain submit --resume` does it.
WORDS = Words(
    directive="#PBS",
    job_id="$PBS_JOBID",
    task_id="$PBS_JOBID",
    array_index="$PBS_ARRAY_INDEX",
    prefixes=("PBS_",),
    begin=(f'set -- "${{1:-${{{RUN_DIR}:-}}}}"', '[ -n "$1" ] || shift', 'cd "${PBS_O_WORKDIR:-$PWD}" || exit'),
    is_active='is_active() { qstat "$1" 2>/dev/null | grep -q " [RE] "; }',
    timer="(sleep {seconds}; kill -USR1 $$) 2>/dev/null &\ntimer=$!",
    end_of_timer='pkill -P "$timer" 2>/dev/null; kill "$timer" 2>/dev/null',
)


class PbsScheduler:
    """The words and programs of PBS."""

    name = "pbs"
    words = WORDS

    def directives(self, config: Config, layout: Layout) -> Iterator[Setting]:
        """Yield the options of qsub that a job's script carries."""
        slurm = config.slurm
        yield Setting((f"-N {config.name[:15]}",), "name, of which PBS takes 15 characters")
        if layout.partition.is_named:
            yield Setting((f"-q {layout.partition_name}",), "slurm.partition: PBS's queue")
        if slurm.account is not None:
            yield Setting((f"-A {slurm.account}",), "slurm.account")
        yield Setting(
            (f"-l select={self._chunk(config, layout)}",), "slurm.nodes, with the CPUs, ranks and GPUs of each"
        )
        place = "scatter:excl" if slurm.exclusive else "scatter"
        yield Setting((f"-l place={place}",), "one part on each node")
        hours, minutes = divmod(slurm.time_limit_min, 60)
        yield Setting((f"-l walltime={hours:02}:{minutes:02}:00",), "slurm.time_limit_min")
        yield Setting(
            ("-r y" if slurm.max_requeues else "-r n",), "whether PBS may start it again (slurm.max_requeues)"
        )
        yield Setting(("-j oe",), "one log for output and errors")
        if slurm.dependency is not None:
            yield Setting((f"-W depend={slurm.dependency}",), "slurm.dependency")
        if slurm.array is not None:
            yield Setting((f"-J {slurm.array}",), "slurm.array: a run per index, its seed is training.seed + index")
        if slurm.mail_user is not None:
            yield Setting((f"-M {slurm.mail_user}",), "slurm.mail_user")
            yield Setting(("-m abe",), "mail when it begins, ends or fails")

    def _chunk(self, config: Config, layout: Layout) -> str:
        parts = [
            str(layout.nodes),
            f"ncpus={layout.ranks_per_node * layout.cpus_per_rank}",
            f"mpiprocs={layout.ranks_per_node}",
            f"ompthreads={layout.cpus_per_rank}",
        ]
        parts += [f"ngpus={layout.gpus_per_node}"] if layout.gpus_per_node else []
        parts += [f"mem={config.slurm.memory.lower()}b"] if config.slurm.memory else []
        return ":".join(parts)

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
        """Hand a script to qsub and return the job's id."""
        environ = {**job_environment(environ, pass_names), RUN_DIR: argument}
        names = ",".join(sorted(environ))
        place = f"{log.removesuffix('INDEX/logs')}^array_index^/logs" if is_array else log
        return ask("qsub", "-v", names, "-o", f"{place}/", str(script), environ=environ).strip()

    def queue(self) -> dict[str, QueueEntry]:
        """Return the user's jobs by id, those that ended lately too."""
        jobs = _jobs(ask("qstat", "-x", "-t", "-f", "-F", "json"))
        return {
            job_id: QueueEntry(job_id, STATES.get(job["job_state"], job["job_state"]), job.get("comment", "None"))
            for job_id, job in jobs.items()
        }

    def details(self, job_id: str) -> dict[str, str]:
        """Return what PBS still knows about a job, by Slurm's names."""
        result = call("qstat", "-x", "-f", "-F", "json", job_id)
        jobs = {} if result.returncode else _jobs(result.stdout)
        job = next(iter(jobs.values()), None)
        if job is None:
            return {}
        state = STATES.get(job["job_state"], job["job_state"])
        return {
            "JobState": state,
            "Reason": job.get("comment", ""),
            "ExitCode": f"{max(0, job.get('Exit_status', 0))}:0",
        }

    def cancel(self, job_id: str) -> None:
        """Cancel a job at once."""
        ask("qdel", job_id)

    def requeue(self, job_id: str) -> None:
        """Queue a job again."""
        ask("qrerun", job_id)


def _jobs(text: str) -> dict[str, Any]:
    """Return the jobs by id that qstat prints as JSON; nothing where it knows none.

    Raises:
        EnvironmentNotFitError: If that is no JSON, as of servers that do not escape what jobs hold.
    """
    try:
        answer = json.loads(text or "{}")
    except ValueError as error:
        raise EnvironmentNotFitError(f"qstat -F json prints what is not JSON: {error}; ask the site") from error
    jobs = answer.get("Jobs") if isinstance(answer, dict) else None
    return jobs if isinstance(jobs, dict) else {}
