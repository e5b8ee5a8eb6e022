"""Fixtures shared by all tests. A skip is loud, and a failure where HVDTRAIN_REQUIRE names what is missing."""

import gc
import json
import os
import sys
import tempfile
from pathlib import Path

import hypothesis
import pytest

from hvdtrain.cli import main
from hvdtrain.facts import gather_facts
from tests.cluster.jobs import SHORT, Bench, local_digest, slow_config
from tests.cluster.slurm import Cluster, missing_programs
from tests.ranks.worlds import WORLDS, Results, run_cases

PROJECT = Path(__file__).parents[1]
CONFIG = {
    "name": "demo",
    "model": {"source": "hvdtrain.workshop.models:digits_cnn"},
    "data": {"source": "hvdtrain.workshop.data:digits"},
    "training": {"epochs": 3, "batch_size_per_replica": 32},
    "launch": {"num_ranks": 2},
}
STARTS_RANKS = {"require_horovod", "results", "cluster"}

# Examples take longer beside other tests; how long says nothing.
hypothesis.settings.register_profile("hvdtrain", deadline=None)
hypothesis.settings.load_profile("hvdtrain")


def pytest_configure() -> None:
    """Let the garbage collector rest while a million objects are imported that stay, as `load_keras` does."""
    gc.disable()


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start ranks run one after the other, in one worker, and those on Slurm first: they wait most.

    Beside them run the tests that take one core, and then those marked `beside`: ranks that meet often take several
    times as long beside others, but most of these tests import and trace.
    """
    items.sort(key=lambda item: ("cluster" not in fixtures(item), is_beside(item)))
    for item in items:
        if STARTS_RANKS & fixtures(item) and not is_beside(item):
            item.add_marker(pytest.mark.xdist_group("ranks"))


def is_beside(item: pytest.Item) -> bool:
    return item.get_closest_marker("beside") is not None and "results" not in fixtures(item)


def fixtures(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.freeze()
    gc.enable()
    grouped = [item for item in session.items if item.get_closest_marker("xdist_group")]
    if hasattr(session.config, "workerinput") and not all(item.nodeid.endswith("@ranks") for item in grouped):
        pytest.exit("this pytest-xdist does not keep the tests that start ranks in one process", returncode=3)


def missing(what: str, why: str) -> None:
    """Skip a test that needs `what`, or fail it if `HVDTRAIN_REQUIRE` says that it must be there."""
    if what in os.environ.get("HVDTRAIN_REQUIRE", "").split(","):
        pytest.fail(f"{what} is required here, but {why}")
    pytest.skip(f"NOT TESTED: {why}")


@pytest.fixture(scope="session")
def require_horovod() -> None:
    facts = gather_facts()
    if not facts.has_horovod:
        missing("horovod", "Horovod is not installed (hvdtrain build-horovod)")
    if facts.mpi is None:
        missing("horovod", f"there is no Open MPI: {facts.mpi_found}")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that holds demo.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo.yaml").write_text(json.dumps(CONFIG))
    return tmp_path


@pytest.fixture
def hvdtrain(monkeypatch, capsys):
    """Call the command line in this process; return (exit code, standard output, standard error)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hvdtrain", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def project() -> Path:
    return PROJECT


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let a test see the results of all worlds that run its case."""
    if "results" in metafunc.fixturenames:
        marks = {mark.name for mark in metafunc.definition.iter_markers()}
        worlds = [
            pytest.param(name, marks=[pytest.mark.thorough] if world.is_thorough else [])
            for name, world in WORLDS.items()
            if marks & world.marks or not world.marks
        ]
        metafunc.parametrize("results", worlds, indirect=True, scope="session")


@pytest.fixture(scope="session")
def results(request, tmp_path_factory, require_horovod) -> Results:
    """What every rank of one world returned, case by case."""
    return run_cases(tmp_path_factory.mktemp(request.param), WORLDS[request.param])


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
def slow_digest(tmp_path_factory, require_horovod) -> str:
    folder = tmp_path_factory.mktemp("slow")
    return local_digest(folder, config=slow_config(folder))
