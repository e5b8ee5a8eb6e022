import pytest

from hvdtrain.errors import EnvironmentNotFitError
from hvdtrain.launch.rank import rank_info
from hvdtrain.train.world import check_launcher, check_world

OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
GLOO = {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "HOROVOD_LOCAL_RANK": "1", "HOROVOD_LOCAL_SIZE": "2"}
SRUN = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}
BATCH_SHELL = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}


def test_each_launcher_is_understood():
    found = rank_info(OPEN_MPI)
    assert (found.rank, found.size, found.local_rank, found.local_size, found.launcher) == (3, 4, 1, 2, "Open MPI")
    assert rank_info(GLOO).launcher == "horovodrun"
    found = rank_info(SRUN)
    assert (found.rank, found.size, found.local_rank, found.local_size) == (2, 4, 0, None)
    assert rank_info({"PMI_RANK": "1", "PMI_SIZE": "2"}).rank == 1


def test_horovodrun_inside_an_allocation_counts_as_horovodrun():
    assert rank_info({**SRUN, **GLOO}).launcher == "horovodrun"


def test_mpirun_inside_a_slurm_step_counts_as_mpirun():
    assert rank_info({**SRUN, **OPEN_MPI}).rank == 3


def test_a_batch_script_is_not_a_rank():
    assert rank_info(BATCH_SHELL).launcher == "none"
    assert rank_info({}).size == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"OMPI_COMM_WORLD_SIZE": None}, "OMPI_COMM_WORLD_SIZE is not"),
        ({"OMPI_COMM_WORLD_SIZE": "four"}, "whole number; got 'four'"),
        ({"OMPI_COMM_WORLD_SIZE": ""}, "whole number"),
        ({"OMPI_COMM_WORLD_RANK": "-1"}, "whole number; got '-1'"),
        ({"OMPI_COMM_WORLD_RANK": "٣"}, "whole number"),
        ({"OMPI_COMM_WORLD_RANK": "4"}, "0 to size - 1"),
    ],
)
def test_half_an_identity_is_an_error(change, said):
    environ = {key: value for key, value in {**OPEN_MPI, **change}.items() if value is not None}
    with pytest.raises(EnvironmentNotFitError, match=said):
        rank_info(environ)


def test_a_process_that_was_to_be_one_of_several_does_not_train_alone():
    with pytest.raises(EnvironmentNotFitError, match="2 ranks were planned, but this process was started alone"):
        check_launcher(rank_info({}), 2)
    with pytest.raises(EnvironmentNotFitError, match="2 ranks were planned, but Open MPI started 4"):
        check_launcher(rank_info(OPEN_MPI), 2)
    check_launcher(rank_info(OPEN_MPI), 4)
    check_launcher(rank_info(OPEN_MPI), None)


def test_horovod_of_another_mpi_is_noticed():
    with pytest.raises(EnvironmentNotFitError, match="Horovod says rank 0 of 1"):
        check_world(rank_info(OPEN_MPI), 0, 1)
    check_world(rank_info(OPEN_MPI), 3, 4)


def test_srun_with_pmi2_says_where_a_rank_is_in_slurms_words():
    environ = {
        "PMI_RANK": "5", "PMI_SIZE": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
        "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    }  # fmt: skip
    info = rank_info(environ)
    assert (info.rank, info.size, info.local_rank, info.local_size) == (5, 8, 1, 4)
