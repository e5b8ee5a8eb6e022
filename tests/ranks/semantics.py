"""Cases about training semantics: every optimizer, accumulation, mixed precision, rows of embeddings, every metric."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdtrain.errors import HvdtrainError
from hvdtrain.train.callbacks import Setup, SyncProof
from hvdtrain.train.comm import Comm, HorovodComm, SoloComm
from hvdtrain.train.compat import to_array
from hvdtrain.train.nonfinite import Averaged
from hvdtrain.train.optimizer import distribute
from hvdtrain.train.sync import prove_in_sync

NOT_FOR_WALKING = ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
ROWS = 6  # examples per rank and step


def every_optimizer() -> dict[str, type[keras.optimizers.Optimizer]]:
    """Return Keras's optimizers by name, as `keras.optimizers` has them."""
    found = inspect.getmembers(keras.optimizers, inspect.isclass)
    return {
        name: cls for name, cls in found if issubclass(cls, keras.optimizers.Optimizer) and name not in NOT_FOR_WALKING
    }


@contextlib.contextmanager
def policy(name: str) -> Iterator[None]:
    """Build models under another dtype policy for a while."""
    before = keras.mixed_precision.dtype_policy(), keras.config.floatx()
    keras.mixed_precision.set_dtype_policy(name)
    if name == "float64":
        keras.config.set_floatx(name)
    try:
        yield
    finally:
        keras.config.set_floatx(before[1])
        keras.mixed_precision.set_dtype_policy(before[0])


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipnorm": {"clipnorm": 0.05},
    "global_clipnorm": {"global_clipnorm": 0.05},
    "clipvalue": {"clipvalue": 0.01},
    "weight_decay": {"weight_decay": 0.1},
    "ema": {"use_ema": True, "ema_overwrite_frequency": 2},
}


def make(cls: type[keras.optimizers.Optimizer], options: dict[str, Any]) -> keras.optimizers.Optimizer:
    optimizer = cls(learning_rate=0.01, **options)
    if "weight_decay" in options:
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


# -- the same trajectory as one process ---------------------------------------------------------


def dense_model() -> keras.Model:
    """Smooth, and in double precision, so that nothing but a wrong gradient can make a difference."""
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(2)]
    return keras.Sequential([keras.layers.Input((4,), dtype="float64"), *layers])


def numbers(step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the global batch of a step."""
    random = np.random.default_rng(step)
    return random.normal(size=(ROWS * size, 4)), random.normal(size=(ROWS * size, 2))


def weights_after(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    batch_of: Callable[[int], tuple[Any, Any]],
    num_steps: int = 4,
) -> list[np.ndarray]:
    """Train step by step and return the weights."""
    for step in range(num_steps):
        x, y = batch_of(step)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
    return [to_array(variable) for variable in model.trainable_variables]


def mine(step: int, comm: Comm) -> tuple[np.ndarray, np.ndarray]:
    x, y = numbers(step, comm.size)
    return x[comm.rank * ROWS : (comm.rank + 1) * ROWS], y[comm.rank * ROWS : (comm.rank + 1) * ROWS]


def distance(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """Return the largest difference, relative to the largest weight."""
    scale = max(float(np.max(abs(array))) for array in theirs)
    return max(float(np.max(abs(a - b))) for a, b in zip(ours, theirs, strict=True)) / scale


def case_every_optimizer(comm: Comm, folder: Any) -> dict:
    """Each optimizer, plain and with two options in turn: R ranks, and one process with R times the batch.

    All ranks train together; then each is the one process for its share of the optimizers.
    """
    plain, *options = VARIANTS
    pairs = [
        (cls, variant)
        for number, cls in enumerate(every_optimizer().values())
        for variant in (plain, options[number % len(options)], options[(number + 2) % len(options)])
    ]
    results, together = {}, []
    with policy("float64"):
        initial = [to_array(variable) for variable in dense_model().trainable_variables]
        for cls, variant in pairs:
            optimizer = distribute(make(cls, VARIANTS[variant]), comm)
            ours = weights_after(dense_model(), optimizer, lambda step: mine(step, comm))
            together.append(ours)
            results[f"{cls.__name__} {variant}"] = {
                "moved": distance(ours, initial),
                "bits": [array.tobytes().hex() for array in ours],
            }
        for number in range(comm.rank, len(pairs), comm.size):
            cls, variant = pairs[number]
            alone = make(cls, VARIANTS[variant])
            theirs = weights_after(dense_model(), alone, lambda step: numbers(step, comm.size))
            results[f"{cls.__name__} {variant}"]["off"] = distance(together[number], theirs)
    return results


def case_multi_optimizer_and_built(comm: Comm, folder: Any) -> dict:
    """A MultiOptimizer, and an optimizer that has slots already."""
    with policy("float64"):

        def several(model: keras.Model) -> keras.optimizers.Optimizer:
            sgd, adam = keras.optimizers.SGD(0.1), keras.optimizers.Adam(0.01)
            return keras.optimizers.MultiOptimizer(lambda variable: sgd if "bias" in variable.path else adam)

        def built(model: keras.Model) -> keras.optimizers.Optimizer:
            optimizer = keras.optimizers.Adam(0.01)
            optimizer.build(model.trainable_variables)
            return optimizer

        results = {}
        for make_one in (several, built):
            one, other = dense_model(), dense_model()
            ours = weights_after(one, distribute(make_one(one), comm), lambda step: mine(step, comm))
            theirs = weights_after(other, make_one(other), lambda step: numbers(step, comm.size))
            results[make_one.__name__] = distance(ours, theirs)
        return results


# -- accumulation -------------------------------------------------------------------------------


class CountingComm(HorovodComm):
    """Counts the collectives that are carried out, not those that are traced."""

    def __init__(self, comm: HorovodComm) -> None:
        super().__init__(comm._hvd)
        self.node_mean = comm.node_mean
        self.count = tf.Variable(0)

    def average_and_look(self, tensors: Any, name: str) -> Averaged:
        self.count.assign_add(1)
        return super().average_and_look(tensors, name)


def case_accumulation(comm: HorovodComm, folder: Any) -> dict:
    """Two accumulated steps of 3 rows each, against one step of 6 rows; and how many collectives that took."""
    counting = CountingComm(comm)
    with policy("float64"):

        def half(step: int) -> tuple[np.ndarray, np.ndarray]:
            x, y = mine(step // 2, comm)
            rows = slice(0, ROWS // 2) if step % 2 == 0 else slice(ROWS // 2, ROWS)
            return x[rows], y[rows]

        options = {"global_clipnorm": 0.05, "weight_decay": 0.1}
        accumulating = make(keras.optimizers.Adam, options | {"gradient_accumulation_steps": 2})
        ours = weights_after(dense_model(), distribute(accumulating, counting), half, num_steps=8)
        whole = distribute(make(keras.optimizers.Adam, options), comm)
        theirs = weights_after(dense_model(), whole, lambda step: mine(step, comm))
        return {"off": distance(ours, theirs), "collectives": int(counting.count)}


# -- mixed precision ----------------------------------------------------------------------------


def case_mixed_float16(comm: Comm, folder: Any) -> dict:
    """Many steps in which a rank now and then has infinite gradients: all skip together."""
    with policy("mixed_float16"):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(8, activation="relu"), Head()])
        model.compile(distribute(keras.optimizers.Adam(1e-3), comm), loss="mse", steps_per_execution=50)
        random = np.random.default_rng(comm.rank)
        x = random.normal(size=(2000, 2, 4)).astype("float32")
        # Each one halves the scale: about 80 in all, so that it does not fall to zero.
        bad = random.random(2000) < 0.04 / comm.size
        x[bad] = 6e4  # overflows in float16, on this rank alone
        data = tf.data.Dataset.from_tensor_slices((x.reshape(-1, 4), np.zeros((4000, 1), "float32"))).batch(2)
        model.fit(data, epochs=1, verbose=0, callbacks=[Setup(comm)])
        optimizer = model.optimizer
        any_bad = np.any(comm.gather_json(bad.tolist(), name="bad"), axis=0)
        return {
            "digest": prove_in_sync(model, comm, step=2000),
            "scale": float(to_array(optimizer.dynamic_scale)),
            "updates": int(to_array(optimizer.iterations)),
            "good_steps": int(2000 - any_bad.sum()),
            "mine_good": int(2000 - bad.sum()),
            "kind": type(optimizer).__name__,
        }


class Head(keras.layers.Dense):
    """The last layer, in float32 as Keras advises."""

    def __init__(self) -> None:
        super().__init__(1, dtype="float32")


def case_mixed_bfloat16(comm: Comm, folder: Any) -> str:
    with policy("mixed_bfloat16"):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(8, activation="relu"), Head()])
        model.compile(distribute(keras.optimizers.Adam(1e-3), comm), loss="mse")
        x = np.random.default_rng(comm.rank).normal(size=(40, 4)).astype("float32")
        model.fit(x, x[:, :1], batch_size=4, verbose=0, callbacks=[Setup(comm), SyncProof(comm, 1)])
        return prove_in_sync(model, comm, step=10)


def case_loss_scaling_in_the_wrong_place(comm: Comm, folder: Any) -> dict:
    """Wrapped by hand, and by compile because the model alone has the policy."""
    inner = distribute(keras.optimizers.SGD(0.1), comm)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)], name="m")
    model.compile(keras.optimizers.LossScaleOptimizer(inner), loss="mse")
    x = np.zeros((4, 4), "float32")
    try:
        model.fit(x, x[:, :1], verbose=0, callbacks=[Setup(comm)])
        in_fit = "nothing was raised"
    except HvdtrainError as error:
        in_fit = str(error)
    try:
        distribute(keras.optimizers.LossScaleOptimizer(distribute(keras.optimizers.SGD(0.1), comm)), comm)
        twice = "nothing was raised"
    except HvdtrainError as error:
        twice = str(error)
    return {"in_fit": in_fit, "twice": twice}


# -- embeddings ---------------------------------------------------------------------------------


def embedding_model(*, is_first: bool) -> keras.Model:
    """An embedding whose table is the first variable, or one behind a dense layer's."""
    keras.utils.set_random_seed(3)
    words, number = keras.layers.Input((3,), dtype="int32"), keras.layers.Input((4,))
    table, dense = keras.layers.Embedding(50, 4), keras.layers.Dense(4, activation="tanh")
    if is_first:
        parts = [keras.layers.GlobalAveragePooling1D()(table(words)), dense(number)]
    else:
        hidden = dense(number)
        parts = [hidden, keras.layers.GlobalAveragePooling1D()(table(words))]
    model = keras.Model([words, number], keras.layers.Dense(2)(keras.layers.Concatenate()(parts)))
    return model


def case_embeddings(comm: Comm, folder: Any) -> dict:
    """Rows that several ranks have, and rows that one alone has; the gradient stays rows."""
    with policy("float64"):

        def batch(step: int) -> tuple[list[np.ndarray], np.ndarray]:
            random = np.random.default_rng(step)
            words = random.integers(0, 50, size=(ROWS * comm.size, 3)).astype("int32")
            x, y = numbers(step, comm.size)
            return [words, x], y

        def part(step: int) -> tuple[list[np.ndarray], np.ndarray]:
            (words, x), y = batch(step)
            rows = slice(comm.rank * ROWS, (comm.rank + 1) * ROWS)
            return [words[rows], x[rows]], y[rows]

        results = {}
        for is_first in (True, False):
            for name, options in {"SGD": {"momentum": 0.9}, "Adam": {"global_clipnorm": 0.05}}.items():
                cls = getattr(keras.optimizers, name)
                one, other = embedding_model(is_first=is_first), embedding_model(is_first=is_first)
                ours = weights_after(one, distribute(make(cls, options), comm), part)
                theirs = weights_after(other, distribute(make(cls, options), SoloComm()), batch)
                results[f"{name} {'first' if is_first else 'second'}"] = distance(ours, theirs)
        reduction = distribute(keras.optimizers.SGD(0.1), comm).hvdtrain_reduction
        rows = tf.IndexedSlices(tf.ones((3, 2)), tf.constant([1, 1, comm.rank + 2]), tf.constant([9, 2]))
        (mean,) = reduction.average([rows])
        return {
            "off": results,
            "is_rows": isinstance(mean, tf.IndexedSlices),
            "indices": mean.indices.numpy().tolist(),
            "values": mean.values.numpy()[:, 0].tolist(),
        }
