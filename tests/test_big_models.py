"""The short form of tests/harness/big_models.py: 400 variables, and one of 20 MB, through both ways."""

import pytest

from tests.harness.big_models import Case, run

CASES = {
    "many": Case(400, 0, 2),
    "large": Case(0, 20, 2),
    "large_without_shared_memory": Case(0, 20, 2, little_memory=True),
}


@pytest.mark.parametrize(
    "name", ["large", *(pytest.param(name, marks=pytest.mark.thorough) for name in CASES if name != "large")]
)
def test_big_models_train_in_sync(name, tmp_path, require_horovod):
    row = run(CASES[name], tmp_path)
    assert row["in_sync"]
    assert row["shared_segments"] == (0 if CASES[name].little_memory else 1)
