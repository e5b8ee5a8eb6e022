"""Adam in one pass: every bit is Keras's own, and whatever it is not made for goes Keras's way."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from hvdtrain.native import library_path
from hvdtrain.train import fused_adam
from hvdtrain.train.comm import SoloComm
from hvdtrain.train.flops import flop_per_step
from hvdtrain.train.optimizer import distribute
from tests.conftest import missing

STEPS = 23
SHAPES = ((1,), (3, 5), (4097,), (33, 1001), (0,), ())  # whole vectors of any processor, and what is left over


class MyAdam(keras.optimizers.Adam):
    """Somebody's own rule."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Do not move."""


def adam(**options: Any) -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(**options)


MAKERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "plain": lambda: adam(learning_rate=0.003),
    "odd constants": lambda: adam(learning_rate=0.1, beta_1=0.123, beta_2=0.9, epsilon=1e-3),
    "AdamW": lambda: keras.optimizers.AdamW(0.003, weight_decay=0.01),
    "schedule": lambda: adam(learning_rate=keras.optimizers.schedules.CosineDecay(0.01, 20, warmup_steps=5)),
    "clipping": lambda: adam(learning_rate=0.003, global_clipnorm=1.0),
    "weight decay and moving average": lambda: adam(weight_decay=0.01, use_ema=True, ema_overwrite_frequency=4),
    "accumulation": lambda: adam(learning_rate=0.003, gradient_accumulation_steps=3),
    "loss scale": lambda: adam(learning_rate=0.003, loss_scale_factor=1024.0),
}


@pytest.fixture(scope="module", autouse=True)
def operation() -> Any:
    if not library_path(tf.__version__, os.environ).exists():
        missing("horovod", "our operations are not built (hvdtrain build-horovod)")
    return fused_adam._operation()


@pytest.fixture
def calls(operation: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many variables each traced or eager use of the operation updates."""
    found: list[int] = []

    def counted(**inputs: Any) -> Any:
        found.append(len(inputs["variables"]))
        return operation(**inputs)

    monkeypatch.setattr(fused_adam, "_operation", lambda: counted)
    return found


def gradients(step: int, scale: float = 1.0) -> list[np.ndarray]:
    random = np.random.default_rng(step)
    return [(scale * random.normal(size=shape) * 10.0 ** random.integers(-12, 3)).astype("float32") for shape in SHAPES]


def trained(optimizer: keras.optimizers.Optimizer, *, in_graph: bool = True, last: float = 1.0) -> list[bytes]:
    random = np.random.default_rng(99)
    variables = [keras.Variable(random.normal(size=shape).astype("float32")) for shape in SHAPES]
    optimizer.build(variables)
    step = tf.function(lambda *slopes: optimizer.apply(slopes, variables)) if in_graph else None
    for number in range(STEPS):
        slopes = [tf.constant(slope) for slope in gradients(number, last if number == STEPS - 1 else 1.0)]
        step(*slopes) if step else optimizer.apply(slopes, variables)
    return [np.asarray(value).tobytes() for value in [*variables, *optimizer.variables]]


@pytest.mark.parametrize("name", MAKERS)
def test_every_bit_is_that_of_keras(name: str, calls: list[int]):
    assert trained(distribute(MAKERS[name](), SoloComm())) == trained(MAKERS[name]())
    assert calls == [len(SHAPES)]


def test_outside_of_a_graph_as_well(calls: list[int]):
    assert trained(distribute(adam(), SoloComm()), in_graph=False) == trained(adam(), in_graph=False)
    assert calls == [len(SHAPES)] * STEPS


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_spreads_alike(bad: float, calls: list[int]):
    ours, theirs = trained(distribute(adam(), SoloComm()), last=bad), trained(adam(), last=bad)
    for mine, other in zip(ours[: len(SHAPES)], theirs, strict=False):
        assert np.array_equal(np.frombuffer(mine, "float32"), np.frombuffer(other, "float32"), equal_nan=True)
    assert calls


@pytest.mark.parametrize(
    "make",
    [lambda: adam(amsgrad=True), MyAdam, keras.optimizers.Adamax, keras.optimizers.SGD],
    ids=["amsgrad", "my own", "Adamax", "SGD"],
)
def test_other_rules_go_the_way_of_keras(make: Callable[[], Any], calls: list[int]):
    assert trained(distribute(make(), SoloComm())) == trained(make())
    assert calls == []


def test_rows_of_an_embedding_go_the_way_of_keras(calls: list[int]):
    table = keras.Variable(np.ones((5, 2), "float32"))
    optimizer = distribute(adam(), SoloComm())
    optimizer.apply([tf.IndexedSlices(tf.ones((1, 2)), tf.constant([3]), tf.constant([5, 2]))], [table])
    assert calls == []
    assert np.asarray(table)[3, 0] < 1 == np.asarray(table)[2, 0]


def test_double_precision_and_xla_go_the_way_of_keras(calls: list[int]):
    double = keras.Variable(np.ones(3), dtype="float64")
    distribute(adam(), SoloComm()).apply([tf.ones(3, tf.float64)], [double])
    single = keras.Variable(np.ones(3, "float32"))
    optimizer = distribute(adam(), SoloComm())
    optimizer.build([single])
    tf.function(lambda slope: optimizer.apply([slope], [single]), jit_compile=True)(tf.ones(3))
    assert calls == []
    assert np.asarray(single)[0] < 1


def test_who_has_read_a_variable_keeps_what_was_read(calls: list[int]):
    variable = keras.Variable(np.ones(1000, "float32"))
    read = variable.value.read_value()
    distribute(adam(learning_rate=0.5), SoloComm()).apply([tf.ones(1000)], [variable])
    assert calls == [1]
    assert (read.numpy() == 1).all()
    assert (np.asarray(variable) < 1).all()


def test_without_the_library_keras_updates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    uncached = fused_adam._operation.__wrapped__
    assert uncached() is None
    monkeypatch.setattr(fused_adam, "_operation", uncached)
    assert trained(distribute(adam(), SoloComm())) == trained(adam())


def test_its_floating_point_operations_are_counted():
    def count(optimizer: keras.optimizers.Optimizer) -> int | None:
        model = keras.Sequential([keras.Input((40,)), keras.layers.Dense(30)])
        model.compile(optimizer, "mse", jit_compile=False)
        return flop_per_step(model, (tf.ones((8, 40)), tf.ones((8, 30))))

    ours, theirs = count(distribute(adam(), SoloComm())), count(adam())
    assert ours is not None
    assert theirs is not None
    parameters = 40 * 30 + 30
    assert 0 <= ours - theirs <= 5 * parameters  # TensorFlow has no count for some of Keras's operations, as the root
    assert ours > 12 * parameters
