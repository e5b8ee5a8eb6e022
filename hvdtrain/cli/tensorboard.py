"""`hvdtrain tensorboard`: a run's curves, and how to reach them from one's own machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import click

from hvdtrain.cli.options import runs_option


@click.command(name="tensorboard")
@click.argument("name", metavar="RUN")
@runs_option
def command(name: str, runs_root: Path) -> None:
    """Serve the curves of RUN on this machine's loopback interface, and print the tunnel to type at your desk."""
    from hvdtrain import tunnel
    from hvdtrain.cli.show import talk
    from hvdtrain.errors import HvdtrainError, NotFoundError
    from hvdtrain.rundir import find_run, read_json
    from hvdtrain.runner import end_group
    from hvdtrain.signals import interruptible
    from hvdtrain.sites import load_site

    run = find_run(name, runs_root)
    if not run.tensorboard.is_dir():
        raise NotFoundError(f"{run.path}: no curves yet; they begin with the end of the first epoch")
    login_host = None
    try:
        site = read_json(run.job).get("site")
        login_host = load_site(site, os.environ).login_host if site else None
    except HvdtrainError:
        pass  # a profile that has gone is no reason to show no curves
    port, prefix = tunnel.free_port(), tunnel.random_prefix()
    talk(f"here:          http://127.0.0.1:{port}{prefix}/")
    ssh = tunnel.tunnel_command(host=socket.gethostname(), login_host=login_host, port=port, environ=os.environ)
    talk(f"at your desk:  {ssh}")
    talk(f"               http://127.0.0.1:{tunnel.LOCAL_PORT}{prefix}/     (Ctrl-C ends it)")
    command = tunnel.tensorboard_command(sys.executable, run.tensorboard, port=port)
    environ = {**os.environ, tunnel.PREFIX_NAME: prefix}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, env=environ, stdin=quiet, stderr=quiet, start_new_session=True) as server:
        try:
            with interruptible():  # a closed terminal ends the server as Ctrl-C does
                sys.exit(server.wait())
        finally:
            server.terminate()
            end_group(server.pid)
