"""TensorBoard where the data are, and the way to it from a desk: loopback only, and a path nobody guesses."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Mapping
from pathlib import Path

LOCAL_PORT = 6006
PREFIX_NAME = "HVDTRAIN_PATH_PREFIX"
START = f"""
import os, sys
from tensorboard.main import run_main
sys.argv += ["--path_prefix", os.environ.pop({PREFIX_NAME!r})]
run_main()
"""


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on at this moment."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def random_prefix() -> str:
    """Return a path that keeps other users of this machine out."""
    return f"/{secrets.token_urlsafe(16)}"


def tensorboard_command(python: str, folder: Path, *, port: int) -> list[str]:
    """Return the command that serves a run's curves on loopback; the path comes in PREFIX_NAME, which `ps` hides."""
    options = ["--logdir", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    return [python, "-c", START, *options]


def tunnel_command(*, host: str, login_host: str | None, port: int, environ: Mapping[str, str]) -> str:
    """Return what to type on one's own machine.

    Args:
        host: This machine.
        login_host: Of the site, where it is known.
        port: Where TensorBoard listens here.
        environ: Tells whether this is a compute node (SLURM_JOB_ID, PBS_JOBID) and who the user is.

    >>> in_job = {"SLURM_JOB_ID": "1", "USER": "me"}
    >>> tunnel_command(host="node7", login_host="login.example.org", port=4001, environ=in_job)
    'ssh -N -J me@login.example.org -L 6006:127.0.0.1:4001 me@node7'
    >>> tunnel_command(host="login1", login_host=None, port=4001, environ={"USER": "me"})
    'ssh -N -L 6006:127.0.0.1:4001 me@login1'
    """
    user = f"{environ['USER']}@" if environ.get("USER") else ""
    is_compute_node = "SLURM_JOB_ID" in environ or "PBS_JOBID" in environ
    target = host if is_compute_node or login_host is None else login_host
    jump = f"-J {user}{login_host or 'LOGIN_HOST'} " if is_compute_node else ""
    return f"ssh -N {jump}-L {LOCAL_PORT}:127.0.0.1:{port} {user}{target}"
