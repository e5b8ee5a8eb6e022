"""What is tried when tuning, and what counts as better."""

from hypothesis import given
from hypothesis import strategies as st

from hvdtrain.bench.statistics import estimate
from hvdtrain.study.knobs import DEFAULT, Setting, is_worth_it, settings, trials, winners


def keys(found):
    return {setting.key for setting in found}


def tried(num_ranks=2, steps=200, shares_memory=False, **now):
    now = {key.replace("__", "."): value for key, value in now.items()}
    return settings(num_ranks=num_ranks, steps_per_epoch=steps, now=now, shares_memory=shares_memory, cores_per_rank=1)


@given(ranks=st.integers(1, 16), steps=st.integers(1, 5000), shares=st.booleans())
def test_what_is_in_force_is_not_tried_and_nothing_twice(ranks, steps, shares):
    found = tried(ranks, steps, shares, training__steps_per_execution="1")
    assert "training.steps_per_execution=1" not in {setting.override for setting in found}
    assert len(set(found)) == len(found)


def test_one_process_has_no_knobs_of_horovod():
    assert not {key for key in keys(tried(num_ranks=1)) if key.startswith("horovod")}


def test_horovods_knobs_are_left_alone_where_gradients_bypass_it():
    assert "horovod.cycle_time_ms" not in keys(tried(shares_memory=True))
    assert "horovod.reduction" in keys(tried(shares_memory=True))
    assert "horovod.cycle_time_ms" in keys(tried(shares_memory=False))


def test_from_three_ranks_on_another_way_is_another_rounding():
    two = {setting.key: setting.changes_rounding for setting in tried(2, shares_memory=True)}
    three = {setting.key: setting.changes_rounding for setting in tried(3, shares_memory=True)}
    assert (two["horovod.reduction"], three["horovod.reduction"]) == (False, True)
    assert two["launch.threads_per_rank"]


FAST, SLOW, LUCKY = (Setting("a.b", value) for value in ("fast", "slow", "lucky"))


def test_only_what_wins_every_time_wins():
    base = {0: 100.0, 1: 200.0}
    rates = {
        DEFAULT: base,
        FAST.override: {0: 105.0, 1: 212.0},
        SLOW.override: {0: 90.0, 1: 190.0},
        LUCKY.override: {0: 150.0, 1: 199.0},
    }
    found = trials([FAST, SLOW, LUCKY], rates)
    assert [trial.setting for trial in found] == [LUCKY, FAST, SLOW]
    assert winners(found) == [FAST]
    assert winners(trials([SLOW], rates)) == []


def test_a_gain_must_be_more_than_chance_and_more_than_a_percent():
    assert is_worth_it(estimate([1.05, 1.04, 1.06]))
    assert not is_worth_it(estimate([1.05, 0.99, 1.06]))
    assert not is_worth_it(estimate([1.005, 1.004, 1.006]))
    assert not is_worth_it(estimate([1.05, 1.06])), "two pairs of runs are too few"
    assert not is_worth_it(None)
