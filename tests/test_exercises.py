"""The exercises on real ranks; see tests/ranks/exercises.py."""

from tests.ranks.worlds import all_equal

METRICS = {"boston_housing": "mae", "imdb": "accuracy"}


def test_every_kind_of_exercise_trains_in_sync(results):
    values = results.of("exercises")
    assert all_equal([{name: value[name] for name in METRICS} for value in values])
    for name, metric in METRICS.items():
        assert values[0][name]["metrics"] == sorted(["loss", metric, "val_loss", f"val_{metric}"])
        assert values[0][name]["checks"] >= 2
        assert values[0][name]["stand_in_for"] == name
        assert values[0][name]["environment"] == {"keras": "3", "stand_in_for": name}
    assert {value["words"] for value in values} == {"IndexedSlices"}, "what travels is rows"


def test_ranks_that_do_not_hold_the_same_kind_of_data_are_refused(results):
    values = results.of("data_on_some_ranks")
    last = results.size - 1
    for value in values:
        assert f"rank {last} on " in value["said"]
        assert "has the real data, rank 0 on " in value["said"]
        assert f"({last} of {results.size} ranks have not)" in value["said"]
        assert "data.args.stand_in: never" in value["said"]
        assert not value["wrote"]


def test_a_run_is_never_of_both_kinds_of_data(results):
    for value in [value["later"] for value in results.of("exercises")]:
        for verb in ("evaluate", "train"):
            assert "was trained on a stand-in until step" in value[verb]
            assert "now returns the real data" in value[verb]
        assert value["same"] == "boston_housing"
