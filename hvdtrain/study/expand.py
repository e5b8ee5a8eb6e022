"""From one configuration to the runs of a scaling study."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

ONE_PROCESS = "one process"
RANKS = "ranks"


@dataclass(frozen=True)
class Question:
    """What a study is about.

    Args:
        config: Path of the configuration.
        ranks: Sizes, from the smallest.
        mode: `weak`: the batch of each rank stays. `strong`: the global batch stays.
        repeats: How often each size is measured.
        seconds: Of training that are timed in each run.
        warmup_steps: Steps before that.
        data: `real` or `synthetic`.
        overrides: `key=value` texts that change the configuration.
        cores_per_rank: Cores of each rank on this machine; None in batch jobs, where the site's layout says so.
        global_batch_size: The one that stays, of a strong-scaling study.
        batch_size_per_replica: The one that stays, of a weak-scaling study whose configuration states a global one.
        steps_per_execution: The same at every size; None where the configuration gives them the same by itself.
        with_one_process: Whether one process on all cores is measured beside the ranks.
        site: Profile of the cluster, for batch jobs.
        ranks_per_node: Ranks on each of its nodes, at most.
        cores_per_node: CPUs of each of its nodes.
    """

    config: str
    ranks: tuple[int, ...]
    mode: str
    repeats: int
    seconds: float
    warmup_steps: int
    data: str
    overrides: tuple[str, ...] = ()
    cores_per_rank: int | None = None
    global_batch_size: int | None = None
    batch_size_per_replica: int | None = None
    steps_per_execution: int | None = None
    with_one_process: bool = True
    site: str | None = None
    ranks_per_node: int = 1
    cores_per_node: int = 1

    @property
    def baseline(self) -> int:
        """The size that speed-up and efficiency are taken against."""
        return self.ranks[0]


@dataclass(frozen=True)
class Point:
    """One run of a study.

    Args:
        kind: `ranks` or `one process`.
        num_ranks: Processes.
        repeat: From 0.
    """

    kind: str
    num_ranks: int
    repeat: int

    @property
    def name(self) -> str:
        """As in paths and messages."""
        size = "one_process" if self.kind == ONE_PROCESS else f"ranks_{self.num_ranks:04d}"
        return f"{size}_repeat_{self.repeat + 1}"

    @property
    def title(self) -> str:
        """As in messages."""
        return self.kind if self.kind == ONE_PROCESS else f"{self.num_ranks} rank{'s' if self.num_ranks > 1 else ''}"


def points(question: Question) -> list[Point]:
    """Return the runs in the order to start them: each repeat has all sizes, every other one from the largest.

    >>> found = points(Question("c.yaml", (1, 2), "weak", 2, 10, 50, "real", with_one_process=False))
    >>> [(point.repeat, point.num_ranks) for point in found]
    [(0, 1), (0, 2), (1, 2), (1, 1)]
    """
    sizes = [(RANKS, num_ranks) for num_ranks in question.ranks]
    if question.with_one_process:
        sizes.append((ONE_PROCESS, 1))
    ordered: list[Point] = []
    for repeat in range(question.repeats):
        turn = sizes if repeat % 2 == 0 else sizes[::-1]
        ordered += [Point(kind, num_ranks, repeat) for kind, num_ranks in turn]
    return ordered


def overrides_of(question: Question, point: Point) -> list[str]:
    """Return what makes the configuration that of one point, in front of which the user's own changes count less."""
    measure = f"{{seconds: {question.seconds:g}, warmup_steps: {question.warmup_steps}, data: {question.data}}}"
    changes = [*question.overrides, f"measure={measure}", "checkpoint.every_steps=null", "training.max_minutes=null"]
    is_alone = point.kind == ONE_PROCESS or point.num_ranks == 1
    changes.append(f"launch.strategy={'single' if is_alone else 'horovod'}")
    changes += ["launch.launcher=auto"] if is_alone else []
    changes.append(f"launch.num_ranks={point.num_ranks}")
    if question.cores_per_rank is not None and point.kind == RANKS:
        changes.append(f"launch.cores_per_rank={question.cores_per_rank}")
    if question.steps_per_execution is not None:
        changes.append(f"training.steps_per_execution={question.steps_per_execution}")
    changes += _batch(question)
    return changes + (_on_nodes(question, point) if question.site is not None else [])


def _batch(question: Question) -> list[str]:
    """Return what keeps the batch: the global one, or that of a rank where the configuration states a global one."""
    if question.mode == "strong":
        return ["training.batch_size_per_replica=null", f"training.global_batch_size={question.global_batch_size}"]
    if question.batch_size_per_replica is None:
        return []
    return ["training.global_batch_size=null", f"training.batch_size_per_replica={question.batch_size_per_replica}"]


def _on_nodes(question: Question, point: Point) -> list[str]:
    """Return how one point lies on the nodes of a cluster: as many CPUs for each rank at every size."""
    per_node = min(question.ranks_per_node, point.num_ranks)
    cpus = question.cores_per_node
    if point.kind == RANKS:
        cpus = max(1, cpus // question.ranks_per_node)
    nodes = point.num_ranks // per_node
    return [
        f"slurm.site={json.dumps(question.site, ensure_ascii=False)}",
        f"slurm.nodes={nodes}",
        f"slurm.ranks_per_node={per_node}",
        f"slurm.cpus_per_rank={cpus}",
    ]


def cores_per_rank(ranks: Sequence[int], num_cores: int) -> int:
    """Return the cores each rank of a study gets, the same for all sizes, so that a size brings its cores with it.

    >>> cores_per_rank([1, 2, 4], 16), cores_per_rank([1, 2, 4], 2)
    (4, 1)
    """
    return max(1, num_cores // max(ranks))
