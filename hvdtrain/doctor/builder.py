"""Build, prove and install Horovod for the TensorFlow and MPI of this environment.

Nothing is installed that has not added up on 2 ranks, and nothing half-done is left behind: the wheel is made and
tried in a temporary directory of the cache, renamed into place when it is good, and then installed in one step.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hvdtrain.doctor.adaptations import ADDED, CHANGES
from hvdtrain.doctor.advice import build_obstacles, run_obstacles
from hvdtrain.doctor.diagnose import diagnose
from hvdtrain.doctor.mpi import Mpi
from hvdtrain.doctor.native import build_operations
from hvdtrain.doctor.progress import Progress, run_logged, run_to_the_end
from hvdtrain.doctor.ranks import start_ranks
from hvdtrain.doctor.recipe import (
    HOROVOD_VERSION,
    SDIST_NAME,
    SDIST_SHA256,
    BuildKey,
    build_environment,
    cache_directory,
    gpu_label,
    num_build_jobs,
)
from hvdtrain.doctor.survey import Survey, take_survey
from hvdtrain.errors import EnvironmentNotFitError
from hvdtrain.facts import search_path
from hvdtrain.signals import interruptible

SECONDS_PER_DAY = 86_400
# Importing TensorFlow twice on a slow file system, and the sum itself.
PROOF_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Build:
    """An installed Horovod: its version as pip knows it, its wheel, and whether there was nothing to do."""

    version: str
    wheel: Path
    was_in_place: bool


@dataclass(frozen=True)
class Workshop:
    """Where one build happens: the key of what is built, the directories, the log, and how to show progress."""

    key: BuildKey
    mpi: Mpi
    cache: Path
    log: Path
    progress: Progress
    num_cores: int

    @property
    def shelf(self) -> Path:
        """The cache directory of this key's wheel."""
        return self.cache / "wheels" / self.key.version

    def cached_wheel(self) -> Path | None:
        """Return the finished wheel of this key; None if there is none."""
        return next(iter(sorted(self.shelf.glob("horovod-*.whl"))), None)


def build_horovod(*, gpu: str, is_forced: bool, environ: Mapping[str, str], progress: Progress) -> Build:
    """Make sure that Horovod is installed for this environment; do nothing if it is.

    Args:
        gpu: `none` or `nccl`.
        is_forced: Build anew even if an installed or cached Horovod fits.
        environ: The user's environment.
        progress: Where to show what is going on.

    Raises:
        EnvironmentNotFitError: With the cause and the fix, if something is missing or the build or its proof fails.
    """
    progress.begin("looking at TensorFlow and MPI")
    survey = take_survey(with_ranks=False)
    progress.end()
    refuse(run_obstacles(survey))
    assert survey.mpi is not None
    key = key_of(survey, gpu, environ)
    workshop = open_workshop(key, survey.mpi, environ, progress, survey.num_cores)
    if not is_forced and is_in_place(survey, key):
        progress.say(f"Horovod {key.version} is in place: built for this TensorFlow and this MPI, and it imports")
        build_operations(survey, environ, progress, is_forced=False)
        return Build(key.version, workshop.shelf, was_in_place=True)
    # A node without a compiler may still install what was built elsewhere.
    if is_forced or workshop.cached_wheel() is None:
        refuse(build_obstacles(survey))
    with interruptible():
        wheel = make_wheel(workshop, environ, is_forced=is_forced)
        install(wheel, workshop, environ)
    build_operations(survey, environ, progress, is_forced=is_forced)
    return Build(key.version, wheel, was_in_place=False)


def refuse(obstacles: list[str]) -> None:
    """Stop before any work if something is in the way."""
    if obstacles:
        raise EnvironmentNotFitError("Horovod cannot be built here yet:\n" + "\n".join(obstacles))


def key_of(survey: Survey, gpu: str, environ: Mapping[str, str]) -> BuildKey:
    """Return what a Horovod for this environment depends on."""
    implementation = "cp" if sys.implementation.name == "cpython" else sys.implementation.name
    return BuildKey(
        tensorflow=str(survey.tensorflow["version"]),
        mpi=str(survey.mpi),
        mpi_prefix=survey.mpi.prefix if survey.mpi else "",
        python=f"{implementation}{sys.version_info.major}{sys.version_info.minor}",
        machine=platform.machine(),
        gpu=gpu_label(gpu, environ),
        cxx_abi=str(survey.tensorflow["cxx_abi"]),
    )


def is_in_place(survey: Survey, key: BuildKey) -> bool:
    """Whether the installed Horovod is this very build and imports.

    The version carries the key, so pip itself keeps it in step with the files.
    """
    return survey.packages.get("horovod") == key.version and "error" not in survey.horovod


def open_workshop(
    key: BuildKey, mpi: Mpi, environ: Mapping[str, str], progress: Progress, num_cores: int
) -> Workshop:
    """Make the cache directories and return the workshop."""
    cache = cache_directory(environ)
    try:
        for name in ("wheels", "logs", "source"):
            (cache / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentNotFitError(f"cannot write to {cache}: {error}; set XDG_CACHE_HOME elsewhere") from error
    return Workshop(key, mpi, cache, cache / "logs" / f"{key.version}.log", progress, num_cores)


def make_wheel(workshop: Workshop, environ: Mapping[str, str], *, is_forced: bool) -> Path:
    """Return a wheel that adds up on 2 ranks: the cached one if there is one, else a new one."""
    cached = None if is_forced else workshop.cached_wheel()
    remove_stale(workshop.cache)
    with tempfile.TemporaryDirectory(prefix="build-", dir=workshop.cache) as name:
        scratch = Path(name)
        if cached:
            workshop.progress.say(f"using the wheel built before: {cached}")
            prove(cached, scratch, workshop, environ)
            return cached
        wheel = compile_wheel(scratch, workshop, environ)
        prove(wheel, scratch, workshop, environ)
        return shelve(wheel, workshop)


def compile_wheel(scratch: Path, workshop: Workshop, environ: Mapping[str, str]) -> Path:
    """Download (once), adapt and compile Horovod in `scratch`; return the wheel."""
    workshop.log.unlink(missing_ok=True)
    workshop.progress.say(f"building Horovod {workshop.key.version} (a few minutes); log: {workshop.log}")
    source = adapted_source(fetch_source(scratch, workshop, environ), scratch)
    options = build_environment(
        workshop.key,
        environ,
        path=search_path(),
        num_jobs=num_build_jobs(workshop.num_cores, memory_gb()),
    )
    wheels = scratch / "wheel"
    command = ["wheel", "--verbose", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(source)]
    run_pip("compiling Horovod", command, workshop, options)
    return next(wheels.glob("horovod-*.whl"))


def fetch_source(scratch: Path, workshop: Workshop, environ: Mapping[str, str]) -> Path:
    """Return Horovod's source archive from the cache, downloaded with pip if it is not there."""
    kept = workshop.cache / "source" / SDIST_NAME
    if kept.exists() and is_genuine(kept):
        return kept
    # pip runs setup.py even to download, and that needs the environment's setuptools.
    command = ["download", "--no-deps", "--no-binary", "horovod", "--no-build-isolation", "--dest", str(scratch)]
    hint = f"\nexpected at: {kept}"
    run_pip("downloading Horovod's source", [*command, f"horovod=={HOROVOD_VERSION}"], workshop, environ, hint=hint)
    downloaded = scratch / SDIST_NAME
    if not is_genuine(downloaded):
        raise EnvironmentNotFitError(f"the {SDIST_NAME} that pip downloaded is not the released one (SHA-256 differs)")
    return downloaded.replace(kept)


def is_genuine(archive: Path) -> bool:
    """Whether this is the released source, by its SHA-256."""
    return hashlib.sha256(archive.read_bytes()).hexdigest() == SDIST_SHA256


def adapted_source(archive: Path, scratch: Path) -> Path:
    """Unpack the source and make our changes to it; return its directory."""
    shutil.unpack_archive(archive, scratch)
    source = scratch / SDIST_NAME.removesuffix(".tar.gz")
    for change in CHANGES:
        place = source / change.path
        place.write_text(change.apply(place.read_text()))
    for path, added in ADDED.items():
        shutil.copyfile(added, source / path)
    return source


def run_pip(
    phase: str, arguments: list[str], workshop: Workshop, environ: Mapping[str, str], *, hint: str = ""
) -> None:
    """Run pip with its output in the log; a failure is diagnosed from the log."""
    workshop.progress.begin(phase)
    command = [sys.executable, "-m", "pip", *arguments]
    exit_code = run_logged(command, log=workshop.log, environ=environ, cwd=None, progress=workshop.progress)
    if exit_code:
        cause = diagnose(workshop.log.read_text(errors="replace"))
        workshop.progress.say(f"{phase}: failed")
        raise EnvironmentNotFitError(f"{phase} failed\n{cause}{hint}\nlog:   {workshop.log}")
    workshop.progress.end()


def prove(wheel: Path, scratch: Path, workshop: Workshop, environ: Mapping[str, str]) -> None:
    """Start 2 ranks with this wheel, before it is installed, and check the sum of an allreduce.

    Raises:
        EnvironmentNotFitError: If the ranks do not start, do not form one world, or the sum is wrong.
    """
    workshop.progress.begin("adding numbers on 2 ranks")
    unpacked = scratch / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    path = os.pathsep.join(part for part in (str(unpacked), environ.get("PYTHONPATH", "")) if part)
    start = start_ranks(
        workshop.mpi,
        environ={**environ, "PATH": search_path(), "PYTHONPATH": path},
        num_cores=workshop.num_cores,
        timeout_s=PROOF_TIMEOUT_S,
    )
    packages = {str(rank.allreduce.get("package")) for rank in start.ranks}
    if not start.adds_up or packages != {str(unpacked / "horovod")}:
        with workshop.log.open("a") as log:
            log.write(f"$ {start.command}\n{start.complaint}\n")
        raise EnvironmentNotFitError(
            f"Horovod is compiled, but 2 ranks do not work together, so it was not installed\n"
            f"{diagnose(start.complaint)}\ncommand: {start.command}\nlog:   {workshop.log}"
        )
    workshop.progress.end()


def shelve(wheel: Path, workshop: Workshop) -> Path:
    """Move a proven wheel into the cache; readers see the old one or the new one, never a part."""
    workshop.shelf.mkdir(parents=True, exist_ok=True)
    return wheel.replace(workshop.shelf / wheel.name)


def install(wheel: Path, workshop: Workshop, environ: Mapping[str, str]) -> None:
    """Install the wheel over whatever Horovod is there; an interrupt waits for the end of it."""
    workshop.progress.begin("installing")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--force-reinstall", "--no-index", str(wheel)]
    result = run_to_the_end(command, environ=environ)
    if result.returncode:
        raise EnvironmentNotFitError(f"pip could not install {wheel}\n{diagnose(result.stdout)}\n{result.stdout}")
    workshop.progress.end()


def remove_stale(cache: Path) -> None:
    """Remove the leftovers of builds that were killed more than a day ago."""
    for directory in cache.glob("build-*"):
        if time.time() - directory.stat().st_mtime > SECONDS_PER_DAY:
            shutil.rmtree(directory, ignore_errors=True)


def memory_gb() -> float | None:
    """Return the memory of this machine; None where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    except (ValueError, OSError):
        return None
