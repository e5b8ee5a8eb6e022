"""What the plan says about gradients that travel between ranks in another way than averaged as they are. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvdtrain.errors import PlanError, Problem
from hvdtrain.replicas import World

if TYPE_CHECKING:
    from hvdtrain.config import Config


def exchange_lines(config: Config, world: World) -> list[tuple[str, str, str]]:
    """Return the ledger's lines about gradients that travel in another way than averaged as they are.

    Raises:
        PlanError: For Adasum over a number of ranks that is no power of two.
    """
    if world.strategy != "horovod":
        return []
    horovod, ranks = config.horovod, world.num_ranks
    found = []
    if horovod.op == "adasum":
        if ranks & (ranks - 1):
            fitting = 2 ** (ranks.bit_length() - 1)
            raise PlanError(
                Problem(
                    "'adasum' combines ranks in pairs, pairs of pairs and so on, so launch.num_ranks must be a power "
                    f"of two; got {ranks}. Use {fitting} ranks, or 'average'",
                    "horovod.op",
                )
            )
        found.append(("gradients", "adasum", "no mean: results differ from those of one process"))
    if horovod.compression != "none":
        found.append(("gradients travel as", "float16", "horovod.compression: fp16, rounded to 3 digits"))
    if horovod.num_groups is not None:
        found.append(("gradient collectives", str(horovod.num_groups), "horovod.num_groups, per step and dtype"))
    return found


def exchange_warnings(config: Config, world: World) -> tuple[str, ...]:
    """Return what to be careful about."""
    found = []
    horovod = config.horovod
    asked = [
        f"horovod.{name}: {value}"
        for name, value in horovod.model_dump(include={"compression", "op", "num_groups"}).items()
        if value not in ("none", "average", None)
    ]
    if asked and world.strategy != "horovod":
        found.append(f"{' and '.join(asked)} has no effect: strategy {world.strategy!r} does without Horovod")
    if horovod.op == "adasum" and config.optimizer.lr_scaling == "linear" and world.num_replicas > 1:
        found.append(
            "lr_scaling: linear with horovod.op: adasum: Adasum adds what gradients do not have in common, so the rate "
            "of one replica fits; set lr_scaling: none"
        )
    return tuple(found)
