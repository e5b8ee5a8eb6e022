#!/usr/bin/env bash
#SBATCH --job-name=mnist_best
#SBATCH --qos=regular
#SBATCH --constraint=gpu
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=64
#SBATCH --gpus-per-node=2
#SBATCH --time=30
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
# mnist_best: 2 ranks, srun and Gloo, without MPI
# Printed by: hvdtrain render configs/mnist_best.yaml --site perlmutter
# Usage: hvdtrain submit, or: sbatch THIS_FILE [RUN_DIR]; without RUN_DIR the job makes its own.
set -uo pipefail

python=${HVDTRAIN_PYTHON:-python3}
run_dir=${1:-$("$python" -m hvdtrain plan configs/mnist_best.yaml --site perlmutter --new-run --run-id "job$SLURM_JOB_ID")} || exit

echo "hvdtrain: start of $run_dir on $(hostname), $(date)" >&2

# Of this job's environment ranks see these names, and what the scheduler and MPI tell them.
keep=" PWD HOME USER LOGNAME PATH LD_LIBRARY_PATH PYTHONPATH VIRTUAL_ENV \
  CONDA_PREFIX LANG LC_ALL TZ TERM COLUMNS NO_COLOR TMPDIR \
  XDG_CACHE_HOME XDG_CONFIG_HOME CUDA_VISIBLE_DEVICES KERAS_HOME HVDTRAIN_DATA HVDTRAIN_PROGRESS OPAL_PREFIX PMIX_PREFIX \
  http_proxy https_proxy no_proxy SSL_CERT_FILE REQUESTS_CA_BUNDLE "
while read -r name; do
  case $name in SLURM_* | SRUN_* | PMI_* | PMIX_* | OMPI_* | OPAL_* | PRTE_* | UCX_* | FI_* | NCCL_* | CUDA_* | NVIDIA_* | MPICH_* | I_MPI_* | APPTAINER_BIND* | SINGULARITY_BIND*) [ "$name" = SLURM_JWT ] || continue ;; esac
  case $keep in *" $name "*) ;; *) declare +x "$name" ;; esac
done < <(compgen -e)
while read -r _ _ name; do unset -f "$name"; done < <(declare -Fx)
unset SLURM_EXPORT_ENV
rank_env=(
  KERAS_BACKEND=tensorflow
  TF_NUM_INTRAOP_THREADS=64
  TF_NUM_INTEROP_THREADS=2
  OMP_NUM_THREADS=64
  TF_CPP_MIN_LOG_LEVEL=1
  PYTHONUNBUFFERED=1
  HVDTRAIN_NUM_RANKS=2
  HVDTRAIN_CORES_PER_RANK=64
  HOROVOD_CYCLE_TIME=0.1
  HVDTRAIN_MEET=gloo
  HVDTRAIN_BATCH=1
)
export "${rank_env[@]}"

launch=(
  srun --nodes=1
  --ntasks=2
  --ntasks-per-node=2
  --cpus-per-task=64
  --mpi=none
  --cpu-bind=none
  --kill-on-bad-exit=1
  --wait=60
  --unbuffered
)

is_active() {
  local answer
  for _ in 1 2 3 4 5; do
    if answer=$(squeue --noheader --jobs="$1" --states=R,CG,S 2>&1); then [ -n "$answer" ]; return; fi
    case $answer in *"Invalid job id"*) return 1 ;; esac
    sleep 5
  done
  echo "hvdtrain: squeue does not say whether job $1 still runs: $answer" >&2
}
# One job at a time trains in a run directory. The link names it; a job that has ended does not count.
job=$SLURM_JOB_ID
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
  exit 75
fi

# A stop is passed on as a file that rank 0 looks for: ranks agree on a step, save, and end with code 0.
rm -f "$run_dir/STOP" "$run_dir/EXIT"
trap '[ -e "$run_dir/STOP" ] || echo "the time limit is near" >"$run_dir/STOP"' USR1
trap '[ -e "$run_dir/STOP" ] || echo "the job was told to end" >"$run_dir/STOP"' TERM
"${launch[@]}" "$python" -m hvdtrain.train "$run_dir" </dev/null &
step=$!
while wait "$step"; code=$?; kill -0 "$step" 2>/dev/null; do :; done

"$python" -m hvdtrain outcome "$run_dir" --launcher-code "$code"
code=$?
# Who writes no STOP has a reason of its own to end, such as training.max_minutes.
stop=$(cat "$run_dir/STOP" 2>/dev/null)
if [ "$code" = 75 ] && [ -n "$stop" ] && [ "$stop" != "cancel $job" ]; then
  # What Slurm still calls running is ours to queue again; else it was cancelled, or Slurm does it.
  for _ in 1 2 3 4 5; do state=$(scontrol --oneliner show job "$SLURM_JOB_ID") && break; sleep 5; done
  case $state in *' JobState=RUNNING '*) ours=yes ;; *) ours=no ;; esac
  if [ "$ours" = yes ]; then
    if [ "${SLURM_RESTART_COUNT:-0}" -lt 10 ]; then
      for _ in 1 2 3 4 5; do
        if scontrol requeue "$job"; then
          echo "hvdtrain: queued again, to go on from there" >&2
          exit "$code"
        fi
        sleep 5
      done
      echo "hvdtrain: the scheduler does not queue this job again: hvdtrain submit --resume" >&2
    else
      echo "hvdtrain: was queued again 10 times (slurm.max_requeues): no more" >&2
    fi
  fi
fi
exit "$code"
