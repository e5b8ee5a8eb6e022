"""Which trials a sweep has, who goes on under successive halving, and which parameter mattered. No training."""

import itertools
import json
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvdtrain.rundir import RunDir
from hvdtrain.study.sweep_effects import chance, effects
from hvdtrain.study.sweep_plots import axis_of, sweep_plots
from hvdtrain.study.sweep_space import (
    Range,
    Rung,
    Space,
    Trial,
    Values,
    best,
    draws,
    grid,
    rungs,
    short_names,
    total_epochs,
)
from hvdtrain.study.sweep_table import (
    DROPPED,
    FAILED,
    FINISHED,
    STOPPED,
    WAITING,
    Outcome,
    Sweep,
    cells,
    ranked,
    rows,
    to_csv,
    to_do,
    winner,
    with_dropped,
    work_left,
)
from hvdtrain.sweeps.pool import make_slots
from hvdtrain.sweeps.sweepdir import outcome


def sweep_of(count: int, *, stages: tuple[Rung, ...] = (), epochs: int = 9, is_max: bool = True, values=None) -> Sweep:
    values = values or [{"model.args.units": number} for number in range(count)]
    trials = tuple(Trial(number, values[number]) for number in range(count))
    return Sweep("s", "base", "grid", "val_accuracy", is_max, trials, stages, epochs, 1, 2, 10)


# -- drawing ------------------------------------------------------------------------------------


def test_a_grid_has_every_combination_once():
    found = list(grid({"a": Values((1, 2, 3)), "b": Values(("x", "y")), "c": Values((None,))}))
    assert len({json.dumps(one) for one in found}) == len(found) == 6


@settings(deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(1e-6, 1e3), st.floats(1.001, 1e6), st.booleans())
def test_draws_stay_in_their_range(seed, low, factor, is_log):
    high = low * factor
    found = [one["x"] for _, one in zip(range(20), draws({"x": Range(low, high, is_log=is_log)}, seed), strict=False)]
    assert len(found) == 20, "numbers are no coarser than the range deserves"
    assert all(low <= value <= high for value in found)


@given(st.integers(-50, 50), st.integers(1, 30))
def test_draws_of_whole_numbers_reach_both_ends(low, span):
    choice = Range(low, low + span, is_integer=True)
    assert {choice.draw(share) for share in np.linspace(0, 1, 400, endpoint=False)} == set(range(low, low + span + 1))


def test_draws_are_spread_as_was_asked():
    linear = [one["x"] for _, one in zip(range(2000), draws({"x": Range(1, 10_000)}, 0), strict=False)]
    by_log = [one["x"] for _, one in zip(range(2000), draws({"x": Range(1, 10_000, is_log=True)}, 0), strict=False)]
    assert np.median(linear) == pytest.approx(5000, rel=0.1)
    assert np.median(by_log) == pytest.approx(100, rel=0.25)


def test_more_draws_begin_with_the_same_ones_and_none_comes_twice():
    space: Space = {"a": Values((1, 2, 3)), "b": Range(0.0, 1.0)}
    few, many = ([one for _, one in zip(range(n), draws(space, 5), strict=False)] for n in (5, 50))
    assert many[:5] == few
    assert many != [one for _, one in zip(range(50), draws(space, 6), strict=False)]
    assert len(list(draws({"a": Values((1, 2)), "b": Values((1, 2))}, 0))) == 4, "and then there is nothing new"


def test_names_are_as_short_as_they_can_be():
    keys = ["model.args.units", "optimizer.name", "optimizer.args.rho", "model.args.rho", "training.seed"]
    assert short_names(keys) == {
        "model.args.units": "units",
        "optimizer.name": "optimizer.name",
        "optimizer.args.rho": "optimizer.args.rho",
        "model.args.rho": "model.args.rho",
        "training.seed": "seed",
    }


# -- successive halving -------------------------------------------------------------------------


@given(st.integers(1, 200), st.integers(1, 300), st.integers(2, 5), st.integers(1, 20))
def test_stages_end_with_a_whole_training_and_cost_no_more_than_all_of_them(num_trials, epochs, factor, min_epochs):
    found = rungs(num_trials, epochs, factor=factor, min_epochs=min_epochs)
    assert found[-1].epochs == epochs
    assert found[0].num_trials == num_trials
    assert all(before.epochs < after.epochs for before, after in itertools.pairwise(found))
    assert all(after.num_trials == before.num_trials // factor >= 1 for before, after in itertools.pairwise(found))
    assert found[0].epochs >= min(min_epochs, epochs)
    assert total_epochs(found) <= num_trials * epochs


STAGES = rungs(4, 4, factor=2, min_epochs=1)


def at(number: int, *scores: float, state: str = STOPPED, **more) -> Outcome:
    return Outcome(Trial(number, {"model.args.units": number}), state, dict(enumerate(scores, 1)), 1.0, **more)


def test_the_better_half_goes_on_from_stage_to_stage():
    sweep = sweep_of(4, stages=STAGES, epochs=4)
    assert (Rung(1, 4), Rung(2, 2), Rung(4, 1)) == STAGES

    def tasks(*found):
        return [(task.trial.number, task.stop_after) for task in to_do(sweep, found, retries=False)]

    fresh = [Outcome(trial, WAITING) for trial in sweep.trials]
    assert tasks(*fresh) == [(0, 1), (1, 1), (2, 1), (3, 1)]
    assert tasks(at(0, 0.5), fresh[1], at(2, 0.7), at(3, 0.6)) == [(1, 1)], "a stage waits for all"
    first = [at(0, 0.5), at(1, 0.1), at(2, 0.7), at(3, 0.6)]
    assert tasks(*first) == [(2, 2), (3, 2)]
    second = [at(0, 0.5), at(1, 0.1), at(2, 0.7, 0.75), at(3, 0.6, 0.9)]
    assert tasks(*second) == [(3, None)], "the last stage trains to the end"
    assert [one.state for one in with_dropped(sweep, second)] == [DROPPED, DROPPED, DROPPED, STOPPED]
    done = [*second[:3], at(3, 0.6, 0.9, 0.9, 0.95, state=FINISHED)]
    assert tasks(*done) == []
    assert [one.trial.number for one in ranked(sweep, with_dropped(sweep, done))] == [3, 2, 0, 1]
    assert winner(sweep, done) is not None


def test_a_trial_that_failed_is_out_and_all_that_failed_are_tried_again():
    sweep = sweep_of(4, stages=STAGES, epochs=4)
    found = [at(0, 0.5), at(1, state=FAILED), at(2, 0.7), at(3, 0.6)]
    assert [task.trial.number for task in to_do(sweep, found, retries=False)] == [2, 3]
    assert [task.trial.number for task in to_do(sweep, found, retries=True)] == [1]
    diverged = [at(0, 0.5), at(1, state=FAILED, is_final=True), at(2, 0.7), at(3, 0.6)]
    assert [task.trial.number for task in to_do(sweep, diverged, retries=True)] == [2, 3]


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_trial_whose_last_value_is_not_finite_has_failed_for_good(tmp_path, is_finished):
    run = RunDir(tmp_path)
    common = {"kind": "epoch", "train_s": 1, "evaluation_s": 1}
    lines = [{**common, "epoch": epoch, "val_loss": value} for epoch, value in ((1, 0.3), (2, None))]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if is_finished:
        run.finished.touch()
    found = outcome(run, Trial(0, {}), "val_loss")
    assert (found.state, found.is_final, found.reason) == (FAILED, True, "val_loss is not finite after epoch 2")


def test_lower_can_be_better():
    assert best({0: 0.3, 1: 0.1, 2: 0.2}, 2, is_max=False) == [1, 2]
    sweep = sweep_of(3, is_max=False)
    found = [at(n, *[score] * 9, state=FINISHED) for n, score in enumerate((0.3, 0.1, 0.2))]
    assert [one.trial.number for one in ranked(sweep, found)] == [1, 2, 0]


def test_work_that_is_left_counts_later_stages():
    sweep = sweep_of(4, stages=STAGES, epochs=4)
    fresh = [Outcome(trial, WAITING) for trial in sweep.trials]
    assert work_left(sweep, fresh) == (4 + 2 + 1, total_epochs(STAGES))
    first = [at(0, 0.5), at(1, 0.1), at(2, 0.7), at(3, 0.6)]
    assert work_left(sweep, first) == (2 + 1, 2 * 1 + 1 * 2)
    assert work_left(sweep_of(3), [at(0, *[0.1] * 9, state=FINISHED), at(1, 0.1), at(2)]) == (2, 8 + 9)


# -- tables, effects, plots ---------------------------------------------------------------------


def test_the_table_has_the_best_first_and_what_failed_last():
    sweep = sweep_of(4)
    found = [
        at(0, *[0.2] * 9, state=FINISHED), at(1, 0.9, state=FAILED, reason="UserCodeError: no"), at(2),
        at(3, *[0.4] * 9, state=FINISHED),
    ]  # fmt: skip
    lines = cells(sweep, found)
    assert [line[1] for line in lines] == ["3", "0", "1", "2"]
    assert [line[0] for line in lines] == ["1", "2", "", ""]
    assert lines[2][-1] == "failed: UserCodeError: no"
    assert rows(sweep, found)[0] == {
        "trial": 3, "parameters": {"model.args.units": 3}, "val_accuracy": 0.4, "epochs": 9, "seconds": 1.0,
        "state": "finished", "reason": "",
    }  # fmt: skip
    assert to_csv(sweep, found).splitlines()[:2] == [
        "trial,model.args.units,val_accuracy,epochs,seconds,state", "3,3,0.4,9,1.00,finished",
    ]  # fmt: skip


def trained(values, scores) -> tuple[Sweep, list[Outcome]]:
    sweep = sweep_of(len(values), values=values, epochs=1)
    return sweep, [Outcome(trial, FINISHED, {1: score}) for trial, score in zip(sweep.trials, scores, strict=True)]


def test_a_parameter_that_matters_is_told_from_one_that_does_not():
    """In a grid of 3 x 2 x 2; a strong parameter beside it must not hide a weak one."""
    chance_of = random.Random(3)
    values = list(grid({"a": Values((1, 2, 3)), "b": Values(("x", "y")), "c": Values((0.1, 0.2))}))
    verdicts: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    for _ in range(20):
        scores = [0.5 * (one["b"] == "y") + 0.05 * one["a"] + chance_of.gauss(0, 0.01) for one in values]
        for effect in effects(*trained(values, scores)):
            verdicts[effect.key].append(effect.verdict)
    assert verdicts["a"].count("matters") == verdicts["b"].count("matters") == 20
    assert verdicts["c"].count("matters") <= 5, "of 20, 1 is expected"
    first = effects(*trained(values, scores))[0]
    assert (first.key, first.best, first.worst) == ("b", "y", "x")
    assert first.difference == pytest.approx(0.5, abs=0.02)


def test_too_few_trials_tell_nothing():
    (effect,) = effects(*trained([{"a": 1}, {"a": 2}], [0.1, 0.9]))
    assert effect.p is None
    assert effect.verdict == "too few trials to tell"
    assert chance(np.array([0.1, 0.9, 0.2, 0.8]), ["x", "y", "x", "y"], [["1", "2", "3", "4"]]) is not None


def test_ranges_are_compared_in_bins():
    numbers = np.linspace(0, 1, 12)
    (effect,) = effects(*trained([{"a": float(one)} for one in numbers], numbers.tolist()))
    assert len(effect.means) == 3
    assert effect.best.endswith("to 1")
    assert effect.p is not None
    assert effect.p < 0.05


def test_axes_place_numbers_by_size_or_logarithm_and_words_side_by_side():
    assert axis_of("a", [0.0, 0.5, 1.0]).place(0.5) == 0.5
    assert axis_of("a", [0.001, 0.1]).place(0.01) == pytest.approx(0.5)
    blocks = [{"name": "sgd", "momentum": 0.9}, {"name": "adam"}]
    assert [text for _, text in axis_of("optimizer", blocks).ticks] == ["sgd", "adam"]
    alike = [{"name": "sgd", "momentum": 0.9}, {"name": "sgd"}]
    assert [text for _, text in axis_of("optimizer", alike).ticks] == ["sgd momentum=0.9", "sgd"]
    assert axis_of("one", ["x", "x"]).place("x") == 0.5


def test_every_trial_has_a_line_that_a_script_can_find():
    from hvdtrain.study.plots import to_svg

    values = [{"a": math.e**n, "b": "$x_{" if n % 2 else "y"} for n in range(5)]
    plots = sweep_plots(*trained(values, [0.1, 0.5, 0.3, 0.2, 0.9]))
    svg = to_svg(plots["parallel"], "parallel")
    assert all(f'id="parallel-trial-{number}"' in svg for number in range(5))
    assert set(plots) == {"parallel", "parameters", "epochs"}


def test_parts_of_the_machine_do_not_overlap():
    slots = make_slots(range(8), ["0", "1", "2", "3"], 3)
    assert [slot.cores for slot in slots] == [(0, 1), (2, 3), (4, 5)]
    assert [slot.gpus for slot in slots] == [("0",), ("1",), ("2",)]
    assert [slot.cores for slot in make_slots([3, 5], [], 4)] == [(3,), (5,), (3,), (5,)], "more trials than cores"
