#!/usr/bin/env bash
# mnist_best: 2 ranks, Open MPI 5
# Printed by: hvdtrain render configs/mnist_best.yaml
# Usage: bash THIS_FILE [RUN_DIR]; without RUN_DIR a new run directory is made.
set -euo pipefail

python=${HVDTRAIN_PYTHON:-python3}
run_dir=${1:-$("$python" -m hvdtrain plan configs/mnist_best.yaml --new-run)}

passed=()
for name in HOME USER LOGNAME PATH LD_LIBRARY_PATH PYTHONPATH VIRTUAL_ENV CONDA_PREFIX \
  LANG LC_ALL TZ TERM COLUMNS NO_COLOR TMPDIR XDG_CACHE_HOME \
  XDG_CONFIG_HOME CUDA_VISIBLE_DEVICES KERAS_HOME HVDTRAIN_DATA HVDTRAIN_PROGRESS OPAL_PREFIX PMIX_PREFIX http_proxy \
  https_proxy no_proxy SSL_CERT_FILE REQUESTS_CA_BUNDLE; do
  if [ -n "${!name+set}" ]; then passed+=("$name=${!name}"); fi
done

rank_env=(
  KERAS_BACKEND=tensorflow
  TF_NUM_INTRAOP_THREADS=1
  TF_NUM_INTEROP_THREADS=1
  OMP_NUM_THREADS=1
  TF_CPP_MIN_LOG_LEVEL=1
  PYTHONUNBUFFERED=1
  HVDTRAIN_NUM_RANKS=2
  HVDTRAIN_CORES_PER_RANK=1
  HOROVOD_CYCLE_TIME=0.1
  OMPI_ALLOW_RUN_AS_ROOT=1
  OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
)
launch=(
  mpirun --np 2
  --bind-to none
  --mca btl 'self,sm'
  --mca mpi_yield_when_idle 1
)

exec env -i "${passed[@]}" "${rank_env[@]}" "${launch[@]}" "$python" -m hvdtrain.train "$run_dir" </dev/null
