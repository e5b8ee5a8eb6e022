"""Speed-up laws: found again from what they make, and refused where there is too little."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvdtrain.study import laws

SIZES = (2, 4, 8, 16)
shares = st.floats(0.0, 0.9)


@given(serial=shares)
def test_amdahl_is_found_again(serial):
    fit = laws.fit_amdahl({size: [laws.amdahl(size, serial)] for size in SIZES})
    value, low, high = fit.parameters["serial fraction"]
    assert value == pytest.approx(serial, abs=1e-9)
    assert low == high == value
    assert fit.error == pytest.approx(0, abs=1e-9)


@given(serial=shares)
def test_gustafson_is_found_again(serial):
    fit = laws.fit_gustafson({size: [laws.gustafson(size, serial)] for size in SIZES})
    assert fit.parameters["serial fraction"][0] == pytest.approx(serial, abs=1e-9)


@settings(max_examples=25)
@given(contention=st.floats(0.0, 0.5), coherency=st.floats(0.0, 0.05))
def test_the_universal_law_is_found_again(contention, coherency):
    fit = laws.fit_universal({size: [laws.universal(size, contention, coherency)] for size in SIZES})
    assert fit.parameters["contention"][0] == pytest.approx(contention, abs=1e-6)
    assert fit.parameters["coherency"][0] == pytest.approx(coherency, abs=1e-6)


def test_the_universal_law_says_where_it_peaks():
    fit = laws.fit_universal({size: [laws.universal(size, 0.05, 0.01)] for size in SIZES})
    peak = fit.peak
    assert peak is not None
    assert laws.universal(peak, 0.05, 0.01) > laws.universal(0.9 * peak, 0.05, 0.01)
    assert laws.universal(peak, 0.05, 0.01) > laws.universal(1.1 * peak, 0.05, 0.01)


def test_parameters_are_never_negative():
    superlinear = {size: [1.2 * size] for size in SIZES}
    for fit in (laws.fit_amdahl(superlinear), laws.fit_gustafson(superlinear), laws.fit_universal(superlinear)):
        assert all(value >= 0 for value, _, _ in fit.parameters.values())
        assert fit.peak is None


@pytest.mark.parametrize(
    ("fit", "sizes"), [(laws.fit_amdahl, (1, 2)), (laws.fit_gustafson, (1,)), (laws.fit_universal, (1, 2, 4))]
)
def test_too_few_sizes_are_refused_in_words(fit, sizes):
    found = fit({size: [1.0] for size in sizes})
    assert not found.parameters
    assert "sizes besides the baseline" in found.refused


def test_the_interval_comes_from_the_repeats():
    repeats = {2: [1.7, 1.8, 1.9], 4: [3.0, 3.2, 3.4], 8: [5.0, 5.6, 6.2]}
    value, low, high = laws.fit_amdahl(repeats).parameters["serial fraction"]
    assert low < value < high


@given(size=st.sampled_from(SIZES), serial=st.floats(0.01, 1.0))
def test_karp_and_flatt_see_amdahls_fraction(size, serial):
    assert laws.karp_flatt(laws.amdahl(size, serial), size) == pytest.approx(serial)
