"""`hvdtrain tensorboard`: what runs have written for TensorBoard, and how to reach it from one's own machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import click

from hvdtrain.cli.options import runs_option


@click.command(name="tensorboard")
@click.argument("name", metavar="RUN")
@runs_option
def command(name: str, runs_root: Path) -> None:
    """Serve the curves of RUN on this machine's loopback interface, and print the tunnel to type at your desk.

    RUN may be a directory of several runs, of a sweep or a ladder, or the name of a configuration (all of runs/NAME):
    their hyperparameters and results stand side by side under HParams.
    """
    from hvdtrain import tunnel
    from hvdtrain.cli.show import talk
    from hvdtrain.errors import EnvironmentNotFitError, HvdtrainError
    from hvdtrain.rundir import read_json
    from hvdtrain.runner import end_group
    from hvdtrain.shown_runs import shown_runs
    from hvdtrain.signals import interruptible
    from hvdtrain.sites import load_site

    shown = shown_runs(name, runs_root)
    if find_spec("tensorboard") is None:
        raise EnvironmentNotFitError(
            f"TensorBoard is not installed here (pip install tensorboard); the curves are in {shown.folder}, and any "
            "TensorBoard that can read them shows them"
        )
    login_host = None
    try:
        site = read_json(shown.runs[-1].job).get("site")
        login_host = load_site(site, os.environ).login_host if site else None
    except HvdtrainError:
        pass  # a profile that has gone is no reason to show no curves
    if len(shown.runs) > 1:
        talk(f"{len(shown.runs)} runs in {shown.folder}")
    port, prefix = tunnel.free_port(), tunnel.random_prefix()
    talk(f"here:          http://127.0.0.1:{port}{prefix}/")
    ssh = tunnel.tunnel_command(host=socket.gethostname(), login_host=login_host, port=port, environ=os.environ)
    talk(f"at your desk:  {ssh}")
    talk(f"               http://127.0.0.1:{tunnel.LOCAL_PORT}{prefix}/     (Ctrl-C ends it)")
    command = tunnel.tensorboard_command(sys.executable, shown.folder, port=port)
    environ = {**os.environ, tunnel.PREFIX_NAME: prefix}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, env=environ, stdin=quiet, stderr=quiet, start_new_session=True) as server:
        try:
            with interruptible():  # a closed terminal ends the server as Ctrl-C does
                sys.exit(server.wait())
        finally:
            server.terminate()
            end_group(server.pid)
