"""The batch script of a job as text: what it asks for, the ranks, and how it stops and is queued again.

The shell is told to stop (a signal before the time limit, SIGTERM), and passes that on as a file which rank 0 looks
for; the ranks save, leave their exit code in a file, and end. The script then queues the job again, from outside any
container.
"""

from __future__ import annotations

from dataclasses import dataclass

from hvdtrain.launch.request import Setting
from hvdtrain.launch.shell import Script, array, comment, passed_names, quote, wrap
from hvdtrain.schedulers.scheduler import Words

# Beside the named variables ranks see what the scheduler, MPI, NCCL and site modules tell each other.
PREFIXES = (
    "PMI_", "PMIX_", "OMPI_", "OPAL_", "PRTE_", "UCX_", "FI_", "NCCL_", "CUDA_", "NVIDIA_", "MPICH_",
    "I_MPI_", "APPTAINER_BIND", "SINGULARITY_BIND",
)  # fmt: skip
SECRET = "SLURM_JWT"
STOP_CODE = 75
START = "hvdtrain: start"  # what a script says first: logs are appended to when a job is queued again
# A batch shell is no login shell, so it may not know the command yet.
FIND_MODULE = """\
if ! type module >/dev/null 2>&1; then
  for init in "$LMOD_PKG/init/bash" "$MODULESHOME/init/bash" /etc/profile.d/{lmod,modules,z00_lmod}.sh; do
    # shellcheck disable=SC1090
    if [ -r "$init" ]; then . "$init"; break; fi
  done
fi"""


@dataclass(frozen=True)
class BatchScript:
    """A batch script before it is text.

    Args:
        words: The scheduler's.
        directives: Options of the job.
        script: Ranks, environment and command, as for a launch without a scheduler.
        modules: Environment modules to load.
        prologue: Lines of bash, as the user wrote them.
        max_requeues: How often the job is queued again.
        is_array: Whether each task has a run directory of its own.
        stop_after_s: Seconds after which the script must be told to stop, where the scheduler does not do it.
    """

    words: Words
    directives: tuple[Setting, ...]
    script: Script
    modules: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    max_requeues: int = 0
    is_array: bool = False
    stop_after_s: int | None = None


def batch_text(batch: BatchScript, *, explain: bool = False) -> str:
    """Return the script, byte for byte what `submit` hands over; with `explain` with a reason for each line."""
    parts = [
        _head(batch, explain),
        _run_dir(batch),
        f'echo "{START} of $run_dir on $(hostname), $(date)" >&2\n',
        _prologue(batch),
        _environment(batch, explain),
        array("launch", batch.script.launch, explain) if batch.script.launch else "",
        array("container", batch.script.container, explain) if batch.script.container else "",
        _claim(batch),
        _step(batch),
        _end(batch),
    ]
    return "\n".join(part for part in parts if part)


def _head(batch: BatchScript, explain: bool) -> str:
    lines = ["#!/usr/bin/env bash"]
    for setting in batch.directives:
        if explain:
            lines.append(comment(setting.reason))
        lines += [f"{batch.words.directive} {token}" for token in setting.tokens]
    lines += [comment(batch.script.title), comment(f"Printed by: {batch.script.origin}")]
    lines += [comment(note) for note in batch.script.notes]
    return "\n".join([*lines, "set -uo pipefail", *batch.words.begin, ""])


def _run_dir(batch: BatchScript) -> str:
    lines = ["python=${HVDTRAIN_PYTHON:-python3}"]
    make = " ".join(quote(token) for token in batch.script.new_run)
    if batch.is_array:
        lines += [
            ': "${1:?needs the run directory that hvdtrain submit makes, without its .INDEX}"',
            f"run_dir=$1.{batch.words.array_index}",
        ]
    else:
        lines.append(f'run_dir=${{1:-$("$python" -m hvdtrain {make} --run-id "job{batch.words.job_id}")}} || exit')
    return "\n".join([*lines, ""])


def _prologue(batch: BatchScript) -> str:
    """Return modules and the user's lines; they come from files that were not written for `set -u`."""
    if not batch.modules and not batch.prologue:
        return ""
    lines = ["set +u"]
    if batch.modules:
        lines += [FIND_MODULE, f"module load {' '.join(map(quote, batch.modules))} || exit 3"]
    return "\n".join([*lines, *batch.prologue, "set -u", ""])


def _environment(batch: BatchScript, explain: bool) -> str:
    script = batch.script
    patterns = " | ".join(f"{prefix}*" for prefix in (*batch.words.prefixes, *PREFIXES))
    names = ["PWD", *passed_names(script)]
    lines = [
        comment("Of this job's environment ranks see these names, and what the scheduler and MPI tell them."),
        f'keep=" {wrap(names)} "',
        "while read -r name; do",
        f'  case $name in {patterns}) [ "$name" = {SECRET} ] || continue ;; esac',
        '  case $keep in *" $name "*) ;; *) declare +x "$name" ;; esac',  # the script's own may be among them
        "done < <(compgen -e)",
        'while read -r _ _ name; do unset -f "$name"; done < <(declare -Fx)',
        "unset SLURM_EXPORT_ENV",
        array("rank_env", script.env, explain),
        'export "${rank_env[@]}"',
    ]
    return "\n".join([*lines, ""])


def _claim(batch: BatchScript) -> str:
    job = batch.words.task_id if batch.is_array else batch.words.job_id
    return f"""
{batch.words.is_active}
# One job at a time trains in a run directory. The link names it; a job that has ended does not count.
job={job}
if ! ln -s "$job" "$run_dir/JOB" 2>/dev/null; then
  other=$(readlink "$run_dir/JOB")
  if [ "$other" != "$job" ] && is_active "$other"; then
    echo "hvdtrain: job $other is training in $run_dir; this one ends" >&2
    exit 3
  fi
  ln -sfn "$job" "$run_dir/JOB"
fi
if [ "$(cat "$run_dir/STOP" 2>/dev/null)" = "cancel $job" ]; then
  echo "hvdtrain: cancelled before it began" >&2
  exit {STOP_CODE}
fi
"""


def _step(batch: BatchScript) -> str:
    script = batch.script
    variables = {"{python}": '"$python"', "{run_dir}": '"$run_dir"'}
    command = " ".join(variables.get(token, "") or quote(token) for token in script.command)
    if script.container:
        command = f'"${{container[@]}}" {command}'
    if script.launch:
        command = f'"${{launch[@]}}" {command}'
    timer = ""
    if batch.words.timer is not None and batch.stop_after_s is not None:
        timer = batch.words.timer.format(seconds=batch.stop_after_s) + "\n"
    return f"""\
# A stop is passed on as a file that rank 0 looks for: ranks agree on a step, save, and end with code 0.
rm -f "$run_dir/STOP" "$run_dir/EXIT"
trap '[ -e "$run_dir/STOP" ] || echo "the time limit is near" >"$run_dir/STOP"' USR1
trap '[ -e "$run_dir/STOP" ] || echo "the job was told to end" >"$run_dir/STOP"' TERM
{timer}{command} </dev/null &
step=$!
while wait "$step"; code=$?; kill -0 "$step" 2>/dev/null; do :; done
"""


def _end(batch: BatchScript) -> str:
    lines = ['"$python" -m hvdtrain outcome "$run_dir" --launcher-code "$code"', "code=$?"]
    lines += [batch.words.end_of_timer] if batch.words.timer is not None else []
    if batch.max_requeues and batch.words.requeue is not None:
        words = batch.words
        lines += [
            "# Who writes no STOP has a reason of its own to end, such as training.max_minutes.",
            'stop=$(cat "$run_dir/STOP" 2>/dev/null)',
            f'if [ "$code" = {STOP_CODE} ] && [ -n "$stop" ] && [ "$stop" != "cancel $job" ]; then',
            *(f"  {line}" for line in words.is_ours),
            '  if [ "$ours" = yes ]; then',
            f'    if [ "{words.num_requeues}" -lt {batch.max_requeues} ]; then',
            "      for _ in 1 2 3 4 5; do",
            f"        if {words.requeue}; then",
            '          echo "hvdtrain: queued again, to go on from there" >&2',
            '          exit "$code"',
            "        fi",
            "        sleep 5",
            "      done",
            '      echo "hvdtrain: the scheduler does not queue this job again: hvdtrain submit --resume" >&2',
            "    else",
            f'      echo "hvdtrain: was queued again {batch.max_requeues} times (slurm.max_requeues): no more" >&2',
            "    fi",
            "  fi",
            "fi",
        ]
    return "\n".join([*lines, 'exit "$code"', ""])
