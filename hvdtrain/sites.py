"""Site profiles: what a cluster is like, in one YAML file. Found by name, or given as a path.

`configs/sites/NAME.yaml` of a checkout, installed, or below the working directory, and the user's own in
`$XDG_CONFIG_HOME/hvdtrain/sites/`, which come first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from hvdtrain.config_file import YamlFile
from hvdtrain.config_problems import complaints
from hvdtrain.config_types import (
    ABSOLUTE,
    RUN_NAME,
    SLURM_WORD,
    Bool,
    EnvName,
    EnvValue,
    Module,
    NonNegativeFloat,
    NonNegativeInt,
    OneLine,
    PositiveFloat,
    PositiveInt,
    Section,
    SlurmWord,
    Text,
)
from hvdtrain.errors import ConfigError, NotFoundError
from hvdtrain.names import did_you_mean

Path_ = Annotated[str, Field(pattern=ABSOLUTE)]


class Charge(Section):
    """What an hour costs."""

    unit: Text = Field("SU", description="What the site counts in.")
    per_node_hour: NonNegativeFloat = Field(0.0, description="Units per node and hour.")
    per_gpu_hour: NonNegativeFloat = Field(0.0, description="Units per GPU and hour.")
    per_core_hour: NonNegativeFloat = Field(0.0, description="Units per core and hour.")


class Partition(Section):
    """One partition: the shape of its nodes and its limits."""

    nodes: PositiveInt = Field(description="Nodes in it.")
    cores_per_node: PositiveInt = Field(description="CPUs of a node as Slurm counts them.")
    memory_gb: PositiveFloat | None = Field(None, description="Memory of a node.")
    gpus_per_node: NonNegativeInt = Field(0, description="GPUs of a node.")
    gpu_types: list[SlurmWord] = Field(default_factory=list, description="Types of GPU that may be asked for.")
    max_time_min: PositiveInt | None = Field(None, description="Longest time limit.")
    max_nodes: PositiveInt | None = Field(None, description="Most nodes of one job.")
    whole_nodes: Bool = Field(True, description="Whether a job has its nodes to itself.")
    is_named: Bool = Field(True, description="Whether jobs name it; false where a constraint or QOS stands for it.")
    constraint: SlurmWord | None = Field(None, description="Features to ask for, where slurm.constraint is null.")
    qos: SlurmWord | None = Field(None, description="Quality of service, where slurm.qos is null.")
    charge: Charge = Field(default_factory=Charge)


class Site(Section):
    """A cluster as hvdtrain must know it."""

    name: Annotated[str, Field(pattern=RUN_NAME)]
    description: Text
    checked: Text = Field(description="Where these facts come from and whether they were tried there.")
    scheduler: Literal["slurm", "pbs"] = "slurm"
    login_host: Text | None = Field(None, description="Host to log in to, for tunnels.")
    default_partition: SlurmWord
    partitions: dict[Annotated[str, Field(pattern=SLURM_WORD)], Partition]
    needs_account: Bool = Field(False, description="Whether jobs without an account are refused.")
    launcher: Literal["srun", "mpirun", "native", "horovodrun"] = Field(
        "srun", description="What starts the ranks of a job."
    )
    mpi: Literal["openmpi4", "openmpi5", "mpich", "intelmpi"] = Field(
        "openmpi5", description="The MPI that Horovod is built with there."
    )
    srun_mpi: Literal["pmix", "pmi2", "none"] = Field("pmix", description="srun --mpi=.")
    container: Literal["apptainer", "singularity", "pyxis"] | None = Field(None, description="What starts containers.")
    gpu_option: Literal["gpus-per-node", "gres"] = Field("gpus-per-node", description="How GPUs are asked for.")
    signal_early_s: NonNegativeInt = Field(60, description="How early Slurm may send the signal before the limit.")
    modules: list[Module] = Field(default_factory=list, description="Environment modules to load.")
    prologue: list[OneLine] = Field(default_factory=list, description="Lines of bash before the ranks are started.")
    env: dict[EnvName, EnvValue] = Field(default_factory=dict, description="Environment variables for the ranks.")
    shared: list[Path_] = Field(
        default_factory=list, description="Where file systems are mounted that all nodes share. Empty: everything."
    )
    scratch: Text | None = Field(None, description="Where run directories should go, for people.")

    def partition(self, name: str | None) -> tuple[str, Partition]:
        """Return a partition with its name; None takes the default.

        Raises:
            ConfigError: If the site has none of this name.
        """
        name = name or self.default_partition
        if name not in self.partitions:
            hint = did_you_mean(name, self.partitions) or f"; it has {', '.join(self.partitions)}"
            raise ConfigError(f"slurm.partition: site {self.name} has no partition {name!r}{hint}")
        return name, self.partitions[name]


def load_site(name: str, environ: Mapping[str, str]) -> Site:
    """Return a site's profile.

    Args:
        name: Its name, or the path of a YAML file.
        environ: Where HOME and XDG_CONFIG_HOME are read.

    Raises:
        NotFoundError: If there is no such profile.
        ConfigError: With every problem of the file.
    """
    path = find_site(name, environ)
    document = YamlFile(path)
    if not isinstance(document.data, dict):
        raise ConfigError(
            document.problems([((), "a site profile is a block of 'key: value' lines; see hvdtrain site show")])
        )
    try:
        site = Site.model_validate(document.data)
    except ValidationError as error:
        raise ConfigError(document.problems((one.keys, one.message) for one in complaints(error, Site))) from None
    if site.default_partition not in site.partitions:
        message = f"{site.default_partition!r} is not among the partitions: {', '.join(site.partitions)}"
        raise ConfigError(document.problems([(("default_partition",), message)]))
    return site


def find_site(name: str, environ: Mapping[str, str]) -> Path:
    """Return the file of a site's profile.

    Raises:
        NotFoundError: If there is none.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise NotFoundError(f"site profile {name}: there is no such file")
        return Path(name)
    known = dict(site_files(environ))
    if name not in known:
        hint = did_you_mean(name, known) or f"; known: {', '.join(sorted(known)) or 'none'}"
        raise NotFoundError(
            f"no site profile {name!r}{hint}. Give the path of one, or draft one on the cluster: hvdtrain site init"
        )
    return known[name]


def site_files(environ: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """Yield (name, file) of all profiles; of several with one name the last counts, which is the user's own."""
    installed = Path(sys.prefix) / "share" / "hvdtrain" / "sites"
    checkout = Path(__file__).parents[1] / "configs" / "sites"
    for folder in (installed, checkout, Path("configs/sites"), user_folder(environ)):
        for path in sorted(folder.glob("*.yaml")):
            yield path.stem, path


def user_folder(environ: Mapping[str, str]) -> Path:
    """Return where the user's own profiles are.

    >>> user_folder({"XDG_CONFIG_HOME": "/home/me/conf"}).as_posix()
    '/home/me/conf/hvdtrain/sites'
    """
    given = environ.get("XDG_CONFIG_HOME", "")
    base = Path(given) if Path(given).is_absolute() else Path(environ.get("HOME", "~")).expanduser() / ".config"
    return base / "hvdtrain" / "sites"
