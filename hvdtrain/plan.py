"""From what the user said to every derived number, once, each with the rule that made it (the ledger).

Nothing after a Plan multiplies by the world size again. Pure: the machine comes in as `Facts`. Workers read a plan
with the standard library alone, so this module imports neither pydantic nor TensorFlow.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hvdtrain import scaling
from hvdtrain.batches import Batches, choose_batches, steps_per_execution
from hvdtrain.errors import CorruptError, PlanError, Problem
from hvdtrain.exchanges import exchange_lines, exchange_warnings
from hvdtrain.facts import Facts
from hvdtrain.known_data import known_num_examples
from hvdtrain.replicas import World, choose_world

if TYPE_CHECKING:
    from hvdtrain.config import Config

ADAPTIVE = ("adam", "adamw", "adamax", "nadam", "rmsprop", "adagrad", "adafactor", "lamb", "lion", "muon")
PLAN_VERSION = 6
# Not 0, at which Horovod's threads give up the core without end (sched_yield) and never sleep: where such ranks are
# stopped and continued, as gang scheduling does, Linux 6.18 let nothing else on the machine run for minutes.
DEFAULT_CYCLE_TIME_MS = 0.1


@dataclass(frozen=True)
class Entry:
    """One line of the ledger: a number and the rule that made it."""

    name: str
    value: str
    rule: str


@dataclass(frozen=True)
class Plan:
    """Every number a run needs. Steps count optimizer calls (micro-steps when gradients are accumulated).

    `batch_size_per_replica` is the largest; replicas may differ by one example. `num_examples` are trained on, and
    `num_validation` more are held out.
    """

    name: str
    config: dict[str, Any]
    strategy: str
    num_ranks: int
    num_devices: int
    num_replicas: int
    launcher: str
    cores_per_rank: int
    num_cores: int
    num_nodes: int
    num_examples: int
    num_validation: int
    batch_size_per_replica: int
    global_batch_size: int
    last_batch_size: int
    steps_per_epoch: int
    epochs: int
    total_steps: int
    steps_per_execution: int
    base_learning_rate: float
    learning_rate: float
    warmup_steps: int
    schedule_args: dict[str, Any]
    cycle_time_ms: float
    ledger: tuple[Entry, ...]
    warnings: tuple[str, ...]
    version: int = PLAN_VERSION

    def to_json(self) -> str:
        """Return the plan as indented JSON, the content of `plan.json`."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Return the plan that `to_json` wrote.

        Raises:
            PlanError: If another version of hvdtrain wrote it.
        """
        data = json.loads(text)
        if data.get("version") != PLAN_VERSION:
            raise PlanError(
                f"the run's plan.json is of version {data.get('version')}, written by another hvdtrain than this one, "
                f"which writes version {PLAN_VERSION}; start a new run"
            )
        data["ledger"] = tuple(Entry(**entry) for entry in data["ledger"])
        data["warnings"] = tuple(data["warnings"])
        return cls(**data)

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Return the plan in a run's `plan.json`.

        Raises:
            PlanError: If another version of hvdtrain wrote it.
            CorruptError: If it is no plan, or cannot be read.
        """
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptError(f"{path} is damaged ({type(error).__name__}: {error}); start a new run") from error

    def digest(self) -> str:
        """Return a short hash of all numbers; ranks compare it before the first step."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


def make_plan(config: Config, facts: Facts) -> Plan:
    """Return the plan of one run.

    Args:
        config: What the user said.
        facts: The machine the plan is for.

    Raises:
        PlanError: If the numbers cannot work together.
        EnvironmentNotFitError: If the machine lacks what was asked for.
    """
    world = choose_world(config, facts)
    if world.strategy == "mirrored" and config.sync.on_nonfinite == "skip":  # 'auto' may have chosen it
        raise PlanError(
            Problem("'skip' needs the averaged gradients, which MirroredStrategy keeps to itself", "sync.on_nonfinite")
        )
    in_all = _num_examples(config)
    num_validation = _num_validation(config, in_all)
    num_examples = in_all - num_validation
    batches = choose_batches(config, num_examples, world)
    steps = batches.steps_per_epoch
    epochs, total_steps, epochs_rule = _length(config, steps, world.num_replicas)
    per_execution, execution_rule = steps_per_execution(config, steps, total_steps, world)
    rate = _learning_rate(config, world.num_replicas)
    warmup_steps = _warmup_steps(config, steps, total_steps)
    num_cores = facts.num_cores or world.num_ranks
    cores_per_rank, cores_rule = _cores_per_rank(config, num_cores, world.num_ranks)
    asked_ms = config.horovod.cycle_time_ms
    cycle_time_ms = DEFAULT_CYCLE_TIME_MS if asked_ms == "auto" else float(asked_ms)
    ledger = [
        Entry("strategy", world.strategy, world.rule),
        Entry("replicas", str(world.num_replicas), world.replicas_rule),
        Entry("batch per replica", str(batches.per_replica), batches.rule),
        Entry("global batch", str(batches.in_all), _global_rule(batches, world)),
        Entry("training examples", str(num_examples), _examples_rule(config, in_all)),
        Entry("steps per epoch", str(steps), batches.steps_rule),
        Entry("epochs", str(epochs), epochs_rule),
        Entry("steps in all", str(total_steps), f"{epochs} epochs of {steps}, every replica the same"),
        Entry("learning rate", f"{rate:g}", _rate_rule(config, world)),
        Entry("schedule", config.optimizer.schedule, _schedule_rule(config, warmup_steps, rate)),
        Entry("steps per execution", str(per_execution), execution_rule),
        Entry("cores per rank", str(cores_per_rank), cores_rule),
    ]
    if num_validation:
        rule = f"data.validation_split {config.data.validation_split:g} of {in_all}, held out; not the test data"
        ledger.insert(5, Entry("validation examples", str(num_validation), rule))
    if facts.num_nodes > 1:
        rule = f"slurm.nodes, {world.num_ranks // facts.num_nodes} ranks on each"
        ledger.insert(1, Entry("nodes", str(facts.num_nodes), rule))
    if config.training.max_minutes is not None:
        minutes = f"{config.training.max_minutes:g} min"
        ledger.append(Entry("time limit", minutes, "training.max_minutes, all of it again after each --resume"))
    if config.training.stop_after_epochs is not None:
        rule = "training.stop_after_epochs, state saved; --resume goes on"
        ledger.append(Entry("stops after", f"{config.training.stop_after_epochs} epochs", rule))
    if config.model.initial_weights is not None:
        ledger.append(Entry("initial weights", config.model.initial_weights, "model.initial_weights"))
    ledger += [Entry(*line) for line in exchange_lines(config, world)]
    accumulation = config.training.gradient_accumulation_steps
    if accumulation > 1:
        ledger.insert(
            4,
            Entry(
                "batch per update",
                str(batches.in_all * accumulation),
                f"{batches.in_all} x {accumulation} accumulated steps",
            ),
        )
    return Plan(
        name=config.name,
        config=config.model_dump(mode="json"),
        strategy=world.strategy,
        num_ranks=world.num_ranks,
        num_devices=world.num_devices,
        num_replicas=world.num_replicas,
        launcher=world.launcher,
        cores_per_rank=cores_per_rank,
        num_cores=num_cores,
        num_nodes=facts.num_nodes,
        num_examples=num_examples,
        num_validation=num_validation,
        batch_size_per_replica=batches.per_replica,
        global_batch_size=batches.in_all,
        last_batch_size=batches.in_last,
        steps_per_epoch=steps,
        epochs=epochs,
        total_steps=total_steps,
        steps_per_execution=per_execution,
        base_learning_rate=config.optimizer.learning_rate,
        learning_rate=rate,
        warmup_steps=warmup_steps,
        schedule_args=_schedule_args(config, steps),
        cycle_time_ms=cycle_time_ms,
        ledger=tuple(ledger),
        warnings=world.warnings + _warnings(config, world) + exchange_warnings(config, world),
    )


def _cores_per_rank(config: Config, num_cores: int, num_ranks: int) -> tuple[int, str]:
    """Return (cores of each rank, rule)."""
    asked = config.launch.cores_per_rank
    if asked is not None:
        return asked, "launch.cores_per_rank"
    return max(1, num_cores // num_ranks), f"{num_cores} cores / {num_ranks} ranks"


# -- how much data ------------------------------------------------------------------------------


def _num_examples(config: Config) -> int:
    known = known_num_examples(config.data.source, config.data.args)
    stated = config.data.num_examples
    if known is None and stated is None:
        raise PlanError(
            Problem(
                f"needed, because {config.data.source} is not a built-in data set; give its number of training "
                "examples (the workers verify it)",
                key="data.num_examples",
            )
        )
    if known is not None and stated is not None and known != stated:
        raise PlanError(
            Problem(f"{config.data.source} has {known} training examples; got {stated}", "data.num_examples")
        )
    return known if known is not None else int(stated or 0)


def _global_rule(batches: Batches, world: World) -> str:
    if batches.in_all == batches.per_replica * world.num_replicas:
        return f"{batches.per_replica} per replica x {world.replicas_words}"
    return f"of {world.replicas_words} together"


def _examples_rule(config: Config, in_all: int) -> str:
    known = known_num_examples(config.data.source, config.data.args) is not None
    rule = "built-in data set" if known else "data.num_examples"
    return f"{rule} {in_all}, without those held out" if config.data.validation_split else rule


def _num_validation(config: Config, in_all: int) -> int:
    """Return how many of all training examples are held out.

    Raises:
        PlanError: If none or all of them would be.
    """
    share = config.data.validation_split
    found = round(share * in_all)
    if share and not 0 < found < in_all:
        raise PlanError(
            Problem(
                f"{share:g} of {in_all} examples are {found}; at least one must be held out, and one trained on",
                "data.validation_split",
            )
        )
    return found


def _length(config: Config, steps: int, num_replicas: int) -> tuple[int, int, str]:
    """Return (epochs, steps in all, rule)."""
    training = config.training
    if training.steps is not None:
        epochs = -(-training.steps // steps)
        accumulated = training.gradient_accumulation_steps
        if training.steps % accumulated:
            raise PlanError(
                Problem(
                    f"{training.steps} steps end in the middle of an update of {accumulated} accumulated ones; "
                    f"use a multiple of {accumulated}",
                    "training.steps",
                )
            )
        return epochs, training.steps, f"training.steps {training.steps}, the last epoch may be short"
    epochs = training.epochs or 1
    if config.data.epoch_splitting == "divide":
        divided = scaling.divided_epochs(epochs, num_replicas)
        return divided, divided * steps, f"divide: ceil({epochs} / {num_replicas} replicas)"
    return epochs, epochs * steps, "training.epochs"


# -- how fast to learn --------------------------------------------------------------------------


def _learning_rate(config: Config, num_replicas: int) -> float:
    return config.optimizer.learning_rate * scaling.scale_factor(config.optimizer.lr_scaling, num_replicas)


def _rate_rule(config: Config, world: World) -> str:
    optimizer = config.optimizer
    if optimizer.lr_scaling == "none":
        return "optimizer.learning_rate, not scaled (lr_scaling: none)"
    factor = scaling.scale_factor(optimizer.lr_scaling, world.num_replicas)
    return f"{optimizer.learning_rate:g} x {factor:g} ({optimizer.lr_scaling}, {world.replicas_words})"


def _warmup_steps(config: Config, steps: int, total_steps: int) -> int:
    warmup_steps = round(config.optimizer.warmup_epochs * steps)
    if warmup_steps >= total_steps and warmup_steps > 0:
        raise PlanError(
            Problem(
                f"the warm-up of {config.optimizer.warmup_epochs:g} epochs ({warmup_steps} steps) is as long as the "
                f"whole training ({total_steps} steps); use fewer warm-up epochs or train longer",
                "optimizer.warmup_epochs",
            )
        )
    return warmup_steps


def _schedule_args(config: Config, steps: int) -> dict[str, Any]:
    args = dict(config.optimizer.schedule_args)
    if "boundaries_epochs" in args:
        args["boundaries_steps"] = [round(epoch * steps) for epoch in args.pop("boundaries_epochs")]
    return scaling.SCHEDULE_DEFAULTS[config.optimizer.schedule] | args


def _schedule_rule(config: Config, warmup_steps: int, rate: float) -> str:
    optimizer = config.optimizer
    if optimizer.schedule == "one_cycle":
        return f"up to {rate:g} and down again"
    if not warmup_steps:
        return "no warm-up"
    return f"warm-up {optimizer.warmup_epochs:g} epochs ({warmup_steps} steps) from {optimizer.learning_rate:g}"


def _warnings(config: Config, world: World) -> tuple[str, ...]:
    found = []
    optimizer = config.optimizer
    if optimizer.lr_scaling == "linear" and optimizer.name.lower() in ADAPTIVE and world.num_replicas > 1:
        found.append(
            f"lr_scaling: linear with {optimizer.name}: an adaptive optimizer divides the gradient's size away, so a "
            "larger batch does not call for a proportionally larger rate; consider 'sqrt' or 'none'"
        )
    if (
        optimizer.lr_scaling != "none"
        and config.training.global_batch_size
        and config.data.epoch_splitting == "shard"
        and world.num_replicas > 1
    ):
        found.append(
            f"lr_scaling: {optimizer.lr_scaling} with training.global_batch_size: the rate grows with the replicas, "
            "but the batch does not; it is meant for batch_size_per_replica: consider 'none'"
        )
    if optimizer.warmup_epochs and scaling.scale_factor(optimizer.lr_scaling, world.num_replicas) == 1:
        found.append(
            f"warmup_epochs: {optimizer.warmup_epochs:g} has no effect: the scaled rate is the one-replica rate, "
            "so there is nothing to warm up to"
        )
    return tuple(found)
