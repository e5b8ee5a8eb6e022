import doctest
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdtrain.errors import EnvironmentNotFitError
from hvdtrain.train import devices
from hvdtrain.train.devices import choose_cores, choose_gpu


def test_doctests():
    assert doctest.testmod(devices).failed == 0


def test_one_visible_gpu_is_index_0_whatever_the_rank():
    assert [choose_gpu(1, local_rank=rank, local_size=4) for rank in range(4)] == [0, 0, 0, 0]


def test_several_visible_gpus_go_by_local_rank():
    assert [choose_gpu(4, local_rank=rank, local_size=4) for rank in range(4)] == [0, 1, 2, 3]


def test_too_few_gpus_name_both_counts():
    with pytest.raises(EnvironmentNotFitError, match=r"local rank 2 has no GPU: 4 ranks .* and 2 visible GPUs"):
        choose_gpu(2, local_rank=2, local_size=4)


@given(st.integers(1, 128), st.integers(2, 64))
def test_ranks_of_a_node_get_disjoint_cores(num_cores, local_size):
    found = [
        choose_cores(range(num_cores), local_rank=r, local_size=local_size, num_cpus=num_cores, cores_per_rank=None)
        for r in range(local_size)
    ]
    if num_cores < local_size:
        assert found == [None] * local_size
        return
    assert all(cores is not None and len(cores) == num_cores // local_size for cores in found)
    every = [core for cores in found for core in cores or []]
    assert len(every) == len(set(every))


def test_a_rank_its_launcher_has_bound_stays_there():
    options = {"local_rank": 1, "local_size": 4, "num_cpus": 16}
    assert choose_cores([4, 5, 6, 7], cores_per_rank=4, **options) is None
    assert choose_cores([4, 5, 6, 7], cores_per_rank=None, **options) is None
    assert choose_cores(range(16), cores_per_rank=4, **options) == [4, 5, 6, 7]


@pytest.mark.parametrize(("only_when_idle", "policy"), [(False, os.SCHED_BATCH), (True, os.SCHED_IDLE)])
def test_threads_that_step_back_leave_the_core_to_others(only_when_idle, policy):
    wake = threading.Event()
    before = devices.threads()
    thread = threading.Thread(target=wake.wait)
    thread.start()
    (new,) = devices.threads() - before
    try:
        devices.step_back([new, 2**22], only_when_idle=only_when_idle)  # the second one does not exist: no error
        assert os.sched_getscheduler(new) == policy
        assert os.sched_getscheduler(0) == os.SCHED_OTHER
    finally:
        wake.set()
        thread.join()


def test_a_single_process_keeps_all_cores():
    assert choose_cores(range(8), local_rank=0, local_size=1, num_cpus=8, cores_per_rank=8) is None
