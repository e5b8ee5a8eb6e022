"""`hvdtrain build-horovod`: Horovod for the TensorFlow and MPI found here."""

from __future__ import annotations

import os

import click

from hvdtrain.doctor.recipe import GPU_CHOICES


@click.command(name="build-horovod")
@click.option("--gpu", type=click.Choice(GPU_CHOICES), default="none", show_default=True, help="GPU collectives.")
@click.option("--force", "is_forced", is_flag=True, help="Build anew even if an installed or cached one fits.")
def command(gpu: str, is_forced: bool) -> None:
    """Build Horovod 0.28.1 against the TensorFlow and MPI found here, prove it on 2 ranks, and install it.

    Takes a few minutes once; the wheel is kept in $XDG_CACHE_HOME/hvdtrain (default ~/.cache/hvdtrain).
    Does nothing when the installed Horovod fits.
    """
    from hvdtrain.doctor.builder import build_horovod
    from hvdtrain.doctor.progress import Progress

    build = build_horovod(gpu=gpu, is_forced=is_forced, environ=os.environ, progress=Progress())
    click.echo(f"horovod {build.version}")
