"""Calling a scheduler's programs: found or explained, within a time limit, in an environment without secrets."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from hvdtrain.errors import EnvironmentNotFitError, NotFoundError
from hvdtrain.launch.shell import PASSED_NAMES

TIMEOUT_S = 60.0
OF_SLURM = ("sbatch", "squeue", "scontrol", "scancel", "sinfo", "salloc")
# What of the user's environment reaches a job beside the names that ranks see: the scheduler's own, and this Python.
OWN_NAMES = re.compile(
    r"(SLURM|SBATCH|PBS|HVDTRAIN|LMOD|MODULES)_\w+$|MODULE(SHOME|PATH)$|BASH_ENV$|BASH_FUNC_(module|ml)%%$"
)
SECRETS = ("SLURM_JWT",)


class RefusedError(EnvironmentNotFitError):
    """The scheduler has said no, or is not there: nothing was submitted."""


def job_environment(environ: Mapping[str, str], pass_names: Sequence[str]) -> dict[str, str]:
    """Return what a job gets of the user's environment: what ranks may see of it, and no secret.

    >>> job_environment({"HOME": "/me", "AWS_SECRET_ACCESS_KEY": "x", "SLURM_CONF": "/c", "SLURM_JWT": "t"}, [])
    {'HOME': '/me', 'SLURM_CONF': '/c'}
    """
    kept = {*PASSED_NAMES, *pass_names}
    passed = {name: value for name, value in environ.items() if name in kept or OWN_NAMES.match(name)}
    return {name: value for name, value in passed.items() if name not in SECRETS}


def ask(program: str, *words: str, environ: Mapping[str, str] | None = None) -> str:
    """Return what one of the scheduler's programs prints.

    Raises:
        EnvironmentNotFitError: If it is not there, fails, or does not answer; with its own words.
    """
    result = call(program, *words, environ=environ)
    if result.returncode:
        raise RefusedError(f"{program} refuses: {complaint(result)}")
    return result.stdout + result.stderr if not result.stdout.strip() else result.stdout


def call(program: str, *words: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of the scheduler's programs.

    Raises:
        EnvironmentNotFitError: If it is not there or does not answer.
    """
    found = shutil.which(program)
    if found is None:
        raise RefusedError(
            f"{program} is not on PATH, so there is no such scheduler here: log in to a machine of the cluster (or try "
            "Slurm without a cluster: make cluster-up)"
        )
    configuration = os.environ.get("SLURM_CONF")
    if configuration is not None and program in OF_SLURM and not Path(configuration).is_file():
        raise RefusedError(
            f"SLURM_CONF names {configuration}, and there is no such file: unset SLURM_CONF, or start that Slurm "
            "(make cluster-up)"
        )
    try:
        return subprocess.run(
            [found, *words],
            env=dict(os.environ if environ is None else environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EnvironmentNotFitError(f"{program} does not answer within {TIMEOUT_S:g} s") from None
    except OSError as error:
        raise NotFoundError(f"{Path(found)}: {error.strerror}") from error


def complaint(result: subprocess.CompletedProcess[str]) -> str:
    """Return what a program said when it failed, in one line."""
    if "configuration source" in result.stderr:
        return "there is no Slurm here, or SLURM_CONF does not name its configuration (make cluster-up prints it)"
    lines = [line.strip() for line in (result.stderr + result.stdout).splitlines() if line.strip()]
    return " ".join(re.sub(r"^\w+: (error: )?", "", line) for line in lines) or "it does not say why"
