"""What can be tuned without changing what is learnt, and what else; and which of the measured settings are better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hvdtrain.bench.statistics import Estimate, estimate, paired_ratios
from hvdtrain.study.compare import MIN_REPEATS

DEFAULT = "as it is"
MIN_GAIN = 1.01  # less is not worth a changed configuration


@dataclass(frozen=True)
class Setting:
    """One knob with one value.

    Args:
        key: In the configuration.
        value: As YAML.
        changes_rounding: Whether sums may be added in another order: other bits, equally right.
    """

    key: str
    value: str
    changes_rounding: bool = False

    @property
    def override(self) -> str:
        """As `--set` takes it."""
        return f"{self.key}={self.value}"


def settings(
    *, num_ranks: int, steps_per_epoch: int, now: Mapping[str, str], shares_memory: bool, cores_per_rank: int
) -> list[Setting]:
    """Return the settings to try, those that are in force already left out.

    Args:
        num_ranks: Ranks; from three on the order of additions depends on how gradients travel.
        steps_per_epoch: Of the plan; an execution is no longer than a tenth of it.
        now: Key -> value in force.
        shares_memory: Whether gradients travel through shared memory now, where Horovod's knobs do nothing.
        cores_per_rank: Of the plan.
    """
    many = num_ranks > 1
    found = [
        Setting("training.steps_per_execution", str(steps))
        for steps in (1, 2, 5, 10, 20, 50)
        if steps <= max(1, steps_per_epoch // 4)
    ]
    if many:
        found += [Setting("launch.yield_when_idle", value) for value in ("true", "false")]
        rounds = num_ranks > 2
        if shares_memory:
            found.append(Setting("horovod.reduction", "horovod", rounds))
        else:
            found += [Setting("horovod.cycle_time_ms", value) for value in ("0.05", "0.1", "0.5", "1", "2.5")]
            found += [Setting("horovod.num_groups", value, rounds) for value in ("2", "4")]
    found += [
        Setting("launch.threads_per_rank", str(threads), changes_rounding=True)
        for threads in sorted({1, cores_per_rank, 2 * cores_per_rank})
    ]
    return [setting for setting in found if now.get(setting.key) != setting.value]


@dataclass(frozen=True)
class Trial:
    """What a setting did against the configuration as it is.

    Args:
        setting: The knob.
        ratio: Of throughputs, within a repeat.
    """

    setting: Setting
    ratio: Estimate


def trials(candidates: Sequence[Setting], throughputs: Mapping[str, Mapping[int, float]]) -> list[Trial]:
    """Return what each measured setting did, the best first.

    Args:
        candidates: What was tried.
        throughputs: `DEFAULT`, or a setting's override -> repeat -> examples per second.
    """
    base = throughputs[DEFAULT]
    found = []
    for setting in candidates:
        ratio = estimate(paired_ratios(throughputs.get(setting.override, {}), base))
        if ratio is not None:
            found.append(Trial(setting, ratio))
    return sorted(found, key=lambda trial: -trial.ratio.median)


def winners(found: Sequence[Trial]) -> list[Setting]:
    """Return the best setting of each key that gained something in every repeat."""
    best: dict[str, Setting] = {}
    for trial in found:
        if trial.ratio.median >= MIN_GAIN and trial.ratio.low > 1:
            best.setdefault(trial.setting.key, trial.setting)
    return list(best.values())


def is_worth_it(ratio: Estimate | None) -> bool:
    """Tell whether the winners together beat the configuration as it is, and not by chance."""
    return ratio is not None and ratio.n >= MIN_REPEATS and ratio.median >= MIN_GAIN and ratio.low > 1
