"""What more ranks would do: limits that every forecast must keep, and the published results."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdtrain.study.forecast import (
    Layer,
    Spread,
    Workload,
    expected_maximum,
    forecast,
    forecast_step,
    last_worthwhile,
    powers_up_to,
    travels,
)
from hvdtrain.study.forecast_words import forecast_plot
from hvdtrain.study.networks import PRESETS
from hvdtrain.study.plots import to_svg

LAYERS = tuple(Layer(num_bytes, 1 / 4) for num_bytes in (1e6, 5e6, 20e6, 80e6))
WORKLOAD = Workload(0.2, LAYERS)
NETWORKS = st.sampled_from(sorted(PRESETS))
RANKS = st.integers(1, 30_000)


def test_a_network_may_be_called_as_it_likes():
    curve = [{"num_ranks": ranks, "efficiency": [0.8, 0.9, 1.0]} for ranks in (1, 2)]
    figure = forecast_plot({"curve": curve, "network": {"name": r"n$\x$"}}, [])
    assert "</svg>" in to_svg(figure, "forecast")


@given(name=NETWORKS, ranks=RANKS, overlaps=st.booleans(), jitter=st.floats(0, 0.2))
def test_a_step_never_gets_faster_than_computing_alone(name, ranks, overlaps, jitter):
    step = forecast_step(replace(WORKLOAD, overlaps=overlaps, jitter=jitter), PRESETS[name], ranks)
    assert step.compute_s == WORKLOAD.step_s
    assert 0 < step.efficiency <= 1
    assert step.exposed_s <= step.allreduce_s + 1e-12


def test_one_rank_waits_for_nobody():
    assert forecast_step(replace(WORKLOAD, jitter=0.1), PRESETS["ethernet-10g"], 1).efficiency == 1


@given(name=NETWORKS, ranks=st.integers(2, 30_000))
def test_what_was_measured_beyond_the_model_is_part_of_every_step_with_others(name, ranks):
    step, more = (
        forecast_step(replace(WORKLOAD, fixed_s=fixed), PRESETS[name], ranks).step_s for fixed in (0.0, 0.01)
    )
    assert more == pytest.approx(step + 0.01)
    assert forecast_step(replace(WORKLOAD, fixed_s=0.01), PRESETS[name], 1).step_s == WORKLOAD.step_s


@given(name=NETWORKS, ranks=RANKS)
def test_overlap_never_hurts_a_model_that_fits_one_buffer(name, ranks):
    small = replace(WORKLOAD, layers=(Layer(1e6, 1.0),))
    apart = forecast_step(small, PRESETS[name], ranks)
    assert forecast_step(replace(small, overlaps=True), PRESETS[name], ranks).step_s == pytest.approx(apart.step_s)


@given(name=NETWORKS)
def test_more_bandwidth_never_hurts(name):
    slow = PRESETS[name]
    fast = replace(slow, bandwidth_gb_s=2 * slow.bandwidth_gb_s)
    for ranks in (2, 64, 4096):
        assert forecast_step(WORKLOAD, fast, ranks).step_s <= forecast_step(WORKLOAD, slow, ranks).step_s


def test_messages_follow_each_other_and_carry_everything():
    workload = replace(WORKLOAD, overlaps=True, fusion_bytes=21e6)
    messages = travels(workload, PRESETS["roce-25g"], 64)
    assert len(messages) >= 2
    assert all(after[0] >= before[1] for before, after in pairwise(messages))


@given(count=st.integers(2, 100_000))
def test_the_slowest_of_more_ranks_is_slower(count):
    assert expected_maximum(count) > expected_maximum(count - 1)


def test_low_and_high_lie_around_the_likely_case():
    rows = forecast(WORKLOAD, PRESETS["ib-hdr"], [1, 8, 512], batch_size_per_rank=32, num_examples=1e6, spread=Spread())
    for row in rows:
        low, likely, high = row.efficiency
        assert low <= likely <= high
        assert row.hours[0] <= row.hours[1] <= row.hours[2]
        assert row.node_hours == pytest.approx(row.hours[1] * row.nodes)
    assert [row.nodes for row in rows] == [1, 1, 64]


def test_strong_scaling_runs_out_of_work():
    many = [1, 64, 4096]
    rows = forecast(
        WORKLOAD, PRESETS["ib-hdr"], many, batch_size_per_rank=4096, num_examples=1e6, spread=Spread(), strong=True
    )
    assert rows[0].efficiency[1] > rows[1].efficiency[1] > rows[2].efficiency[1]
    assert last_worthwhile(rows) in (1, 64)


def test_a_curve_goes_up_to_its_end():
    assert powers_up_to(1) == [1]
    assert powers_up_to(27_360)[-2:] == [16_384, 27_360]


def test_every_preset_of_the_workshops_machines_is_there_with_a_source():
    wanted = ["roce-25g", "ethernet-10g", "ethernet-50g", "ib-fdr", "ib-edr-dual", "ib-hdr", "aries", "slingshot"]
    assert set(wanted) <= set(PRESETS)
    assert all(network.source and network.title for network in PRESETS.values())
