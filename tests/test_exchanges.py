"""What configuration and plan say about half precision, Adasum and groups."""

import pytest

from hvdtrain.errors import ConfigError, PlanError
from hvdtrain.plan import make_plan
from tests.test_plan import HERE, config


def test_the_default_needs_no_line():
    assert not [entry for entry in make_plan(config(), HERE).ledger if "gradient" in entry.name]


def test_the_ledger_says_what_is_not_a_plain_mean():
    adasum = make_plan(config(horovod={"op": "adasum", "compression": "fp16"}), HERE)
    lines = {entry.name: (entry.value, entry.rule) for entry in adasum.ledger}
    assert lines["gradients"] == ("adasum", "no mean: results differ from those of one process")
    assert lines["gradients travel as"][0] == "float16"
    groups = make_plan(config(horovod={"num_groups": 5}), HERE)
    assert [entry.value for entry in groups.ledger if entry.name == "gradient collectives"] == ["5"]


def test_adasum_does_not_go_with_a_linear_rate():
    plan = make_plan(config(horovod={"op": "adasum"}, optimizer={"lr_scaling": "linear"}), HERE)
    assert any("rate of one replica fits; set lr_scaling: none" in warning for warning in plan.warnings)
    assert not make_plan(config(horovod={"op": "adasum"}), HERE).warnings


def test_adasum_needs_a_power_of_two():
    with pytest.raises(PlanError, match=r"must be a power of two; got 6. Use 4 ranks") as caught:
        make_plan(config(horovod={"op": "adasum"}, launch={"num_ranks": 6}), HERE)
    assert "horovod.op" in str(caught.value)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"horovod": {"op": "adasum", "num_groups": 2}}, "num_groups must be null; got 2"),
        ({"horovod": {"op": "adasum"}, "training": {"precision": "mixed_float16"}}, "use mixed_bfloat16 or float32"),
        ({"horovod": {"op": "adasum"}, "launch": {"strategy": "mirrored", "num_ranks": 1}}, "does without Horovod"),
    ],
)
def test_what_adasum_does_not_go_with_is_refused(sections, words):
    with pytest.raises(ConfigError, match=words):
        config(**sections)


def test_what_has_no_effect_without_horovod_is_said():
    sections = {"launch": {"strategy": "mirrored", "num_ranks": 1}, "horovod": {"compression": "fp16"}}
    plan = make_plan(config(**sections), HERE)
    assert any("horovod.compression: fp16 has no effect" in warning for warning in plan.warnings)
