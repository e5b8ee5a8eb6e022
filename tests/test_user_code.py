"""What is wrong with a user's model or data is said in words before training, here in the worker's own first step."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pytest

from hvdtrain.config import Config
from hvdtrain.errors import HvdtrainError, UserCodeError
from hvdtrain.facts import assumed_facts
from hvdtrain.plan import Plan, make_plan
from hvdtrain.rundir import RunDir

tf = pytest.importorskip("tensorflow")

from hvdtrain.train import job  # noqa: E402  TensorFlow must be there
from hvdtrain.train.comm import SoloComm  # noqa: E402
from hvdtrain.train.console import Console  # noqa: E402

CODE = """
import keras
import numpy as np
import tensorflow as tf

x, y = np.zeros((20, 6), "float32"), np.arange(20) % 4
test = (x[:8], y[:8])
one_hot = keras.utils.to_categorical


def model(): return keras.Sequential([keras.layers.Input((6,)), keras.layers.Dense(4)])
def other_shape(): return keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(4)])
def no_input_shape(): return keras.Sequential([keras.layers.Dense(4)])
def no_model(): return [keras.layers.Dense(4)]
def nothing(): pass
def no_weights(): return keras.Sequential([keras.layers.Input((6,)), keras.layers.Flatten()])
def broken_model(): raise LookupError("my own words")
def sized(units): return keras.Sequential([keras.layers.Input((6,)), keras.layers.Dense(units)])

def good(): return (x, y), test
def without_test(): return (x, y), None
def datasets(): return tf.data.Dataset.from_tensor_slices((x, y)), None
def labels_out_of_range(): return (x, y + 1), test
def negative_labels(): return (x, y - 1), test
def bad_test_labels(): return (x, y), (x[:8], y[:8] + 2)
def fractions(): return (x, y + 0.5), test
def one_hot_labels(): return (x, one_hot(y)), (x[:8], one_hot(y[:8]))
def nan(): return (np.where(np.arange(20)[:, None] == 13, np.nan, x), y), test
def infinite_test(): return (x, y), (x[:8] + np.inf, y[:8])
def three_parts(): return x, y, test
def bare_array(): return x, y
def uneven(): return (x, y[:19]), test
def fewer(): return (x[:19], y[:19]), test
def tiny_test(): return (x, y), (x[:1], y[:1])
def broken(): raise LookupError("my own words")
def test_one(): return (x, y), (x[:8],)
def test_bare(): return (x, y), x[:8]
def string_labels(): return (x, np.array(["cat", "dog"] * 10)), None
def objects(): return (np.array([[1.0], [1.0, 2.0]] * 10, dtype=object), y), None
def batched(): return tf.data.Dataset.from_tensor_slices((x, y)).batch(4), None
def masked(): return (x, np.where(np.arange(20) < 2, -1, y)), None
def per_step(): return (x, np.tile(y[:, None], 2) + 3 * (np.arange(20) == 13)[:, None]), None
def two_labels(): return (x, (y, np.ones((20, 1), "float32"))), None
def no_weight_there(): return (x, y, np.where(np.arange(20) == 4, np.nan, 1.0)), test
def words(): return ({"a": "a"}, y), test
def by_name(): return ({"left": x, "right": x}, y, np.ones(20)), ({"left": x[:2], "right": x[:2]}, y[:2])
def in_a_list(): return ([x, x], y.tolist()), None
def nan_by_name(): return ({"left": x, "right": nan()[0][0]}, y), None
def two_outputs(named=False):
    inputs = keras.layers.Input((6,))
    first, second = keras.layers.Dense(4, name="kind")(inputs), keras.layers.Dense(1, name="size")(inputs)
    return keras.Model(inputs, {"kind": first, "size": second} if named else [first, second])
def by_output(): return (x, {"kind": one_hot(y), "size": np.ones((20, 1), "float32")}), None
def in_order(): return (x, (one_hot(y), np.ones((20, 1), "float32"))), None
def sequence(): return keras.Sequential([keras.layers.Input((6,)), keras.layers.Dense(8), keras.layers.Reshape((2, 4))])
def two_inputs(listed=False):
    inputs = {name: keras.layers.Input((6,), name=name) for name in ("left", "right")}
    outputs = keras.layers.Dense(4)(keras.layers.Concatenate()(list(inputs.values())))
    return keras.Model(list(inputs.values()) if listed else inputs, outputs)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "code_of_a_user.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "code_of_a_user", raising=False)
    return tmp_path


class TwoRanks(SoloComm):
    """A world of two for what is looked at before ranks talk."""

    size = 2


def plan_of(*, model: str, data: str, args: dict[str, object], others: Mapping[str, object]) -> Plan:
    config = Config.model_validate(
        {
            "name": "x",
            "model": {"source": f"code_of_a_user:{model}", "args": args},
            "data": {"source": f"code_of_a_user:{data}", "num_examples": 20},
            "training": {"epochs": 1, "batch_size_per_replica": 5},
            **others,
        }
    )
    return make_plan(config, assumed_facts())


def prepare(
    folder: Path,
    *,
    model: str = "model",
    data: str = "good",
    loss: str = "sparse_categorical_crossentropy",
    num_ranks: int = 1,
    metrics: Sequence[str] = ("accuracy",),
    loss_args: Mapping[str, object] = MappingProxyType({}),
    **args: object,
) -> None:
    others = {"loss": loss, "loss_args": dict(loss_args), "metrics": list(metrics)}
    plan = dataclasses.replace(plan_of(model=model, data=data, args=args, others=others), num_ranks=num_ranks)
    comm = TwoRanks() if num_ranks == 2 else SoloComm()
    job.prepare(job.Job(plan, RunDir(folder), folder, comm, Console(None, has_bar=False)))


@pytest.mark.parametrize("data", ["good", "without_test", "datasets"])
def test_good_data_and_model_are_taken(folder, data):
    prepare(folder, data=data)


def test_one_hot_labels_are_taken_with_their_own_loss(folder):
    prepare(folder, data="one_hot_labels", loss="categorical_crossentropy")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("modle", "has no function 'modle'; did you mean 'model'?"),
        ("no_model", "must return a keras.Model; got a list of 1"),
        ("nothing", "must return a keras.Model; got NoneType"),
        ("other_shape", "good: x_train: the model does not take examples of shape (6,)"),
        ("no_weights", "no trainable weights"),
        ("sized", "cannot be called with args {}: missing a required argument: 'units'; it takes (units)"),
    ],
)
def test_models_that_cannot_train(folder, model, expected):
    with pytest.raises(UserCodeError) as caught:
        prepare(folder, model=model)
    assert expected in str(caught.value)
    assert "code_of_a_user:" in str(caught.value)


def test_a_model_without_an_input_shape_takes_that_of_the_data(folder):
    prepare(folder, model="no_input_shape")


def test_arguments_of_another_name_are_told_with_the_signature(folder):
    with pytest.raises(UserCodeError, match=r"got an unexpected keyword argument 'unit'; it takes \(units\)|missing"):
        prepare(folder, model="sized", unit=4)
    prepare(folder, model="sized", units=4)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("labels_out_of_range", "y_train: labels go from 1 to 4, but the model has 4 outputs, so they must be 0 to 3"),
        ("negative_labels", "labels go from -1 to 2"),
        ("bad_test_labels", "y_test: labels go from 2 to 5"),
        ("fractions", "needs whole numbers as labels; got float64 values such as 0.5"),
        ("nan", "x_train holds NaN or infinity in 1 of 20 examples, the first is number 13"),
        ("infinite_test", "x_test holds NaN or infinity in 8 of 8 examples"),
        ("three_parts", "must return ((x_train, y_train), (x_test, y_test))"),
        ("bare_array", "must be a pair (x, y) of arrays, or (x, y, sample weights); got numpy.ndarray"),
        ("no_weight_there", "sample weights of train holds NaN or infinity in 1 of 20 examples, the first is number 4"),
        ("words", "expected arrays with one row per example, or tuples and dicts of such; got 'a'"),
        ("nothing", "got NoneType"),
        ("uneven", "must have as many examples each; got [19, 20]"),
        ("fewer", "returned 19 training examples, the plan says 20: set data.num_examples: 19"),
        ("test_one", "the test data must be a pair (x, y) of arrays, or (x, y, sample weights); got a tuple of 1"),
        ("test_bare", "the test data must be a pair (x, y) of arrays, or (x, y, sample weights); got numpy.ndarray"),
        ("string_labels", "y_train holds words (dtype <U3), and a model takes numbers"),
        ("objects", "x_train holds objects, such as words or rows of different lengths (dtype object)"),
        ("batched", "the training dataset is batched already; return it without batch(...)"),
        ("one_hot_labels", "y_train: sparse_categorical_crossentropy needs one class number per example, not (4,)"),
    ],
)
def test_data_that_cannot_be_trained_on(folder, data, expected):
    with pytest.raises(HvdtrainError) as caught:
        prepare(folder, data=data)
    assert expected in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("loss", "metrics", "expected"),
    [
        ("sparse_categorical_crossentropi", (), "did you mean 'sparse_categorical_crossentropy'?"),
        ("mse", ("acuracy",), "metrics: Keras has no metric 'acuracy'; did you mean 'accuracy'?"),
        ("mse", ("PrecisionAtRecall",), "PrecisionAtRecall needs arguments"),
        ("binary_crossentropy", (), "good: loss binary_crossentropy or metrics do not fit labels of shape ()"),
    ],
)
def test_a_loss_and_metrics_that_are_not_there_or_do_not_fit(folder, loss, metrics, expected):
    with pytest.raises(UserCodeError) as caught:
        prepare(folder, loss=loss, metrics=metrics)
    assert expected in str(caught.value)


def test_a_loss_is_known_by_the_name_of_its_class_too(folder):
    prepare(folder, loss="SparseCategoricalCrossentropy", loss_args={"from_logits": True})
    with pytest.raises(UserCodeError, match="labels go from 1 to 4"):
        prepare(folder, loss="SparseCategoricalCrossentropy", data="labels_out_of_range")


def test_a_class_to_be_ignored_is_no_bad_label(folder):
    with pytest.raises(UserCodeError, match="labels go from -1 to 3"):
        prepare(folder, data="masked")
    prepare(folder, data="masked", loss_args={"ignore_class": -1})


def test_bad_labels_of_sequences_are_counted_by_example(folder):
    with pytest.raises(UserCodeError, match="the first bad one is example 13: 4"):
        prepare(folder, model="sequence", data="per_step")


@pytest.mark.parametrize(("named", "data"), [(True, "by_output"), (False, "in_order")])
def test_each_of_several_outputs_has_all_metrics(folder, named, data):
    prepare(folder, model="two_outputs", data=data, loss="mse", metrics=["accuracy", "mae"], named=named)


def test_a_test_set_smaller_than_the_world_is_taken(folder):
    prepare(folder, data="tiny_test", num_ranks=2)


def test_inputs_by_name_and_in_lists_are_taken(folder):
    prepare(folder, model="two_inputs", data="by_name")
    prepare(folder, model="two_inputs", data="in_a_list", listed=True)
    with pytest.raises(UserCodeError, match=r"x_train \(input 1\) holds NaN or infinity in 1 of 20 examples"):
        prepare(folder, model="two_inputs", data="nan_by_name")


@pytest.mark.parametrize("names", [{"data": "broken"}, {"model": "broken_model"}])
def test_an_error_inside_the_users_own_code_stays_what_it_is(folder, names):
    with pytest.raises(LookupError, match="my own words"):
        prepare(folder, **names)


def test_a_module_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "code_of_a_user", raising=False)
    with pytest.raises(UserCodeError, match=r"there is no module 'code_of_a_user', neither in .* nor installed"):
        prepare(tmp_path)
