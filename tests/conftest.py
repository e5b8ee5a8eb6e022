"""Fixtures shared by all tests. A skip is loud, and a failure where HVDTRAIN_REQUIRE names what is missing."""

import os
import tempfile
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from hvdtrain.facts import gather_facts
from tests.cluster.jobs import LONG, SHORT, Bench, local_digest
from tests.cluster.slurm import Cluster, missing_programs
from tests.ranks.worlds import WORLDS, Results, run_cases

PROJECT = Path(__file__).parents[1]


def missing(what: str, why: str) -> None:
    """Skip a test that needs `what`, or fail it if `HVDTRAIN_REQUIRE` says that it must be there."""
    if what in os.environ.get("HVDTRAIN_REQUIRE", "").split(","):
        pytest.fail(f"{what} is required here, but {why}")
    pytest.skip(f"NOT TESTED: {why}")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Let each worker of pytest-xdist have whole groups of tests."""
    return Groups(config, log)


class Groups(LoadScopeScheduling):
    """Tests that share what takes long to make stay together: a Slurm, a world of ranks, a module's fixtures."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)[1]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest, where there are workers."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: group(item.nodeid)[0])


def group(nodeid: str) -> tuple[int, str]:
    """Return (place in the order, name) of a test's group."""
    file, _, rest = nodeid.partition("::")
    world = next((world for world in WORLDS if f"[{world}" in rest or f"-{world}]" in rest), None)
    if Path(file).name.startswith("test_slurm"):
        return 0, "slurm"
    return (1, world) if world else (2, file)


@pytest.fixture(scope="session")
def require_horovod() -> None:
    facts = gather_facts()
    if not facts.has_horovod:
        missing("horovod", "Horovod is not installed (hvdtrain build-horovod)")
    if facts.mpi is None:
        missing("horovod", f"there is no Open MPI: {facts.mpi_found}")


@pytest.fixture
def project() -> Path:
    return PROJECT


@pytest.fixture(scope="session", params=WORLDS)
def results(request, tmp_path_factory, require_horovod) -> Results:
    """What every rank of one world returned, case by case."""
    return run_cases(tmp_path_factory.mktemp(request.param), *WORLDS[request.param])


@pytest.fixture(scope="session")
def cluster(require_horovod):
    """A Slurm of four nodes."""
    absent = missing_programs()
    if absent:
        missing("slurm", f"Slurm is not installed here ({', '.join(absent)})")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    with tempfile.TemporaryDirectory(prefix="hvd-slurm-", dir="/tmp") as name:
        cluster = Cluster(Path(name))
        try:
            cluster.up()
            yield cluster
        finally:
            cluster.down()


@pytest.fixture
def bench(cluster, tmp_path):
    """That Slurm and a folder of runs; jobs that are left are cancelled afterwards."""
    yield Bench(cluster, tmp_path)
    cluster.command("scancel", "--me")
    cluster.wait_for_nodes()


@pytest.fixture(scope="session")
def short_digest(tmp_path_factory, require_horovod) -> str:
    return local_digest(tmp_path_factory.mktemp("short"), *SHORT)


@pytest.fixture(scope="session")
def long_digest(tmp_path_factory, require_horovod) -> str:
    return local_digest(tmp_path_factory.mktemp("long"), *LONG)
