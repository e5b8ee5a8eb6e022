#!/usr/bin/env bash
#PBS -N synthetic
#PBS -q workq
#PBS -l select=1:ncpus=32:mpiprocs=2:ompthreads=16:ngpus=2
#PBS -l place=scatter
#PBS -l walltime=00:30:00
#PBS -r y
#PBS -j oe
# synthetic: 2 ranks, Open MPI 5
# Printed by: hvdtrain render configs/synthetic.yaml --site generic-pbs
# Usage: hvdtrain submit, or: sbatch THIS_FILE [RUN_DIR]; without RUN_DIR the job makes its own.
set -uo pipefail
set -- "${1:-${HVDTRAIN_RUN_DIR:-}}"
[ -n "$1" ] || shift
cd "${PBS_O_WORKDIR:-$PWD}" || exit

python=${HVDTRAIN_PYTHON:-python3}
run_dir=${1:-$("$python" -m hvdtrain plan configs/synthetic.yaml --site generic-pbs --new-run --run-id "job$PBS_JOBID")} || exit

echo "hvdtrain: start of $run_dir on $(hostname), $(date)" >&2

# Of this job's environment ranks see these names, and what the scheduler and MPI tell them.
keep=" PWD HOME USER LOGNAME PATH LD_LIBRARY_PATH PYTHONPATH VIRTUAL_ENV \
  CONDA_PREFIX LANG LC_ALL TZ TERM COLUMNS NO_COLOR TMPDIR \
  XDG_CACHE_HOME XDG_CONFIG_HOME CUDA_VISIBLE_DEVICES KERAS_HOME HVDTRAIN_DATA HVDTRAIN_PROGRESS OPAL_PREFIX PMIX_PREFIX \
  http_proxy https_proxy no_proxy SSL_CERT_FILE REQUESTS_CA_BUNDLE "
while read -r name; do
  case $name in PBS_* | PMI_* | PMIX_* | OMPI_* | OPAL_* | PRTE_* | UCX_* | FI_* | NCCL_* | CUDA_* | NVIDIA_* | MPICH_* | I_MPI_* | APPTAINER_BIND* | SINGULARITY_BIND*) [ "$name" = SLURM_JWT ] || continue ;; esac
  case $keep in *" $name "*) ;; *) declare +x "$name" ;; esac
done < <(compgen -e)
while read -r _ _ name; do unset -f "$name"; done < <(declare -Fx)
unset SLURM_EXPORT_ENV
rank_env=(
  KERAS_BACKEND=tensorflow
  TF_NUM_INTRAOP_THREADS=16
  TF_NUM_INTEROP_THREADS=2
  OMP_NUM_THREADS=16
  TF_CPP_MIN_LOG_LEVEL=1
  PYTHONUNBUFFERED=1
  HVDTRAIN_NUM_RANKS=2
  HVDTRAIN_CORES_PER_RANK=16
  HOROVOD_CYCLE_TIME=0.1
  OMPI_ALLOW_RUN_AS_ROOT=1
  OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  HVDTRAIN_BATCH=1
)
export "${rank_env[@]}"

launch=(
  mpirun --np 2
  --bind-to none
  --mca btl 'self,sm'
)

is_active() { qstat "$1" 2>/dev/null | grep -q " [RE] "; }
# One job at a time trains in a run directory. The link names it; a job that has ended does not count.
job=$PBS_JOBID
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
(sleep 1680; kill -USR1 $$) 2>/dev/null &
timer=$!
"${launch[@]}" "$python" -m hvdtrain.train "$run_dir" </dev/null &
step=$!
while wait "$step"; code=$?; kill -0 "$step" 2>/dev/null; do :; done

"$python" -m hvdtrain outcome "$run_dir" --launcher-code "$code"
code=$?
pkill -P "$timer" 2>/dev/null; kill "$timer" 2>/dev/null
exit "$code"
