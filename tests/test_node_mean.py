"""The shared-memory mean between plain processes: no MPI, no Horovod, so that leaving and waiting can be arranged."""

import io
import os
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from hvdtrain.doctor.native import build_operations
from hvdtrain.doctor.progress import Progress
from hvdtrain.doctor.survey import installed
from hvdtrain.native import library_path
from tests.conftest import PROJECT, missing
from tests.test_doctor import WHOLE

RANK = """
import ctypes, sys, time
import numpy as np, tensorflow as tf
library, base, rank, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
operation = tf.load_op_library(library).hvdtrain_node_mean

def look(*tensors, patience_s=60):
    file = f"{segment}-{tensors[0].dtype.name}"  # each kernel has its own
    return operation(tensors=tensors, segment=file, rank=rank, size=size, spin_us=0, patience_s=patience_s)

def mean(*tensors, patience_s=60):
    return look(*tensors, patience_s=patience_s).means

DTYPES = ("float32", "float64", "float16", "bfloat16")

def values(of_rank, dtype):
    shapes = [(1,), (7, 3), (4096,), (4097,), (33, 1001), (0, 5)]
    random = np.random.default_rng(of_rank)
    return [tf.constant(random.normal(size=shape), dtype) for shape in shapes]

def expected(dtype):
    total = [value.numpy().astype(np.float64 if dtype == "float64" else np.float32) for value in values(0, dtype)]
    for other in range(1, size):
        total = [a + b.numpy().astype(a.dtype) for a, b in zip(total, values(other, dtype))]
    scale = total[0].dtype.type(1) / total[0].dtype.type(size)
    return [tf.constant(value * scale, dtype).numpy() for value in total]

for number, what in enumerate(sys.argv[5:]):  # several, since importing TensorFlow takes longer
    segment = f"{base}-{number}"
    if what == "bits":
        for dtype in DTYPES:
            for repeat in range(50):
                found = mean(*values(rank, dtype))
                assert all(np.array_equal(a.numpy(), b) for a, b in zip(found, expected(dtype))), (dtype, repeat)
    elif what == "nonfinite":
        large, odd, half = np.full(5000, 1e38), np.ones(37), np.full(3, 6e4)  # the sum of the large ones overflows
        dtype = "float32"
        for bad in (1.0, np.nan, np.inf, -np.inf, 1.0):
            odd[36] = bad if rank == 1 else 1.0
            marks = look(tf.constant(large, dtype), tf.constant(odd, dtype), tf.constant(half, dtype)).nonfinite
            is_bad = not np.isfinite(bad)
            assert marks.numpy().tolist() == [[False, is_bad, False], [False, is_bad and rank == 1, False]], bad
    elif what.startswith("follow"):
        shared, own = np.random.default_rng(7), np.random.default_rng(100 + rank)

        @tf.function
        def means_of(*tensors):  # what is computed in a graph is overwritten in place
            tensors = [tensor * 1 for tensor in tensors]
            return operation(tensors=tensors, segment=segment, rank=rank, size=size, spin_us=int(what[6:])).means

        for repeat in range(100):
            sizes = (5, 16383, 0, 16384, 16385, 50000, 1)
            arrays = [[shared.normal(size=count).astype(np.float32) for count in sizes] for _ in range(size)]
            time.sleep(own.choice([0, 0, 0.003]))
            found = means_of(*map(tf.constant, arrays[rank]))
            wanted = [(a + b) * np.float32(0.5) for a, b in zip(*arrays)]
            assert all(np.array_equal(a.numpy(), b) for a, b in zip(found, wanted)), repeat
    elif what == "leave":
        mean(tf.ones(3))
        if rank == 1:
            ctypes.CDLL(library).hvdtrain_node_leave()
        else:
            mean(tf.ones(3))
    elif what == "late":
        if rank == 1:
            time.sleep(4)
        mean(tf.ones(3), patience_s=1)
    print(what)
"""


@pytest.fixture(scope="module")
def library() -> Path:
    versions = installed(("tensorflow", "tensorflow-cpu"))
    path = library_path(next(iter(versions.values()), "none"), os.environ)
    if not path.exists():
        missing("horovod", f"{path} is not built")
    return path


def run_ranks(library: Path, size: int, *what: str) -> list[subprocess.CompletedProcess]:
    segment = f"/dev/shm/hvdtrain-test-{uuid.uuid4().hex}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(library), segment, str(rank), str(size), *what],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=PROJECT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        for rank in range(size)
    ]
    ended = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        ended.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    assert not list(Path("/dev/shm").glob(f"{Path(segment).name}*")), "the file must go as soon as all ranks have it"
    return ended


@pytest.mark.thorough
def test_bits_of_every_dtype_are_those_of_adding_in_the_order_of_the_ranks_and_each_learns_what_is_not_finite(library):
    for rank in run_ranks(library, 3, "bits", "nonfinite"):
        assert (rank.stdout, rank.returncode) == ("bits\nnonfinite\n", 0), rank.stderr


def test_whoever_comes_first_both_ranks_get_the_same_bits_and_a_long_wait_names_the_late_rank(library):
    waiting, late = run_ranks(library, 2, "follow0", "follow300", "late")
    assert waiting.stdout == late.stdout == "follow0\nfollow300\nlate\n", waiting.stderr + late.stderr
    assert "hvdtrain: rank 0 has waited 1 s for the gradients of rank 1\n" in waiting.stderr
    assert "waited" not in late.stderr


def test_who_waits_for_a_rank_that_left_is_told(library):
    waiting, left = run_ranks(library, 2, "leave")
    assert left.stdout == "leave\n"
    assert waiting.returncode != 0
    assert "rank 1 has left, and the others wait for its gradients in vain" in waiting.stderr


@pytest.mark.parametrize(
    ("tools", "words"),
    [({}, "no C++ compiler"), ({"c++": "/bin/false"}, "do not build here")],
    ids=["none", "broken"],
)
def test_a_build_that_fails_is_said_and_leaves_nothing(tmp_path, tools, words):
    survey = replace(WHOLE, tools=tools, tensorflow={**WHOLE.tensorflow, "compile_flags": [], "link_flags": []})
    said = io.StringIO()
    environ = {"XDG_CACHE_HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    assert build_operations(survey, environ, Progress(said), is_forced=False) is None
    assert words in said.getvalue()
    assert "through Horovod" in said.getvalue()
    assert not list(tmp_path.rglob("*.so"))
