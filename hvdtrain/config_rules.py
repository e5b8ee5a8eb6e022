"""Which settings do not go together, or are not supported yet: rules over plain values, as a table.

Each rule names the keys it looks at, so that a rule is left out where one of them is wrong in itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hvdtrain.names import did_you_mean
from hvdtrain.yaml_scalars import shorten, shown

KeyPath = tuple[str | int, ...]

HAVE_MOMENTUM = ("sgd", "rmsprop")
# optimizer.args that have a key of their own, where the plan and the ledger see them
OWN_KEYS = {
    "name": "optimizer.name",
    "learning_rate": "optimizer.learning_rate",
    "momentum": "optimizer.momentum",
    "global_clipnorm": "optimizer.clip",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
}

# slurm.options that have a key of their own, or are hvdtrain's business
SBATCH_KEYS = {
    "account": "account", "array": "array", "chdir": "work_dir", "constraint": "constraint", "cpus-per-task":
    "cpus_per_rank", "dependency": "dependency", "exclusive": "exclusive", "gpus-per-node": "gpus_per_node",
    "mail-type": "mail_type", "mail-user": "mail_user", "mem": "memory", "nodes": "nodes", "ntasks-per-node":
    "ranks_per_node", "ntasks": "ranks_per_node", "partition": "partition", "qos": "qos", "requeue": "max_requeues",
    "no-requeue": "max_requeues", "reservation": "reservation", "signal": "stop_lead_s", "time": "time_limit_min",
}  # fmt: skip


@dataclass(frozen=True)
class Broken:
    """A broken rule: the keys it looked at, the one to name first, and what is wrong."""

    keys: tuple[KeyPath, ...]
    message: str


@dataclass(frozen=True)
class Rule:
    """`check` takes the values of `keys` and returns what is wrong with them together, or None."""

    keys: str
    check: Callable[..., str | None]


def broken_rules(values: Mapping[str, Any], doubtful: Set[KeyPath] = frozenset()) -> Iterator[Broken]:
    """Yield the rules that the values break.

    Args:
        values: The whole configuration as nested mappings, defaults filled in.
        doubtful: Keys that are wrong in themselves; rules that look at them are left out.
    """
    for rule in RULES:
        keys = tuple(tuple(key.split(".")) for key in rule.keys.split())
        if not any(_are_related(key, doubt) for key in keys for doubt in doubtful):
            message = rule.check(*(_at(values, key) for key in keys))
            if message:
                yield Broken(keys, message)
    schedule_keys = ("optimizer", "schedule_args"), ("optimizer", "schedule")
    if not any(_are_related(key, doubt) for key in schedule_keys for doubt in doubtful):
        yield from _schedule_args(values["optimizer"]["schedule"], values["optimizer"]["schedule_args"])


def _are_related(one: KeyPath, other: KeyPath) -> bool:
    """Tell whether one key is the other, or lies inside it."""
    return all(a == b for a, b in zip(one, other, strict=False))


def _at(values: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    for key in keys:
        values = values[key]
    return values


# -- the rules ----------------------------------------------------------------------------------


def _one_of(first: str, second: str) -> Callable[..., str | None]:
    def check(a: Any, b: Any) -> str | None:
        if a is None and b is None:
            return f"give either {first} or {second}; got neither"
        if a is not None and b is not None:
            return f"give either {first} or {second}, not both; got {first} {a} and {second} {b}"
        return None

    return check


def _ranks_fit(num_ranks: int | None, strategy: str) -> str | None:
    if (num_ranks or 1) == 1 or strategy not in ("mirrored", "single"):
        return None
    use = "; for several devices set launch.num_devices" if strategy == "mirrored" else ""
    return f"strategy {strategy!r} has one process, so num_ranks must be 1 or null; got {num_ranks}{use}"


def _launcher_fits_ranks(launcher: str, num_ranks: int | None) -> str | None:
    if launcher == "none" and (num_ranks or 1) > 1:
        return f"launcher 'none' starts one rank, but num_ranks is {num_ranks}; use 'auto' or 'mpirun'"
    return None


def _launcher_fits_strategy(launcher: str, strategy: str) -> str | None:
    if launcher not in ("auto", "none") and strategy in ("mirrored", "single"):
        return f"strategy {strategy!r} has one process, which needs no {launcher}; use 'auto' or 'none'"
    return None


def _cores_fit(cores_per_rank: int | None, site: str | None) -> str | None:
    if cores_per_rank is not None and site is not None:
        return "is for runs on this machine; in a batch job set slurm.cpus_per_rank instead"
    return None


def _options_fit(options: dict[str, str | None]) -> str | None:
    own = [f"{name} (set slurm.{SBATCH_KEYS[name]} instead)" for name in options if name in SBATCH_KEYS]
    return f"cannot hold {', '.join(own)}" if own else None


def _nodes_divide(nodes: int, ranks_per_node: int | None, num_ranks: int | None) -> str | None:
    if num_ranks is None:
        return None
    if ranks_per_node is not None and nodes * ranks_per_node != num_ranks:
        return f"{nodes} nodes x {ranks_per_node} ranks per node are not launch.num_ranks {num_ranks}"
    if ranks_per_node is None and num_ranks % nodes:
        fitting = nodes * -(-num_ranks // nodes)
        return (
            f"{num_ranks} ranks (launch.num_ranks) do not divide over {nodes} nodes; ask for as many on each: --ranks "
            f"{fitting}, or fewer nodes"
        )
    return None


def _hostfile_fits(hostfile: str | None, launcher: str, num_ranks: int | None) -> str | None:
    if hostfile is None:
        return None
    if launcher not in ("auto", "mpirun", "horovodrun"):
        return f"a list of hosts is for mpirun or horovodrun; launch.launcher is {launcher!r}"
    return "needs launch.num_ranks: how many ranks the hosts share" if num_ranks is None else None


def _devices_fit(num_devices: int | str, strategy: str) -> str | None:
    if num_devices != "auto" and strategy == "horovod":
        return f"under strategy 'horovod' each rank has one device; got {num_devices}; set launch.num_ranks instead"
    if num_devices not in ("auto", 1) and strategy == "single":
        return f"strategy 'single' has one device; got {num_devices}; use strategy 'mirrored' for several"
    return None


def _env_once(pass_env: list[str], env: dict[str, str]) -> str | None:
    both = [name for name in pass_env if name in env]
    return f"{', '.join(both)}: either passed on or set in launch.env, not both" if both else None


def _stage_fits(stage: Mapping[str, Any] | None, args: Mapping[str, Any]) -> str | None:
    for name in stage["args"] if stage else ():
        if name not in args:
            return f"data.args has no {name!r} to copy{did_you_mean(name, args) or '; name one of its arguments'}"
        paths = args[name] if isinstance(args[name], list | tuple) else [args[name]]
        if not all(isinstance(path, str) for path in paths):
            return f"data.args.{name} must be a path, a pattern or a list of paths; got {shown(args[name])}"
    return None


def _no_duplicates(names: list[str]) -> str | None:
    twice = ", ".join(shown(name) for name, count in Counter(names).items() if count > 1)
    return f"each name once; got {shorten(twice)} more than once" if twice else None


def _momentum_fits(momentum: float | None, name: str) -> str | None:
    if momentum is not None and name.lower() not in HAVE_MOMENTUM:
        return f"{name} takes no momentum (only {' and '.join(HAVE_MOMENTUM)} do); remove it or set it to null"
    return None


def _warmup_fits(warmup_epochs: float, schedule: str) -> str | None:
    if warmup_epochs > 0 and schedule == "one_cycle":
        return "schedule 'one_cycle' has a warm-up of its own (schedule_args.warmup_fraction); set warmup_epochs to 0"
    return None


def _optimizer_args(args: dict[str, Any]) -> str | None:
    own = [f"{name} (set {OWN_KEYS[name]} instead)" for name in args if name in OWN_KEYS]
    return f"cannot hold {', '.join(own)}" if own else None


def _skip_fits(on_nonfinite: str, gradient_accumulation_steps: int, strategy: str) -> str | None:
    if on_nonfinite != "skip":
        return None
    if gradient_accumulation_steps > 1:
        return (
            f"'skip' does not go with gradient_accumulation_steps {gradient_accumulation_steps}: good steps are lost "
            "with the bad one they were added to; use 'stop', or 1"
        )
    if strategy == "mirrored":
        return "'skip' needs the averaged gradients, which MirroredStrategy keeps to itself; use 'stop'"
    return None


def _adasum_fits(op: str, num_groups: int | None, precision: str, strategy: str) -> str | None:
    if op != "adasum":
        return None
    if num_groups is not None:
        return f"'adasum' sends each gradient by itself, so horovod.num_groups must be null; got {num_groups}"
    if precision == "mixed_float16":
        return (
            "'adasum' multiplies gradients with each other, and those of a scaled loss (mixed_float16) overflow; use "
            "mixed_bfloat16 or float32"
        )
    if strategy in ("mirrored", "single"):
        return f"'adasum' is Horovod's, and strategy {strategy!r} does without Horovod; use 'auto' or 'horovod'"
    return None


def _timeline_in_order(timeline: Mapping[str, Any] | None) -> str | None:
    if timeline is None or timeline["first_step"] <= timeline["last_step"]:
        return None
    return f"first_step {timeline['first_step']} comes after last_step {timeline['last_step']}"


def _profile_fits(steps: list[int] | None, timeline: Mapping[str, Any] | None) -> str | None:
    if steps is None:
        return None
    if steps[0] > steps[1]:
        return f"first step {steps[0]} comes after last step {steps[1]}"
    return None if timeline is None else "timeline records rank 0's profile as well; leave one of the two out"


RULES = (
    Rule("training.epochs training.steps", _one_of("epochs", "steps")),
    Rule(
        "training.batch_size_per_replica training.global_batch_size",
        _one_of("batch_size_per_replica", "global_batch_size"),
    ),
    Rule("optimizer.momentum optimizer.name", _momentum_fits),
    Rule("optimizer.warmup_epochs optimizer.schedule", _warmup_fits),
    Rule("optimizer.args", _optimizer_args),
    Rule("sync.on_nonfinite training.gradient_accumulation_steps launch.strategy", _skip_fits),
    Rule("metrics", _no_duplicates),
    Rule("launch.num_ranks launch.strategy", _ranks_fit),
    Rule("launch.launcher launch.num_ranks", _launcher_fits_ranks),
    Rule("launch.launcher launch.strategy", _launcher_fits_strategy),
    Rule("launch.num_devices launch.strategy", _devices_fit),
    Rule("launch.cores_per_rank slurm.site", _cores_fit),
    Rule("launch.pass_env launch.env", _env_once),
    Rule("launch.pass_env", _no_duplicates),
    Rule("launch.hostfile launch.launcher launch.num_ranks", _hostfile_fits),
    Rule("slurm.options", _options_fit),
    Rule("slurm.nodes slurm.ranks_per_node launch.num_ranks", _nodes_divide),
    Rule("timeline", _timeline_in_order),
    Rule("data.stage data.args", _stage_fits),
    Rule("tensorboard.profile_steps timeline", _profile_fits),
    Rule("horovod.op horovod.num_groups training.precision launch.strategy", _adasum_fits),
)


# -- what each schedule takes -------------------------------------------------------------------


@dataclass(frozen=True)
class Argument:
    """What a schedule's argument must be, in words and as a test."""

    words: str
    is_valid: Callable[[Any], bool]


def _number(words: str, is_valid: Callable[[float], bool]) -> Argument:
    return Argument(words, lambda value: _is_number(value) and is_valid(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_boundaries(value: Any) -> bool:
    if not (isinstance(value, list) and value and all(_is_number(item) and item > 0 for item in value)):
        return False
    return all(a < b for a, b in pairwise(value))


_FINAL_FACTOR = _number("a number from 0 to 1", lambda value: 0 <= value <= 1)
SCHEDULE_ARGS = {
    "constant": {},
    "step": {
        "boundaries_epochs": Argument("a list of increasing numbers of epochs greater than 0", _are_boundaries),
        "factor": _number("a number between 0 and 1", lambda value: 0 < value < 1),
    },
    "cosine": {"final_factor": _FINAL_FACTOR},
    "one_cycle": {
        "warmup_fraction": _number("a number between 0 and 1", lambda value: 0 < value < 1),
        "final_factor": _FINAL_FACTOR,
    },
    "polynomial": {"power": _number("a number greater than 0", lambda value: value > 0), "final_factor": _FINAL_FACTOR},
}


def _schedule_args(schedule: str, args: Mapping[str, Any]) -> Iterator[Broken]:
    allowed = SCHEDULE_ARGS[schedule]
    base = ("optimizer", "schedule_args")
    for name, value in args.items():
        if name not in allowed:
            valid = f"it takes {', '.join(allowed)}" if allowed else "it takes none"
            hint = did_you_mean(name, allowed) or f"; {valid}"
            yield Broken(((*base, name),), f"schedule {schedule!r} has no such argument{hint}")
        elif not allowed[name].is_valid(value):
            yield Broken(((*base, name),), f"must be {allowed[name].words}; got {shown(value)}")
    if schedule == "step" and "boundaries_epochs" not in args:
        yield Broken(
            (base, ("optimizer", "schedule")),
            "schedule 'step' needs schedule_args.boundaries_epochs, the epochs at which the rate drops: [30, 60]",
        )
