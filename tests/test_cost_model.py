"""What an allreduce costs: the textbook's algorithms, and fits to what machines do instead."""

import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvdtrain.study import cost_model
from hvdtrain.study.cost_model import best_s, fit_cost, relative_errors

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


def test_sizes_between_are_told_where_buffers_outgrow_the_caches():
    """The cost of a byte rises smoothly: no line for all sizes, and none for a few large parts, would do."""
    halves = [2 ** (power / 2) for power in range(20, 53)]
    seconds = [1e-5 + size * 2e-11 * (1 + 20 / (1 + (2e6 / size) ** 2)) for size in halves]
    model = fit_cost(2, halves[::2], seconds[::2])
    assert max(relative_errors(model, halves[1::2], seconds[1::2])) < 0.15
    assert model.width < 1


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_noise_is_smoothed_and_not_followed(seed):
    noise = random.Random(seed)
    true = [1e-5 + 1e-9 * size for size in SIZES]
    model = fit_cost(2, SIZES, [value * noise.gauss(1, 0.05) for value in true])
    assert statistics.median(relative_errors(model, SIZES, true)) < 0.05


def test_a_jump_is_off_beside_it_only():
    """The library changes its way at 64 KiB."""
    seconds = [1e-6 + 1e-9 * size if size <= 2**16 else 2e-4 + 4e-10 * size for size in SIZES]
    errors = relative_errors(fit_cost(2, SIZES, seconds), SIZES, seconds)
    far = [error for error, size in zip(errors, SIZES, strict=True) if not 2**13 < size < 2**19]
    assert max(far) < 0.05


def test_the_lines_at_the_ends_go_on_and_never_down():
    model = fit_cost(2, SIZES, [2e-4 - 1e-11 * size if size < 2**16 else 1e-9 * size for size in SIZES])
    assert model.seconds(0) > 0
    assert model.seconds(2**30) > model.seconds(2**29) > 0


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
