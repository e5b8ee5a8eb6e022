"""Kinds of models on real ranks: the results of tests/ranks/model_kinds.py."""

import pytest

from tests.ranks.worlds import all_equal

# One process rounds the sum of a whole batch where ranks round their parts: more so in these dtypes.
TOLERANCE = {"mixed_dtypes": 0.01}


def test_every_kind_of_model_equals_one_process(results):
    values = results.of("model_kinds")
    assert len(values[0]) >= 13
    for name, entry in values[0].items():
        assert entry["off"] < TOLERANCE.get(name, 1e-9), f"{name} is off by {entry['off']}"
        assert entry["moved"] > 1e-3, f"{name} did not train"
        assert all_equal([value[name]["bits"] for value in values]), f"{name}: ranks differ"


def test_several_steps_per_execution(results):
    for value in results.of("several_steps_per_execution"):
        assert value["off"] == pytest.approx(0, abs=1e-12)
