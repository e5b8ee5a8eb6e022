"""Half precision, Adasum and groups on real ranks (tests/ranks/exchanges.py), and what is refused."""

import pytest

from hvdtrain.errors import UserCodeError
from hvdtrain.train.exchange import Exchange, groups
from tests.ranks.worlds import all_equal


@pytest.mark.travel
def test_half_precision_is_close_and_in_sync(results):
    values = results.of("compression")
    assert all_equal([value["bits"] for value in values])
    for value in values:
        assert 0 < value["off"] < 2e-3
        assert value["dtype"] == "float32"
        assert value["overflows"], "what does not fit must become infinite on every rank"
        assert value["others_do_not"]
        assert value["rounded"] == pytest.approx(2**-11, rel=1e-3)
        assert value["rounded"] != pytest.approx(2**-11 * 1.001, rel=1e-5)


@pytest.mark.travel
def test_groups_do_not_change_a_bit(results):
    for value in results.of("groups"):
        assert max(value["off"]) < 1e-6
        if results.reduction == "shared_memory":
            assert value["same_bits"] == [True, True]


@pytest.mark.core
def test_adasum_is_the_formula_and_in_sync(results):
    values = results.of("adasum")
    if results.size == 3:
        assert all("must be a power of two; there are 3. Use 2 ranks" in value["refused"] for value in values)
        return
    assert all_equal([value["bits"] for value in values])
    for value in values:
        assert value["off"] < 1e-12
        assert value["rows_off"] < 1e-12
        assert value["mean_off"] > 0.01, "the mean must be caught"
        assert value["none"]
        assert value["from_mean"] > 1e-3
        assert "loss scaling" in value["scaled"]


@pytest.mark.parametrize("num_groups", [1, 2, 3, 7, 40])
def test_groups_hold_everything_once_the_last_first(num_groups):
    sizes = [4, 400, 4, 4, 1200, 8, 0, 300]
    found = list(groups(sizes, num_groups))
    assert [i for group in reversed(found) for i in range(group.start, group.stop)] == list(range(len(sizes)))
    assert all(group.start < group.stop for group in found)
    assert len(found) <= num_groups


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"compression": "fp8"}, "compression must be 'none' or 'fp16'; got 'fp8'"),
        ({"op": "sum"}, "op must be 'average' or 'adasum'; got 'sum'"),
        ({"num_groups": 0}, "num_groups must be at least 1"),
        ({"op": "adasum", "num_groups": 2}, "num_groups must be None"),
    ],
)
def test_what_an_exchange_cannot_be_is_said(arguments, words):
    with pytest.raises(UserCodeError, match=words):
        Exchange(**arguments)
