"""Going on with a run: which one, and what may and may not change when it goes on in another world."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from hvdtrain.cli.show import go_on, talk
from hvdtrain.errors import CorruptError, NotFoundError, PlanError
from hvdtrain.plan import Entry, Plan
from hvdtrain.prepare import Prepared
from hvdtrain.rundir import RunDir, find_runs

# Blocks of a configuration that say where it runs and what is shown of it, but not what is trained.
ELSEWHERE = ("launch", "slurm", "container", "tensorboard")
RESUMED = "resumed"
KEPT = ", kept from the run's first start"


def resumable_run(prepared: Prepared, root: Path) -> RunDir:
    """Return the newest unfinished run of the same configuration, the number of ranks aside; damaged ones are said.

    Raises:
        NotFoundError: If there is none.
    """
    for run in find_runs(root):
        if run.finished.exists():
            continue
        try:
            if not _changed_keys(Plan.read(run.plan), prepared.plan):
                return run
        except CorruptError as error:
            talk(f"warning: --resume passes over a run of which nobody can say what it trained: {error}")
        except PlanError:  # of another version
            continue
    raise NotFoundError(
        f"--resume: no unfinished run of {prepared.config_path} with these settings under {root}; "
        "start one without --resume, or name a run: --resume RUN"
    )


def _changed_keys(old: Plan, new: Plan) -> list[str]:
    """Return the blocks of the configuration that differ, those aside that are not about what is trained."""
    before, now = _what_is_trained(old), _what_is_trained(new)
    return [key for key in {**before, **now} if before.get(key) != now.get(key)]


def _what_is_trained(plan: Plan) -> dict[str, str]:
    """Return each block of a configuration as text, without what says where and how long at a time it runs."""
    blocks = {key: value for key, value in plan.config.items() if key not in ELSEWHERE}
    blocks["training"] = {**blocks["training"], "max_minutes": None, "stop_after_epochs": None}
    blocks["checkpoint"] = {**blocks["checkpoint"], "keep": None}
    return {key: json.dumps(value, sort_keys=True) for key, value in blocks.items()}


def continued(run: RunDir, prepared: Prepared) -> Prepared:
    """Return what a run goes on with: the same training in a world of this size, with a ledger that says what changed.

    The learning rate is that of the first start: the global batch stays, so another number of replicas is no reason
    for another rate.

    Raises:
        PlanError: If the configuration differs, or the batches or steps would change with the number of replicas.
    """
    old, new = Plan.read(run.plan), prepared.plan
    changed = _changed_keys(old, new)
    if changed:
        raise PlanError(
            f"--resume {run.short_id}: the configuration is not the run's own; it differs in {', '.join(changed)}. "
            f"Continue with its own: {go_on(run)}, or start a new run"
        )
    _check_same_training(run, old, new)
    ledger = {entry.name: entry for entry in new.ledger}
    for name in ("learning rate", "schedule"):
        ledger[name] = _kept(name, old, new)
    plan = dataclasses.replace(
        new,
        learning_rate=old.learning_rate,
        steps_per_execution=1 if new.strategy == "mirrored" else old.steps_per_execution,
        ledger=(*ledger.values(), *_resumptions(old, new)),
    )
    return dataclasses.replace(prepared, plan=plan)


def _check_same_training(run: RunDir, old: Plan, new: Plan) -> None:
    if old.global_batch_size != new.global_batch_size:
        raise PlanError(
            f"--resume {run.short_id}: the global batch would change from {old.global_batch_size} "
            f"({old.num_replicas} replicas) to {new.global_batch_size} ({new.num_replicas} "
            f"replicas), and learning rate and epochs with it; use {old.num_replicas} replicas, "
            "or state training.global_batch_size in the configuration so that it stays the same"
        )
    divides = old.config["data"]["epoch_splitting"] == "divide" and old.num_replicas != new.num_replicas
    differing = [
        f"{words} {getattr(old, name)} -> {getattr(new, name)}"
        for name, words in (
            ("steps_per_epoch", "steps per epoch"),
            ("last_batch_size", "examples in an epoch's last step"),
            ("total_steps", "steps in all"),
            ("num_examples", "training examples"),
        )
        if getattr(old, name) != getattr(new, name)
    ] + ["the order of the samples, which under epoch_splitting 'divide' is each replica's own"] * divides
    if differing:
        raise PlanError(
            f"--resume {run.short_id}: {old.num_replicas} -> {new.num_replicas} replicas would change "
            f"{'; '.join(differing)}; use {old.num_replicas} replicas"
        )


def _kept(name: str, old: Plan, new: Plan) -> Entry:
    before, now = (next(entry for entry in plan.ledger if entry.name == name) for plan in (old, new))
    if before.rule.removesuffix(KEPT) == now.rule:
        return now
    return Entry(name, before.value, before.rule.removesuffix(KEPT) + KEPT)


def _resumptions(old: Plan, new: Plan) -> list[Entry]:
    """Return a line for every change of the world so far."""
    lines = [entry for entry in old.ledger if entry.name == RESUMED]
    changes = []
    if old.strategy != new.strategy:
        changes.append(f"{old.strategy} -> {new.strategy}")
    if old.num_replicas != new.num_replicas:
        changes.append(f"{old.num_replicas} -> {new.num_replicas} replicas")
    if old.num_nodes != new.num_nodes:
        changes.append(f"{old.num_nodes} -> {new.num_nodes} node{'s' if new.num_nodes > 1 else ''}")
    if not changes:
        return lines
    if old.num_replicas == new.num_replicas and old.strategy == new.strategy:
        return [*lines, Entry(RESUMED, ", ".join(changes), "the same ranks in other places; nothing else changes")]
    rule = (
        f"batch per replica {old.batch_size_per_replica} -> {new.batch_size_per_replica}; global batch, sample order "
        "and learning rate stay; random layers draw other numbers, batch statistics are of other parts"
    )
    return [*lines, Entry(RESUMED, ", ".join(changes), rule)]
