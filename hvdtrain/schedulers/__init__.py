"""How a job queues: its layout on the nodes, its batch script, and talking to the scheduler. One file per scheduler."""

from __future__ import annotations

from hvdtrain.schedulers.pbs import Pbs
from hvdtrain.schedulers.scheduler import QueueEntry, Scheduler
from hvdtrain.schedulers.slurm import Slurm

SCHEDULERS: dict[str, Scheduler] = {scheduler.name: scheduler for scheduler in (Slurm(), Pbs())}

__all__ = ["SCHEDULERS", "QueueEntry", "Scheduler"]
