"""Everything that leans on the inside of Keras 3 or TensorFlow, in one place, so that other versions can follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src import api_export
from keras.src.models.functional import Functional
from keras.src.random.seed_generator import global_seed_generator
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.eager import context
from tensorflow.python.framework import config as tf_config
from tensorflow.python.framework import graph_util
from tensorflow.python.framework import ops as tf_ops
from tensorflow.python.ops import control_flow_util

from hvdtrain.errors import UserCodeError


def register_as(cls: type, original: type) -> None:
    """Let Keras serialise `cls` under the public name of `original`, so that a saved file loads without hvdtrain."""
    name = api_export.get_name_from_symbol(original)
    if name is not None:
        api_export.REGISTERED_OBJS_TO_NAMES[cls] = name


def all_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return every layer at any depth, in Keras's own order, which is the same on every rank."""
    return list(model._flatten_layers(include_self=True, recursive=True))


def knows_its_layers(model: keras.Model) -> bool:
    """Tell whether a model's configuration names its layers and how they follow each other: not of a subclass's."""
    return isinstance(model, keras.Sequential | Functional)


def seed_states(model: keras.Model) -> list[keras.Variable]:
    """Return the [seed, counter] states of dropout and other random layers."""
    return unique([generator.state for layer in all_layers(model) for generator in layer._seed_generators])


def general_seed_state() -> keras.Variable:
    """Return the state that random operations draw from which were given no seed; it is made here if need be."""
    return global_seed_generator().state


def drawn_ahead(number: int, times: int) -> int:
    """Return a number of the general seed state after so many further draws (`SeedGenerator.next(ordered=False)`).

    >>> drawn_ahead(0, 0), drawn_ahead(0, 1), drawn_ahead(5387, 1) == drawn_ahead(0, 2)
    (0, 5387, True)
    """
    for _ in range(times):
        number = (number + 1) * 5387 % 933199
    return number


def moving_statistics(model: keras.Model) -> list[keras.Variable]:
    """Return what the forward pass itself changes and ranks must share: float variables created as not trainable.

    These are BatchNorm's moving mean and variance and their like; a layer frozen later is not among them.
    """
    found = [
        variable
        for layer in all_layers(model)
        for variable in layer._non_trainable_variables
        if keras.backend.is_float_dtype(variable.dtype)
    ]
    return unique(found)


def graph_notes() -> dict[str, Any]:
    """Return notes that live as long as the graph that is being traced; outside of `tf.function` new ones each time."""
    if tf.executing_eagerly():
        return {}
    graph = tf.compat.v1.get_default_graph()  # of a function: a proxy, which has no __dict__ of its own
    if not hasattr(graph, "hvdtrain_notes"):
        graph.hvdtrain_notes = {}
    return graph.hvdtrain_notes


def count_flop(operation: str, per_element: int, inputs: Callable[[int], range]) -> None:
    """Let TensorFlow's count of floating-point operations know an operation on lists of N tensors.

    Args:
        operation: Its name.
        per_element: What it computes for each element.
        inputs: N -> which of its inputs have the elements.
    """

    @tf_ops.RegisterStatistics(operation, "flops")  # type: ignore[untyped-decorator]
    def flop(graph: Any, node: Any) -> Any:
        shapes = [
            graph_util.tensor_shape_from_node_def_name(graph, node.input[place]) for place in inputs(node.attr["N"].i)
        ]
        return tf_ops.OpStats("flops", per_element * sum(shape.num_elements() for shape in shapes))


def is_for_xla() -> bool:
    """Tell whether what is being traced will be compiled by XLA (`jit_compile=True`)."""
    return bool(control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


def name_in_graph(name: str) -> str:
    """Return a name that no other caller gets in the graph that is being traced; the first one gets `name` itself."""
    taken = graph_notes().setdefault("names", Counter())
    taken[name] += 1
    return name if taken[name] == 1 else f"{name}.{taken[name]}"


def metric_leaves(model: keras.Model) -> Iterator[keras.metrics.Metric]:
    """Yield the metrics that hold state of their own: a compiled metric is a container of such."""
    for metric in model.metrics:
        yield from _leaves(metric)


def _leaves(metric: keras.metrics.Metric) -> Iterator[keras.metrics.Metric]:
    inner = getattr(metric, "metrics", None)
    if inner:
        for part in inner:
            yield from _leaves(part)
    else:
        yield metric


def validation_data(model: keras.Model) -> Any:
    """Return the dataset that `fit` validates on, or None outside of `fit`."""
    iterator = getattr(model, "_eval_epoch_iterator", None)
    adapter = iterator.data_adapter if iterator is not None else None
    return getattr(adapter, "_dataset", None) or getattr(adapter, "py_dataset", None)


def skip_steps(model: keras.Model, steps: int, *, steps_per_epoch: int, then: Callable[[Any], None]) -> None:
    """Let the next calls of the train function take their batches and do nothing, until `steps` batches are gone.

    Args:
        model: Its train function has been made.
        steps: Batches to pass over, more than none.
        steps_per_epoch: Steps of a whole epoch.
        then: Called with the last of these batches, before anything is trained.

    Raises:
        UserCodeError: If a call would be left in part.
    """
    per_call = model.steps_per_execution
    if steps % per_call and steps != steps_per_epoch:
        raise UserCodeError(
            f"the checkpoint was saved after {steps} steps of an epoch, which are no whole executions of {per_call} "
            "steps; use the steps_per_execution it was trained with"
        )
    train = model.train_function
    left = steps

    def skip(iterator: Any) -> Any:
        nonlocal left
        taken = min(per_call, left)
        for _ in range(taken):
            batch = next(iterator)
        left -= taken
        if not left:
            then(batch)
            model.train_function = train
        return {}

    model.train_function = skip


def build_metrics(model: keras.Model, batch: Any) -> None:
    """Make the variables of compiled metrics, which Keras makes while it traces the first step."""
    model._symbolic_build(data_batch=batch)


def steps_taken(model: keras.Model) -> int:
    """Return how often the optimizer was called: with accumulated gradients more often than weights changed."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    return int(to_array(optimizer._iterations))


def next_step(optimizer: Any) -> Any:
    """Return the number of the step an optimizer is about to take, from 1, as a tensor."""
    return getattr(optimizer, "inner_optimizer", optimizer)._iterations.value + 1


def path_of(variable: Any) -> str:
    """Return a variable's path; a plain `tf.Variable` has a name only."""
    return str(getattr(variable, "path", variable.name))


def float_state(optimizer: Any, weights: Iterable[Any]) -> dict[str, tf.Variable]:
    """Return weights and optimizer slots by path, as `tf.Variable`, scalars such as the learning rate first.

    Counters are left out.
    """
    variables = {path_of(variable): raw(variable) for variable in (*weights, *optimizer.variables)}
    floats = {path: variable for path, variable in variables.items() if variable.dtype.is_floating}
    return dict(sorted(floats.items(), key=lambda item: item[1].shape.rank > 0))


def built_for(optimizer: Any, variables: list[Any] | None) -> list[Any]:
    """Build an optimizer as its own `apply` would, and return the variables that it is applied to."""
    if variables is None:
        return list(getattr(optimizer, "_trainable_variables", []))
    if not optimizer.built:
        with keras.name_scope(optimizer.name, caller=optimizer):
            optimizer.build(variables)
        optimizer.built = True
    return variables


def loss_totals(model: keras.Model) -> list[keras.Variable]:
    """Return what the loss of an epoch, and those of several outputs, are added up in."""
    metrics = [model._loss_tracker, *(model._compile_loss.metrics if model._compile_loss is not None else [])]
    return [variable for metric in metrics if metric is not None for variable in metric.variables]


def steps_per_update(optimizer: Any) -> int:
    """Return how many steps' gradients make one update of the weights."""
    return getattr(optimizer, "gradient_accumulation_steps", None) or 1


def accumulators(optimizer: Any) -> list[keras.Variable]:
    """Return the gradients that wait for their update: each rank's own."""
    return list(getattr(optimizer, "_accumulated_gradients", None) or [])


def to_array(variable: Any) -> np.ndarray:
    """Return the value of a Keras variable, or of a tensor, as NumPy array; of a mirrored one its first copy."""
    value = variable.value if isinstance(variable, keras.Variable) else variable
    if isinstance(value, tf.Variable):
        return np.asarray(tf.convert_to_tensor(value))  # a view; TensorFlow writes elsewhere while it is held
    return np.asarray(value.numpy() if hasattr(value, "numpy") else value)


def is_built(model: keras.Model) -> bool:
    """Tell whether every layer has its weights."""
    return bool(model.built) and all(layer.built for layer in all_layers(model))


def unique(variables: list[keras.Variable]) -> list[keras.Variable]:
    """Return the variables without repeats (shared layers), in order."""
    return list({id(variable): variable for variable in variables}.values())


def raw(variable: keras.Variable) -> Any:
    """Return the `tf.Variable` inside a Keras variable, read without an autocast; a plain one is its own."""
    if not isinstance(variable, keras.Variable):
        return variable
    return variable._value if hasattr(variable, "_value") else variable.value


def stop_spinning() -> None:
    """Let TensorFlow's idle threads sleep at once. Has no effect after TensorFlow's first operation.

    The option is public in the graph mode of TensorFlow 1 alone (`tf.compat.v1.ConfigProto`).
    """
    state = context.context()
    config = state._config or config_pb2.ConfigProto()
    config.experimental.disable_thread_spinning = True
    state._config = config


def is_spinning_stopped() -> bool:
    """Tell whether `stop_spinning` reached the options that TensorFlow starts with."""
    return bool(context.context().config.experimental.disable_thread_spinning)


def is_deterministic() -> bool:
    """Tell whether op determinism is on; TensorFlow has no public way to ask."""
    return bool(tf_config.is_op_determinism_enabled())
