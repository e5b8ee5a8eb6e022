"""Why a run ended, or why it does not start: from what the scheduler, the run directory and the logs say. Pure.

Works without an accounting database: what Slurm has forgotten, the run directory still says.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hvdtrain.errors import ExitCode


@dataclass(frozen=True)
class Evidence:
    """What is known about a run.

    Args:
        is_finished: Whether FINISHED is there.
        exit_code: Of the run: from EXIT, the first failing rank, or the scheduler.
        stop: Text of the file STOP.
        failure: Record of the rank that failed first.
        is_local: Whether `hvdtrain run` started it, and no batch job.
        is_used: Whether something on this machine trains in it; None where that cannot be known.
        job: What the scheduler says about the job, by its own names; empty where it has forgotten it.
        log: The end of the job's log and of the ranks' logs.
    """

    is_finished: bool = False
    exit_code: int | None = None
    stop: str = ""
    failure: Mapping[str, Any] = field(default_factory=dict)
    is_local: bool = False
    is_used: bool | None = None
    job: Mapping[str, str] = field(default_factory=dict)
    log: str = ""


@dataclass(frozen=True)
class Cause:
    """Why.

    Args:
        name: One word for scripts.
        text: The cause in a sentence.
        fix: What to change, by its key in the configuration, or what to do. RUN stands for the run's name, GO_ON for
            the command that continues it.
        evidence: The line or state that says so.
    """

    name: str
    text: str
    fix: str
    evidence: str = ""


@dataclass(frozen=True)
class Pattern:
    """A cause that a line of a log gives away."""

    name: str
    pattern: str
    text: str
    fix: str


SAVED = "nothing to change: GO_ON goes on where it was"

# Slurm's JobState, or its own word in the job's log -> cause. The log outlives the scheduler's memory.
STATES = (
    Pattern(
        "out-of-memory",
        r"OUT_OF_MEMORY|oom[-_ ]kill|Out Of Memory|OutOfMemory",
        "a node ran out of the memory that the job asked for",
        "slurm.memory: more, or training.batch_size_per_replica: less, or fewer ranks per node (slurm.ranks_per_node)",
    ),
    Pattern(
        "time-limit",
        r"\bTIMEOUT\b|DUE TO TIME LIMIT",
        "the time limit came before the state was saved",
        "slurm.stop_lead_s: more, so that a save and an evaluation fit in; or slurm.time_limit_min: more",
    ),
    Pattern("preempted", r"\bPREEMPTED\b|DUE TO PREEMPTION", "a job of higher priority took its nodes", SAVED),
    Pattern(
        "node-failure",
        r"NODE_FAIL|DUE TO NODE FAILURE|Node failure|error: Node \S+ .*(down|unresponsive)",
        "a node failed",
        f"{SAVED}; tell the site which node it was",
    ),
    Pattern("cancelled", r"JobState=CANCELLED|JOB \S+ ON \S+ CANCELLED", "the job was cancelled", SAVED),
    Pattern(
        "launch-failure",
        r"BOOT_FAIL|launch failed|LaunchFailed|JobHeldAdmin",
        "Slurm could not start the job on its nodes",
        "hvdtrain requeue RUN; if it happens again, tell the site",
    ),
)

LOGS = (
    Pattern(
        "another-job",
        r"hvdtrain: job \S+ is training in",
        "another job was training in the same run directory, so this one ended at once",
        "wait for that one, or start a new run",
    ),
    Pattern(
        "pmi-mismatch",
        r"started alone, without a launcher|PMI2?_Init failed|[Pp]lugin.*mpi/\w+|plugin name for mpi/"
        r"|invalid MPI plugin|PMIX ERROR|OPAL ERROR: Not initialized",
        "srun and the MPI do not speak the same language, so every rank was alone or none came up",
        "slurm.mpi: what both know (srun --mpi=list); or launch.launcher: mpirun, or native, which needs no MPI",
    ),
    Pattern(
        "nccl",
        r"NCCL (error|WARN)|ncclSystemError|ncclUnhandledCudaError|ncclInternalError",
        "NCCL failed between GPUs",
        "launch.env: NCCL_DEBUG=INFO shows the first WARN; usual: NCCL_SOCKET_IFNAME must name the nodes' network",
    ),
    Pattern(
        "no-space",
        r"No space left on device|Disk quota exceeded|no space left to write",
        "the disk or the quota is full",
        "free some space, or checkpoint.keep: less, then GO_ON; or --runs FOLDER elsewhere",
    ),
    Pattern(
        "gpu-memory",
        r"OOM when allocating|RESOURCE_EXHAUSTED|CUDA_ERROR_OUT_OF_MEMORY",
        "a GPU ran out of memory",
        "training.batch_size_per_replica: less, with training.gradient_accumulation_steps to keep the global batch; or "
        "training.precision: mixed_bfloat16",
    ),
    Pattern(
        "out-of-memory",
        r"std::bad_alloc|MemoryError|Cannot allocate memory|Detected \d+ oom",
        "a rank ran out of memory",
        "slurm.memory: more, or training.batch_size_per_replica: less, or fewer ranks per node (slurm.ranks_per_node)",
    ),
    Pattern(
        "missing-data",
        r"FileNotFoundError|No such file or directory: .*|is not among the data|cannot be downloaded|URL fetch failure",
        "a file that training needs is not there: compute nodes often have no internet",
        "fetch it on the login node, and let HVDTRAIN_DATA name the folder",
    ),
    Pattern(
        "out-of-sync",
        r"replicas out of sync",
        "the ranks no longer held the same weights, and training stopped at once",
        "look for code that changes weights on some ranks only; the newest checkpoint was saved in sync",
    ),
    Pattern(
        "not-finite",
        r"not finite at step",
        "a loss or gradient became NaN or infinite",
        "optimizer.learning_rate: less, or warm-up; see hvdtrain plan",
    ),
    Pattern(
        "rank-killed",
        r"task \d+: (Killed|Segmentation|Aborted|Bus error)|exited on signal \d+|ended without a word",
        "a rank was killed by a signal",
        "often memory (slurm.memory), or a crash in native code: see that rank's log; GO_ON",
    ),
)

EXIT_CODES = {
    ExitCode.CONFIG: Cause("config", "the configuration, the model or the data do not work", "see the message"),
    ExitCode.ENVIRONMENT: Cause("environment", "the environment on the nodes is not fit", "hvdtrain doctor, on a node"),
    ExitCode.CORRUPT: Cause("corrupt", "checkpoint or data are damaged", "see the message"),
    ExitCode.RANK_LOST: Cause("rank-killed", "a rank was killed or hung", "GO_ON"),
    ExitCode.OUT_OF_SYNC: Cause(
        "out-of-sync", "the ranks no longer held the same weights, or a value was not finite", "see the message"
    ),
    ExitCode.NO_SPACE: Cause(
        "no-space", "the disk or the quota is full", "free some space; GO_ON"
    ),
}

# Codes with which a run ends that somebody stopped here.
ENDED_BY = {
    int(ExitCode.INTERRUPTED): "it was stopped by Ctrl-C; what is saved is its newest checkpoint",
    128 + signal.SIGTERM: "it was told to end (SIGTERM); what is saved is its newest checkpoint",
    128 + signal.SIGHUP: "its terminal was closed (SIGHUP); what is saved is its newest checkpoint",
}

# Codes that say more than what a rank's end makes others say in the logs.
SURE_CODES = (ExitCode.NO_SPACE, ExitCode.CORRUPT)

PENDING = {
    "Resources": (
        "it waits for nodes to become free",
        "nothing to change; fewer slurm.nodes or less time start sooner",
    ),
    "Priority": ("jobs before it have a higher priority", "nothing to change"),
    "Dependency": ("it waits for another job", "slurm.dependency"),
    "DependencyNeverSatisfied": ("the job it waits for has failed, so it never starts", "hvdtrain cancel RUN"),
    "BeginTime": ("it was queued again a moment ago", "nothing to change: it starts within minutes"),
    "PartitionTimeLimit": ("it asks for more time than its partition allows", "slurm.time_limit_min: less"),
    "PartitionNodeLimit": ("it asks for more nodes than its partition allows", "slurm.nodes: less"),
    "PartitionDown": ("its partition is down", "slurm.partition: another one, or wait"),
    "ReqNodeNotAvail": ("nodes it needs are down or reserved", "wait, or ask for others"),
    "InvalidAccount": ("its account is not valid", "slurm.account"),
    "InvalidQOS": ("its quality of service is not valid", "slurm.qos"),
    "JobHeldUser": ("it is held by you", "scontrol release JOB"),
    "JobHeldAdmin": ("it is held by the site, often after failed starts", "ask the site"),
}


def cause_of(evidence: Evidence) -> Cause:
    """Return the plain cause of a run's end, or of its waiting."""
    if evidence.is_finished:
        return Cause("finished", "it has finished", "nothing to do: hvdtrain evaluate RUN")
    return next(_causes(evidence))


def _causes(evidence: Evidence) -> Iterator[Cause]:
    """Yield causes, the surest first."""
    state = evidence.job.get("JobState", "")
    yield from _not_ended(evidence, state)
    if evidence.exit_code == ExitCode.STOPPED:
        words = "hvdtrain cancel" if evidence.stop.startswith("cancel") else evidence.stop or "a stop was asked for"
        yield Cause("stopped", f"it was stopped, its state saved: {words}", SAVED, "EXIT 75")
    if evidence.is_local and evidence.exit_code in ENDED_BY:
        yield Cause("interrupted", ENDED_BY[evidence.exit_code], SAVED, f"exit code {evidence.exit_code}")
    if evidence.exit_code in SURE_CODES:
        yield _by_code(evidence.exit_code)
    found = [*_matching(LOGS, _own_words(evidence)), *_matching(STATES, f"JobState={state}" if state else "")]
    yield from found
    if evidence.failure.get("error") and not evidence.failure.get("is_echo"):
        yield _failed(evidence.failure)
    yield from _matching(STATES, evidence.log)
    yield from _matching(LOGS, evidence.log)
    if evidence.failure.get("error"):
        yield _failed(evidence.failure)
    if evidence.exit_code in EXIT_CODES:
        yield _by_code(evidence.exit_code)
    yield from _without_a_word(evidence)


def _not_ended(evidence: Evidence, state: str) -> Iterator[Cause]:
    if evidence.is_used:
        yield Cause("running", "it is running on this machine", "nothing to do: hvdtrain status RUN")
    if state == "PENDING":
        yield _pending(evidence.job.get("Reason", ""))
    if state in ("RUNNING", "CONFIGURING", "COMPLETING"):
        yield Cause("running", "it is running", "nothing to do: hvdtrain status RUN", f"JobState={state}")


def _without_a_word(evidence: Evidence) -> Iterator[Cause]:
    code = "" if evidence.exit_code is None else f"exit code {evidence.exit_code}"
    if evidence.exit_code is not None and evidence.exit_code > 128:
        yield Cause("rank-killed", f"a process was killed by signal {evidence.exit_code - 128}", SAVED, code)
    if evidence.is_local and evidence.is_used is False and evidence.exit_code is None:
        text = "it was killed together with the command that started it: SIGKILL, want of memory, or a restart"
        yield Cause("killed", text, SAVED, "no process of it is left, and none said why")
    yield Cause("unknown", "nothing that is left says why", "hvdtrain logs RUN, and the logs of its ranks", code)


def _by_code(code: int) -> Cause:
    known = EXIT_CODES[ExitCode(code)]
    return Cause(known.name, known.text, known.fix, f"exit code {code}")


def _own_words(evidence: Evidence) -> str:
    """Return what the first failing rank said: surer than what its end made others say."""
    return f"{evidence.failure.get('error', '')}: {evidence.failure.get('message', '')}" if evidence.failure else ""


def _matching(patterns: tuple[Pattern, ...], text: str) -> Iterator[Cause]:
    for known in patterns:
        found = re.search(rf"^.*(?:{known.pattern}).*$", text, re.MULTILINE)
        if found:
            yield Cause(known.name, known.text, known.fix, found[0].strip()[:300])


def _pending(reason: str) -> Cause:
    known = next((name for name in PENDING if reason == name), None) or next(
        (name for name in PENDING if reason.startswith(name)), None
    )
    text, fix = PENDING.get(known or "", (f"the scheduler says: {reason or 'nothing'}", "ask the site what this means"))
    return Cause("pending", text, fix, f"Reason={reason}")


def _failed(failure: Mapping[str, Any]) -> Cause:
    lines = str(failure.get("message", "")).strip().splitlines()
    message = lines[0] if lines else ""
    return Cause(
        "exception",
        f"rank {failure.get('rank')} failed first: {failure['error']}",
        "see that rank's log: hvdtrain logs RUN --rank " + str(failure.get("rank")),
        message[:300],
    )
