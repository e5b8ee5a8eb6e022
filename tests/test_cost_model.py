"""What an allreduce costs: the textbook's algorithms, and fits that find their own regimes."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvdtrain.study import cost_model
from hvdtrain.study.cost_model import CostModel, Regime, best_s, fit_cost, relative_errors

SIZES = [2**power for power in range(10, 27)]


@settings(max_examples=30)
@given(alpha=st.floats(1e-7, 1e-4), beta=st.floats(1e-11, 1e-8), ranks=st.sampled_from([2, 3, 4, 8]))
def test_a_ring_is_found_again(alpha, beta, ranks):
    seconds = [cost_model.ring_s(size, ranks, alpha_s=alpha, beta_s=beta) for size in SIZES]
    model = fit_cost(ranks, SIZES, seconds, gamma_s=0.0)
    assert max(relative_errors(model, SIZES, seconds)) < 1e-6
    assert model.alpha_s == pytest.approx(alpha, rel=1e-3)
    assert model.beta_s == pytest.approx(beta, rel=1e-3)


def test_gamma_is_taken_out_of_beta():
    seconds = [cost_model.ring_s(size, 4, alpha_s=1e-6, beta_s=1e-9, gamma_s=2e-10) for size in SIZES]
    assert fit_cost(4, SIZES, seconds, gamma_s=2e-10).beta_s == pytest.approx(1e-9, rel=1e-3)


def test_a_change_of_the_librarys_way_becomes_a_regime():
    true = CostModel(2, (Regime(2**16, 1e-6, 1e-9), Regime(math.inf, 2e-4, 4e-10)))
    seconds = [true.seconds(size) for size in SIZES]
    model = fit_cost(2, SIZES, seconds)
    assert len(model.regimes) == 2
    assert max(relative_errors(model, SIZES, seconds)) < 0.01


def test_one_line_stays_one_line_under_noise():
    seconds = [(1e-5 + 1e-9 * size) * (1 + 0.03 * (-1) ** place) for place, size in enumerate(SIZES)]
    assert len(fit_cost(2, SIZES, seconds).regimes) <= 2


def test_sizes_may_come_in_any_order_and_several_times():
    seconds = [1e-5 + 1e-9 * size for size in SIZES]
    model = fit_cost(2, [*SIZES[::-1], *SIZES], [*seconds[::-1], *seconds])
    assert max(relative_errors(model, SIZES, seconds)) < 1e-6


def test_two_points_are_no_fit():
    with pytest.raises(ValueError, match="at least 3 sizes; got 2"):
        fit_cost(2, [1024, 2048], [1e-6, 2e-6])


@given(size=st.integers(1, 2**28), ranks=st.integers(2, 30_000))
def test_the_best_algorithm_is_never_slower_than_any(size, ranks):
    costs = {"alpha_s": 2e-6, "beta_s": 1e-10, "gamma_s": 1e-11}
    best = best_s(size, ranks, **costs)
    assert all(best <= way(size, ranks, **costs) for way in cost_model.ALGORITHMS.values())


def test_small_messages_double_and_large_ones_go_round():
    costs = {"alpha_s": 2e-6, "beta_s": 1e-10}
    assert best_s(64, 64, **costs) == cost_model.recursive_doubling_s(64, 64, **costs)
    assert best_s(2**28, 64, **costs) == cost_model.halving_doubling_s(2**28, 64, **costs)
    assert best_s(2**28, 1, **costs) == 0


def test_busbw_is_algbw_on_two_ranks_and_tends_to_twice_it():
    assert cost_model.busbw(100, 1.0, 2) == cost_model.algbw(100, 1.0)
    assert cost_model.busbw(100, 1.0, 1000) == pytest.approx(2 * cost_model.algbw(100, 1.0), rel=0.01)
