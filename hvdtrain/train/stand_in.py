"""Data that stand in for others: said aloud, the same on all ranks, recorded, and never mixed with real ones."""

from __future__ import annotations

import json
import socket

from hvdtrain.errors import UserCodeError
from hvdtrain.rundir import read_json, write_text
from hvdtrain.train.checkpoint import Checkpoint
from hvdtrain.train.job import Job
from hvdtrain.train.user_code import Data


def settle(job: Job, data: Data) -> None:
    """Make sure that all ranks hold the real data, or all a stand-in, and record which. A collective.

    Raises:
        UserCodeError: On all ranks alike, naming those that have no data.
    """
    mine = {"host": socket.gethostname(), "stands_in": data.stands_in_for is not None}
    ranks = job.comm.gather_json(mine, name="stand_in")
    without = [rank for rank, theirs in enumerate(ranks) if theirs["stands_in"]]
    if without and len(without) < len(ranks):
        has = next(rank for rank in range(len(ranks)) if rank not in without)
        raise UserCodeError(
            f"{job.plan.config['data']['source']}: rank {has} on {ranks[has]['host']} has the real data, rank "
            f"{without[0]} on {ranks[without[0]]['host']} has not ({len(without)} of {len(ranks)} ranks have not), and "
            "would train on made-up ones. Put the data where all nodes see them (HVDTRAIN_DATA), and let "
            "data.args.stand_in: never refuse to train without them"
        )
    if job.comm.rank == 0:
        found = read_json(job.run.environment) | {"stand_in_for": data.stands_in_for}
        write_text(job.run.environment, json.dumps(found, indent=1) + "\n")


def require_same_kind(job: Job, data: Data, found: Checkpoint | None) -> None:
    """Refuse to go on, or to evaluate, with real data where a stand-in was trained on, and the other way round.

    Raises:
        UserCodeError: Naming both.
    """
    if found is None or "stand_in" not in found.state or found.state["stand_in"] == (data.stands_in_for is not None):
        return
    before, now = ("a stand-in", "the real data") if found.state["stand_in"] else ("the real data", "a stand-in")
    raise UserCodeError(
        f"{job.run.path}: was trained on {before} until step {found.step}, and {job.plan.config['data']['source']} now "
        f"returns {now}. A result of both would mean nothing: start a new run, or bring back what was there"
    )
