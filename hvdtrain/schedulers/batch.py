"""The batch script of a Slurm job as text: what it asks for, the ranks, and how it stops and is queued again.

The shell is told to stop (a signal before the time limit, SIGTERM), and passes that on as a file which rank 0 looks
for; the ranks save, leave their exit code in a file, and end. The script then queues the job again, from outside any
container.
"""

from __future__ import annotations

from dataclasses import dataclass

from hvdtrain.launch.request import Setting
from hvdtrain.launch.shell import Script, array, comment, passed_names, quote, wrap

# Beside the named variables ranks see what Slurm, MPI, NCCL and site modules tell each other.
PREFIXES = (
    "SLURM_", "SRUN_", "PMI_", "PMIX_", "OMPI_", "OPAL_", "PRTE_", "UCX_", "FI_", "NCCL_", "CUDA_", "NVIDIA_", "MPICH_",
    "I_MPI_", "APPTAINER_BIND", "SINGULARITY_BIND",
)  # fmt: skip
SECRET = "SLURM_JWT"
STOP_CODE = 75


@dataclass(frozen=True)
class BatchScript:
    """A batch script before it is text.

    Args:
        directives: Options of sbatch.
        script: Ranks, environment and command, as for a launch without a scheduler.
        modules: Environment modules to load.
        prologue: Lines of bash, as the user wrote them.
        max_requeues: How often the job is queued again.
        is_array: Whether each task has a run directory of its own.
    """

    directives: tuple[Setting, ...]
    script: Script
    modules: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    max_requeues: int = 0
    is_array: bool = False


def batch_text(batch: BatchScript, *, explain: bool = False) -> str:
    """Return the script, byte for byte what `submit` hands to sbatch; with `explain` with a reason for each line."""
    parts = [
        _head(batch, explain),
        _run_dir(batch),
        _prologue(batch),
        _environment(batch.script, explain),
        array("launch", batch.script.launch, explain),
        array("container", batch.script.container, explain) if batch.script.container else "",
        _claim(),
        _step(batch.script),
        _end(batch),
    ]
    return "\n".join(part for part in parts if part)


def _head(batch: BatchScript, explain: bool) -> str:
    lines = ["#!/usr/bin/env bash"]
    for setting in batch.directives:
        if explain:
            lines.append(comment(setting.reason))
        lines += [f"#SBATCH {token}" for token in setting.tokens]
    lines += [comment(batch.script.title), comment(f"Printed by: {batch.script.origin}")]
    lines += [comment(note) for note in batch.script.notes]
    return "\n".join([*lines, "set -uo pipefail", ""])


def _run_dir(batch: BatchScript) -> str:
    lines = ["python=${HVDTRAIN_PYTHON:-python3}"]
    make = " ".join(quote(token) for token in batch.script.new_run)
    if batch.is_array:
        lines += [
            ': "${1:?needs the run directory that hvdtrain submit makes, without its .INDEX}"',
            "run_dir=$1.$SLURM_ARRAY_TASK_ID",
        ]
    else:
        lines.append(f'run_dir=${{1:-$("$python" -m hvdtrain {make} --run-id "job$SLURM_JOB_ID")}} || exit')
    return "\n".join([*lines, ""])


def _prologue(batch: BatchScript) -> str:
    lines = [f"module load {' '.join(map(quote, batch.modules))} || exit 3"] if batch.modules else []
    lines += batch.prologue
    return "\n".join([*lines, ""]) if lines else ""


def _environment(script: Script, explain: bool) -> str:
    names = ["PWD", *passed_names(script)]
    lines = [
        comment("Of this job's environment ranks see these names, and what Slurm and MPI tell them."),
        f'keep=" {wrap(names)} "',
        "while read -r name; do",
        f'  case $name in {"* | ".join(PREFIXES)}*) [ "$name" = {SECRET} ] || continue ;; esac',
        '  case $keep in *" $name "*) ;; *) unset "$name" ;; esac',
        "done < <(compgen -e)",
        'while read -r _ _ name; do unset -f "$name"; done < <(declare -Fx)',
        "unset SLURM_EXPORT_ENV",
        array("rank_env", script.env, explain),
        'export "${rank_env[@]}"',
    ]
    return "\n".join([*lines, ""])


def _claim() -> str:
    return """
# One job at a time trains in a run directory. The link names it; a job that has ended does not count.
if ! ln -s "$SLURM_JOB_ID" "$run_dir/JOB" 2>/dev/null; then
  other=$(readlink "$run_dir/JOB")
  if [ "$other" != "$SLURM_JOB_ID" ] && [ -n "$(squeue --noheader --jobs="$other" --states=R,CG,S 2>/dev/null)" ]; then
    echo "hvdtrain: job $other is training in $run_dir; this one ends" >&2
    exit 3
  fi
  ln -sfn "$SLURM_JOB_ID" "$run_dir/JOB"
fi
"""


def _step(script: Script) -> str:
    variables = {"{python}": '"$python"', "{run_dir}": '"$run_dir"'}
    command = " ".join(variables.get(token, "") or quote(token) for token in script.command)
    if script.container:
        command = f'"${{container[@]}}" {command}'
    return f"""\
# A stop is passed on as a file that rank 0 looks for: ranks agree on a step, save, and end with code 0.
rm -f "$run_dir/STOP" "$run_dir/EXIT"
trap '[ -e "$run_dir/STOP" ] || echo "the time limit is near" >"$run_dir/STOP"' USR1
trap '[ -e "$run_dir/STOP" ] || echo "the job was told to end" >"$run_dir/STOP"' TERM
"${{launch[@]}}" {command} </dev/null &
step=$!
while wait "$step"; code=$?; kill -0 "$step" 2>/dev/null; do :; done
"""


def _end(batch: BatchScript) -> str:
    lines = ['"$python" -m hvdtrain outcome "$run_dir" --launcher-code "$code"', "code=$?"]
    if batch.max_requeues:
        job = "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" if batch.is_array else "$SLURM_JOB_ID"
        read_state = "sed -n 's/.* JobState=\\([A-Z_]*\\).*/\\1/p'"
        lines += [
            comment("What Slurm still calls running is ours to queue again; else it was cancelled, or Slurm does it."),
            f'state=$(scontrol --oneliner show job "$SLURM_JOB_ID" | {read_state})',
            'stop=$(cat "$run_dir/STOP" 2>/dev/null)',
            f'if [ "$code" = {STOP_CODE} ] && [ "$state" = RUNNING ] && [ "$stop" != cancel ]; then',
            f'  if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {batch.max_requeues} ]; then',
            f'    scontrol requeue "{job}" && echo "hvdtrain: queued again, to go on from there" >&2',
            "  else",
            f'    echo "hvdtrain: was queued again {batch.max_requeues} times (slurm.max_requeues): no more" >&2',
            "  fi",
            "fi",
        ]
    return "\n".join([*lines, 'exit "$code"', ""])
