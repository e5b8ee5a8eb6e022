"""`hvdtrain tune`: trying knobs on this machine, one at a time and in turn, and keeping what is really faster."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hvdtrain.bench.launch import SIGNALLED
from hvdtrain.bench.statistics import Estimate, estimate, paired_ratios
from hvdtrain.bench.table import table
from hvdtrain.cli.show import duration, talk
from hvdtrain.errors import ConfigError, EnvironmentNotFitError
from hvdtrain.facts import Facts, gather_facts
from hvdtrain.measuring import run_measurement
from hvdtrain.prepare import Prepared, prepare
from hvdtrain.rundir import RunDir, read_json
from hvdtrain.study.compare import MIN_REPEATS
from hvdtrain.study.knobs import DEFAULT, Setting, Trial, is_worth_it, settings, trials, winners
from hvdtrain.study.sample import sample_of

MEASURE = "measure={seconds: 2, warmup_steps: 20, data: real, parts: false}"
SCREENING_REPEATS = 2
FINAL_REPEATS = 5


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What tuning has found.

    Args:
        trials: Each setting against the configuration as it is.
        chosen: The settings that are worth it together; empty if none are.
        gain: (median, low, high) of the winners' throughput over that of the configuration as it is; None if that was
            not measured.
        num_pairs: Pairs of runs behind the gain; None if nothing won alone.
        seconds: What it took.
        num_candidates: Settings there were to try.
        is_out_of_time: Whether a run was left out because the time was up.
    """

    trials: tuple[Trial, ...]
    chosen: tuple[Setting, ...]
    gain: tuple[float, float, float] | None
    num_pairs: int | None
    seconds: float
    num_candidates: int
    is_out_of_time: bool


def tune(config_path: str, overrides: Sequence[str], *, minutes: float, allows_rounding: bool) -> Tuned:
    """Return the settings that make a configuration faster here.

    Args:
        config_path: The configuration.
        overrides: What the command line changes in it.
        minutes: Time after which no further run is started.
        allows_rounding: Try also what gives other, equally right bits.

    Raises:
        ConfigError: If the configuration does not work.
        EnvironmentNotFitError: If the configuration as it is cannot be measured.
        KeyboardInterrupt: If a signal stopped it.
    """
    began = time.monotonic()
    facts = gather_facts()
    prepared = prepare(config_path, facts, overrides=overrides)
    plan = prepared.plan
    if plan.strategy == "mirrored":
        raise ConfigError("tune tries knobs of Horovod and of single processes; MirroredStrategy has none of them")
    with tempfile.TemporaryDirectory(prefix="hvdtrain-tune-") as folder:
        bench = Bench(config_path, tuple(overrides), facts, Path(folder), began + 60 * minutes)
        bench.measure(DEFAULT, (), 0)
        if not bench.throughputs.get(DEFAULT):
            raise EnvironmentNotFitError("the configuration as it is could not be measured")
        candidates = [
            setting
            for setting in settings(
                num_ranks=plan.num_ranks,
                steps_per_epoch=plan.steps_per_epoch,
                now=in_force(prepared),
                shares_memory=bench.reduction == "shared memory",
                cores_per_rank=plan.cores_per_rank,
            )
            if allows_rounding or not setting.changes_rounding
        ]
        talk(f"{len(candidates)} settings to try, each on its own, and those that are faster once more")
        _screen(bench, candidates)
        found = trials(candidates, bench.throughputs)
        best = winners([trial for trial in found if trial.ratio.n == SCREENING_REPEATS])
        gain = _confirm(bench, best) if best else None
    chosen = tuple(best) if is_worth_it(gain) else ()
    interval = (gain.median, gain.low, gain.high) if gain else None
    num_pairs = (gain.n if gain else 0) if best else None
    seconds = time.monotonic() - began
    return Tuned(tuple(found), chosen, interval, num_pairs, seconds, len(candidates), bench.is_out_of_time)


def in_force(prepared: Prepared) -> dict[str, str]:
    """Return the values of the knobs as they are, which need not be tried; where nobody chose, what is chosen here."""
    plan, launch = prepared.plan, prepared.config.launch
    yields = plan.num_cores < 2 * plan.num_ranks if launch.yield_when_idle == "auto" else launch.yield_when_idle
    return {
        "training.steps_per_execution": str(plan.steps_per_execution),
        "horovod.cycle_time_ms": f"{plan.cycle_time_ms:g}",
        "launch.threads_per_rank": str(launch.threads_per_rank or plan.cores_per_rank),
        "launch.yield_when_idle": "true" if yields else "false",
    }


def _screen(bench: Bench, candidates: Sequence[Setting]) -> None:
    """Measure every setting once, and what was faster than the configuration as it is again, backwards."""
    for repeat in range(SCREENING_REPEATS):
        turn: list[tuple[str, Sequence[Setting]]] = [(DEFAULT, ())]
        turn += [(setting.override, (setting,)) for setting in candidates if repeat == 0 or _has_gained(bench, setting)]
        for name, chosen in turn if repeat % 2 == 0 else turn[::-1]:
            if (name, repeat) != (DEFAULT, 0):  # measured already
                bench.measure(name, chosen, repeat)


def _has_gained(bench: Bench, setting: Setting) -> bool:
    return bench.throughputs.get(setting.override, {}).get(0, 0.0) > bench.throughputs[DEFAULT][0]


def _confirm(bench: Bench, best: Sequence[Setting]) -> Estimate | None:
    """Return the gain of the winners together, measured anew in turn with the configuration as it is."""
    together = " + ".join(setting.override for setting in best)
    talk(f"together: {together}, {FINAL_REPEATS} times")
    bench.throughputs = {}
    for repeat in range(FINAL_REPEATS):
        turn: list[tuple[str, Sequence[Setting]]] = [(DEFAULT, ()), (together, best)]
        for name, chosen in turn if repeat % 2 == 0 else turn[::-1]:
            bench.measure(name, chosen, repeat)
    return estimate(paired_ratios(bench.throughputs.get(together, {}), bench.throughputs.get(DEFAULT, {})))


class Bench:
    """Where settings are measured.

    Attributes:
        throughputs: Name -> repeat -> examples per second.
        reduction: How gradients travelled, in words.
        is_out_of_time: Whether something came too late.
    """

    def __init__(
        self, config_path: str, overrides: tuple[str, ...], facts: Facts, folder: Path, deadline: float
    ) -> None:
        self._config_path = config_path
        self._overrides = overrides
        self._facts = facts
        self._folder = folder
        self._deadline = deadline
        self._count = 0
        self.throughputs: dict[str, dict[int, float]] = {}
        self.reduction = ""
        self.is_out_of_time = False

    def measure(self, name: str, chosen: Sequence[Setting], repeat: int) -> None:
        """Measure one setting once; what does not work, or comes too late, is left out."""
        if time.monotonic() > self._deadline:
            self.is_out_of_time = True
            return
        prepared = self._prepared(chosen)
        if prepared is None:
            return
        self._count += 1
        run_name = f"{self._count:03d}"
        code = run_measurement(prepared, self._folder, run_name, title=name)
        if code in SIGNALLED:
            raise KeyboardInterrupt
        run = RunDir(self._folder / prepared.plan.name / run_name)
        found = read_json(run.measurement)
        if not found:
            return
        self.reduction = read_json(run.environment).get("reduction", "")
        rate = sample_of(found, kind="ranks", repeat=repeat).examples_per_s
        self.throughputs.setdefault(name, {})[repeat] = rate
        left = max(0.0, self._deadline - time.monotonic())
        talk(f"  {name}: {rate:,.0f} examples/s (at most {duration(left)} left)")

    def _prepared(self, chosen: Sequence[Setting]) -> Prepared | None:
        changes = [*self._overrides, MEASURE, *(setting.override for setting in chosen)]
        try:
            return prepare(self._config_path, self._facts, overrides=changes)
        except ConfigError as error:
            if not chosen:
                raise
            talk(f"  {chosen[0].override}: not possible here ({str(error).splitlines()[0]})")
            return None


def tuned_text(found: Tuned) -> str:
    """Return what tuning has found, as a table and a sentence."""
    rows = [
        (
            trial.setting.override,
            f"{trial.ratio.median:.3f}",
            f"{trial.ratio.low:.3f} to {trial.ratio.high:.3f}",
            str(trial.ratio.n),
            "other rounding" if trial.setting.changes_rounding else "",
        )
        for trial in found.trials
    ]
    lines = [table(("setting", "speed", "interval", "n", ""), rows, markdown=False)] if rows else []
    lines.append(f"\n{_verdict(found)}")
    if found.is_out_of_time:
        lines.append(
            f"The time was up before everything was measured ({len(found.trials)} of {found.num_candidates} settings "
            "were tried); use more --minutes."
        )
    lines.append(f"It took {duration(found.seconds)}." + ("" if found.chosen else " No configuration is written."))
    return "\n".join(lines)


def _verdict(found: Tuned) -> str:
    if found.num_pairs is None:
        return "Nothing is faster than the configuration as it is."
    if found.gain is None or found.num_pairs < MIN_REPEATS:
        return (
            f"What won alone was measured together too seldom to tell (n = {found.num_pairs}, at least {MIN_REPEATS})"
            ": the configuration stays as it is."
        )
    middle, low, high = found.gain
    if not found.chosen:
        return (
            f"What won alone does not win together ({middle:.3f}, {low:.3f} to {high:.3f}, n = {found.num_pairs})"
            ": the configuration stays as it is."
        )
    words = "\n".join(f"  {setting.override}" for setting in found.chosen)
    return f"Faster by {middle - 1:.1%} ({low - 1:+.1%} to {high - 1:+.1%}, n = {found.num_pairs}):\n{words}"


def to_json(found: Tuned) -> str:
    """Return everything that was found."""
    return json.dumps(dataclasses.asdict(found), indent=1)
