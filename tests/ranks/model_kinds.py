"""Kinds of models through compile and fit: R ranks with their parts and one process with the global batches."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdtrain.train.callbacks import AgreeStop, GlobalMetrics, Setup, SyncProof
from hvdtrain.train.comm import Comm
from hvdtrain.train.compat import to_array
from hvdtrain.train.optimizer import distribute
from tests.ranks.semantics import distance, policy

ROWS = 4  # examples per rank and step
NUM_STEPS = 3


class DenseAdam(keras.optimizers.Adam):
    """What rows of an embedding are compared with: Keras squares a repeated row's gradients before it adds them up."""

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        dense = [None if gradient is None else tf.convert_to_tensor(gradient) for gradient in grads]
        return super().apply(dense, trainable_variables)


OPTIMIZER = "an optimizer goes here"


@dataclass
class Kind:
    """A model, how to compile it, the names of its data, and the optimizers of all ranks and of the one process."""

    model: keras.Model
    x: Any = "numbers"
    y: Any = "target"
    options: dict[str, Any] = field(default_factory=lambda: {"loss": "mse", "metrics": ["mae"]})
    optimizers: tuple[Any, Any] = (keras.optimizers.Adam, DenseAdam)


def dense(units: int, **options: Any) -> keras.layers.Layer:
    return keras.layers.Dense(units, activation="tanh", **options)


def number_input() -> Any:
    return keras.layers.Input((4,), name="numbers")


# -- the kinds ----------------------------------------------------------------------------------


def sequential() -> Kind:
    return Kind(keras.Sequential([number_input(), dense(5), keras.layers.Dense(2)]))


def functional_with_two_outputs() -> Kind:
    """Dictionaries of inputs and of outputs, a loss for each, one counted less."""
    numbers, words = number_input(), keras.layers.Input((3,), dtype="int32", name="words")
    hidden = dense(5)(numbers)
    looked_up = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(20, 3)(words))
    both = keras.layers.Concatenate()([hidden, looked_up])
    outputs = {
        "target": keras.layers.Dense(2, name="target")(both),
        "label": keras.layers.Dense(3, activation="softmax", name="label")(hidden),
    }
    return Kind(
        keras.Model({"numbers": numbers, "words": words}, outputs),
        x={"numbers": "numbers", "words": "words"},
        y={"target": "target", "label": "label"},
        options={
            "loss": {"target": "mse", "label": "sparse_categorical_crossentropy"},
            "loss_weights": {"target": 1.0, "label": 0.3},
            "metrics": {"label": ["accuracy"]},
        },
    )


def shared_layer() -> Kind:
    numbers, layer = number_input(), dense(4)
    return Kind(keras.Model(numbers, keras.layers.Dense(2)(layer(layer(numbers)))))


def frozen_layer() -> Kind:
    model = keras.Sequential([number_input(), dense(5), dense(5), keras.layers.Dense(2)])
    model.layers[0].trainable = False
    return Kind(model)


def unused_head() -> Kind:
    """A head that no loss depends on: its gradients are None."""
    numbers = number_input()
    hidden = dense(5)(numbers)
    outputs = {name: keras.layers.Dense(units, name=name)(hidden) for name, units in (("target", 2), ("idle", 7))}
    return Kind(keras.Model(numbers, outputs), y={"target": "target"}, options={"loss": {"target": "mse"}})


class Scaled(keras.layers.Layer):
    """A layer of one's own: weights of both kinds, one of whole numbers, and a loss of its own."""

    def build(self, input_shape: Any) -> None:
        self.scale = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="scale")
        self.largest = self.add_weight(shape=(), initializer="zeros", trainable=False, name="largest")
        self.calls = self.add_weight(shape=(), initializer="zeros", dtype="int64", trainable=False, name="calls")

    def call(self, inputs: Any) -> Any:
        self.calls.assign(self.calls + 1)
        self.largest.assign(keras.ops.mean(inputs))
        self.add_loss(0.01 * keras.ops.sum(self.scale**2))
        return inputs * self.scale


def own_layer() -> Kind:
    return Kind(keras.Sequential([number_input(), dense(5), Scaled(), keras.layers.Dense(2)]))


class Subclassed(keras.Model):
    """Layers in attributes, in a list, and in a model inside the model."""

    def __init__(self) -> None:
        super().__init__()
        self.first = dense(5)
        self.blocks = [dense(5), Scaled()]
        self.inner = keras.Sequential([keras.layers.Input((5,)), dense(3)])
        self.head = keras.layers.Dense(2)

    def call(self, inputs: Any, training: bool = False) -> Any:
        hidden = self.first(inputs)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.inner(hidden))


def subclassed() -> Kind:
    model = Subclassed()
    model(np.zeros((1, 4)))
    return Kind(model)


class OwnStep(keras.Model):
    """A train_step of one's own, as Keras's guide writes it."""

    calls = "apply_gradients"

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        if self.calls == "apply":
            self.optimizer.apply(gradients, self.trainable_variables)
        else:
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


class OwnStepWithApply(OwnStep):
    calls = "apply"


def own_train_step(cls: type = OwnStep) -> Kind:
    numbers = number_input()
    return Kind(cls(numbers, keras.layers.Dense(2)(dense(5)(numbers))), options={"loss": "mse"})


def own_train_step_with_apply() -> Kind:
    return own_train_step(OwnStepWithApply)


class TwoOptimizers(keras.Model):
    """Two parts with an optimizer each, from one tape, as generators and critics are trained."""

    def compile(self, optimizer: Any, second: Any, **options: Any) -> None:
        super().compile(optimizer=optimizer, **options)
        self.second = second

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients[:2], self.trainable_variables[:2])
        self.second.apply(gradients[2:], self.trainable_variables[2:])
        return {"loss": loss}


def two_optimizers() -> Kind:
    numbers = number_input()
    hidden = dense(4)(numbers)
    model = TwoOptimizers(numbers, keras.layers.Dense(4)(hidden))
    return Kind(model, y="numbers", options={"loss": "mse", "second": OPTIMIZER})


def mixed_dtypes() -> Kind:
    """Variables of four dtypes: a collective for each."""
    layers = [dense(4, dtype=dtype) for dtype in ("float64", "float32", "float16", "bfloat16", "float64")]
    # Adam divides by squares of gradients, which are nothing in half precision.
    sgd = keras.optimizers.SGD
    return Kind(keras.Sequential([number_input(), *layers, keras.layers.Dense(2)]), optimizers=(sgd, sgd))


def embedding_first() -> Kind:
    words = keras.layers.Input((3,), dtype="int32", name="words")
    hidden = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(20, 4)(words))
    return Kind(keras.Model(words, keras.layers.Dense(2)(hidden)), x="words")


def recurrent() -> Kind:
    numbers = number_input()
    sequence = keras.layers.Reshape((4, 1))(numbers)
    return Kind(keras.Model(numbers, keras.layers.Dense(2)(keras.layers.LSTM(3)(sequence))))


KINDS: dict[str, Callable[[], Kind]] = {
    function.__name__: function
    for function in (
        sequential,
        functional_with_two_outputs,
        shared_layer,
        frozen_layer,
        unused_head,
        own_layer,
        subclassed,
        own_train_step,
        own_train_step_with_apply,
        two_optimizers,
        mixed_dtypes,
        embedding_first,
        recurrent,
    )
}


# -- how they are compared ----------------------------------------------------------------------


def columns(num_rows: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    return {
        "numbers": random.normal(size=(num_rows, 4)),
        "words": random.integers(0, 20, size=(num_rows, 3)).astype("int32"),
        "target": random.normal(size=(num_rows, 2)),
        "label": random.integers(0, 3, size=num_rows),
    }


def batches(kind: Kind, rank: int, size: int, num_ranks: int) -> tf.data.Dataset:
    """Return the part of `rank` out of `size` of each global batch of `num_ranks` times ROWS examples."""
    global_batch = ROWS * num_ranks
    mine = np.arange(global_batch * NUM_STEPS).reshape(NUM_STEPS, size, -1)[:, rank].reshape(-1)
    data = columns(global_batch * NUM_STEPS)
    parts = tf.nest.map_structure(lambda name: data[name][mine], (kind.x, kind.y))
    return tf.data.Dataset.from_tensor_slices(parts).batch(global_batch // size)


def train(make: Callable[[], Kind], comm: Comm, *, is_distributed: bool, **options: Any) -> keras.Model:
    """Return the trained model: together with the other ranks, or this process with the global batch."""
    keras.utils.set_random_seed(3)
    kind = make()
    ours, theirs = kind.optimizers
    make_one = (lambda: distribute(ours(0.03), comm)) if is_distributed else (lambda: theirs(0.03))
    more = {name: make_one() if value is OPTIMIZER else value for name, value in kind.options.items()}
    kind.model.compile(optimizer=make_one(), jit_compile=False, **more, **options)
    rank, size = (comm.rank, comm.size) if is_distributed else (0, 1)
    together = [Setup(comm), GlobalMetrics(comm), SyncProof(comm, 1), AgreeStop(comm)]
    callbacks = together if is_distributed else []
    kind.model.fit(batches(kind, rank, size, comm.size), epochs=1, verbose=0, callbacks=callbacks)
    return kind.model


def weights(model: keras.Model) -> list[np.ndarray]:
    """Return what training changes, in double precision."""
    return [np.asarray(to_array(v), np.float64) for v in model.variables if "int" not in str(v.dtype)]


def case_model_kinds(comm: Comm, folder: Any) -> dict:
    """Every kind: in sync (SyncProof stops otherwise), and equal to one process, which rank 0 is for a moment."""
    results = {}
    with policy("float64"):
        for name, make in KINDS.items():
            ours = weights(train(make, comm, is_distributed=True))
            results[name] = {"bits": [array.tobytes().hex()[:48] for array in ours], "num": len(ours)}
            if comm.rank == 0:
                keras.utils.set_random_seed(3)
                initial = weights(make().model)
                theirs = weights(train(make, comm, is_distributed=False))
                results[name] |= {"off": distance(ours, theirs), "moved": distance(theirs, initial)}
    return results


def case_several_steps_per_execution(comm: Comm, folder: Any) -> dict:
    """The same with all steps in one call into TensorFlow."""
    with policy("float64"):
        ours = weights(train(functional_with_two_outputs, comm, is_distributed=True, steps_per_execution=NUM_STEPS))
        theirs = weights(train(functional_with_two_outputs, comm, is_distributed=True))
        return {"off": distance(ours, theirs)}
