"""Containers around the ranks: the launcher stands outside, so it needs nothing from the image. Pure.

https://apptainer.org/docs/user/latest/mpi.html and https://github.com/NVIDIA/pyxis
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hvdtrain.launch.request import Expansion, Setting

RUN_DIR, HERE = Expansion('"$run_dir"'), Expansion('"$PWD"')
# What of the host would mislead programs of the image.
HOST_ONLY = ("LD_LIBRARY_PATH", "LD_PRELOAD", "VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "OPAL_PREFIX", "PMIX_PREFIX")
NGC_TENSORFLOW = re.compile(r"tensorflow[_:/-]?(\d\d)\.(\d\d)-tf2")
# The first NGC image whose TensorFlow comes with Keras 3 (2.16).
FIRST_WITH_KERAS_3 = (24, 6)


@dataclass(frozen=True)
class Container:
    """How ranks get into an image.

    Args:
        runtime: `apptainer`, `singularity` or `pyxis`.
        image: File or reference.
        binds: Folders of the host to show inside, as `/a` or `/a:/b`.
        python: The image's Python.
        python_path: Folder on the host that holds hvdtrain for that Python; None where the image has it.
        options: Further options of the runtime.
        has_gpus: Whether ranks use GPUs.
    """

    runtime: str
    image: str
    binds: tuple[str, ...]
    python: str
    python_path: str | None
    options: tuple[str, ...]
    has_gpus: bool

    def launcher_tokens(self) -> list[Setting]:
        """Return what srun needs to start the container by itself (Pyxis)."""
        if self.runtime != "pyxis":
            return []
        mounts = ",".join(["$run_dir:$run_dir", "$PWD:$PWD", *(_pair(bind) for bind in self._all_binds())])
        return [
            Setting((f"--container-image={self.image}",), "container.image, started by Slurm's Pyxis"),
            Setting(
                (Expansion(f'--container-mounts="{mounts}"'),), "the run directory and container.binds, seen inside"
            ),
            Setting(("--no-container-mount-home",), "packages in the home directory are for the host's Python"),
            *(Setting((option,), "container.options") for option in self.options),
        ]

    def tokens(self) -> list[Setting]:
        """Return what stands between the launcher and the worker's command; srun outside, the container inside."""
        if self.runtime == "pyxis":
            return []
        gpu = [Setting(("--nv",), "the host's GPU driver inside")] if self.has_gpus else []
        binds = [Setting(("--bind", bind), "container.binds, or container.python_path") for bind in self._all_binds()]
        return [
            Setting((self.runtime, "exec"), "each rank in a container of its own, all of one image"),
            *gpu,
            Setting(("--bind", RUN_DIR), "the run directory inside, at the same path"),
            *binds,
            Setting(("--bind", HERE, "--pwd", HERE), "the same working directory"),
            *(Setting((option,), "container.options") for option in self.options),
            Setting((self.image,), "container.image"),
        ]

    def command(self, arguments: Sequence[str]) -> tuple[str, ...]:
        """Return the worker's command inside."""
        unset = [word for name in HOST_ONLY for word in ("-u", name)]
        path = [f"PYTHONPATH={self.python_path}"] if self.python_path else []
        return ("env", *unset, "PYTHONNOUSERSITE=1", *path, self.python, *arguments)

    def _all_binds(self) -> list[str]:
        path = [self.python_path] if self.python_path else []
        return [*self.binds, *(one for one in path if one not in self.binds)]


def _pair(bind: str) -> str:
    """Return a bind for Pyxis, which wants both sides, inside double quotes.

    >>> _pair("/data")
    '/data:/data'
    """
    both = bind if ":" in bind else f"{bind}:{bind}"
    return re.sub(r'([$`"\\\\])', r"\\\1", both)


def container_of(config: Mapping[str, Any], *, site_runtime: str | None, has_gpus: bool) -> Container | None:
    """Return the container of a configuration's `container` block, or None without an image."""
    if config["image"] is None:
        return None
    runtime = config["runtime"] if config["runtime"] != "auto" else site_runtime or "apptainer"
    return Container(
        runtime=runtime,
        image=config["image"],
        binds=tuple(config["binds"]),
        python=config["python"],
        python_path=config["python_path"],
        options=tuple(config["options"]),
        has_gpus=has_gpus,
    )


def image_complaint(image: str) -> tuple[str, bool] | None:
    """Return (what is wrong with an image as far as its name tells, whether it cannot work), or None.

    >>> image_complaint("/ocean/containers/ngc/tensorflow/tensorflow_23.04-tf2-py3.sif")[1]
    True
    >>> image_complaint("/scratch/mine.sif") is None
    True
    """
    found = NGC_TENSORFLOW.search(image)
    if not found:
        return None
    year, month = int(found[1]), int(found[2])
    if (year, month) < FIRST_WITH_KERAS_3:
        old = " and Python 3.8, and hvdtrain needs 3.10" if (year, month) <= (23, 4) else ""
        first = f"{FIRST_WITH_KERAS_3[0]}.{FIRST_WITH_KERAS_3[1]:02}"
        return (
            f"NGC's TensorFlow image {year}.{month:02} has Keras 2{old}; hvdtrain's optimizer is for Keras 3 "
            f"(TensorFlow 2.16). Use an image of {first} or later, or one of your own",
            True,
        )
    return (
        f"NGC's TensorFlow image {year}.{month:02} was not tried with hvdtrain; compare it first: hvdtrain doctor "
        "--in-container IMAGE",
        False,
    )
