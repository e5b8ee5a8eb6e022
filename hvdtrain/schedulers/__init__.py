"""How a job queues: its layout on the nodes, its batch script, and talking to the scheduler. One file per scheduler."""

from __future__ import annotations

from hvdtrain.schedulers.pbs import PbsScheduler
from hvdtrain.schedulers.scheduler import QueueEntry, Scheduler
from hvdtrain.schedulers.slurm import SlurmScheduler

SCHEDULERS: dict[str, Scheduler] = {scheduler.name: scheduler for scheduler in (SlurmScheduler(), PbsScheduler())}

__all__ = ["SCHEDULERS", "QueueEntry", "Scheduler"]
