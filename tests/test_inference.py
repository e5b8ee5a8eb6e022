"""Evaluation, prediction and weighted metrics on real ranks, against one process; see tests/ranks/inference.py."""

from tests.ranks.worlds import all_equal

# The loss of one output is Keras's mean over batches, not over examples: see tests/ranks/inference.py.
BY_BATCH = ("number_loss", "kind_loss", "val_number_loss", "val_kind_loss")


def test_evaluate_equals_one_process(results):
    for value in results.of("evaluate"):
        assert set(value) == {"1", str(results.size - 1), str(10 * results.size + 3)}
        for num_examples, by_source in value.items():
            control = by_source.pop("control")
            assert all(off < 1e-5 for off in by_source.values()), (num_examples, by_source)
            assert control > 1e-3, "weights must matter"
    assert all_equal(results.of("evaluate"))


def test_predictions_come_in_the_order_of_the_data(results):
    values = results.of("predict")
    for rank, value in enumerate(values):
        assert value["spread"] > 0.5, "a wrong order must show"
        for num_examples in ("1", str(results.size - 1), str(10 * results.size + 3)):
            assert all(worst < 1e-5 for worst in value[num_examples].values()), value[num_examples]
        assert value["one_output"] < 1e-5
        assert value["in_pieces"] is None if rank else value["in_pieces"] < 1e-5


def test_inference_refuses_what_has_no_answer(results):
    values = results.of("inference_refusals")
    assert all_equal(values)
    assert "hold no example" in values[0]["nothing"]
    assert "hold no example" in values[0]["nothing_to_predict"]
    assert "has no end" in values[0]["endless"]
    assert "shuffled without a seed" in values[0]["shuffled"]
    assert f"OutOfSyncError: ranks 0 and {results.size - 1} hold different weights" in values[0]["other_weights"]


def test_weighted_history_equals_one_process_on_the_union(results):
    for value in results.of("weighted_history"):
        for name in ("loss", "number_mae", "number_mse", "kind_accuracy", "kind_weighted_accuracy"):
            assert {name, f"val_{name}"} <= value["sample_weights"].keys()
        assert {"right", "val_right", "entropy", "hits"} <= value["class_weights"].keys()
        for kind, by_name in value.items():
            exempt = () if kind == "equal_parts" else BY_BATCH
            wrong = {name: off for name, off in by_name.items() if off > 1e-6 and name not in exempt}
            assert not wrong, kind
        assert value["class_weights"]["right"] == value["class_weights"]["val_right"] == 0, "counts are exact"


def test_a_validation_set_smaller_than_the_world(results):
    assert all(value["off"] < 1e-6 for value in results.of("small_validation"))
