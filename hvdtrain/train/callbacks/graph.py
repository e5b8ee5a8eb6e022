"""A model's graph for TensorBoard: its layers, and the operations of its forward pass."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from hvdtrain.train import compat
from hvdtrain.train.board import EPOCHS, Board
from hvdtrain.train.events import Event, layers


class Graph(keras.callbacks.Callback):
    """Write the graph when training begins, on rank 0 only.

    Tracing the forward pass once more takes rank 0 some tenths of a second; the others wait at the first step.

    Args:
        board: Takes it.
        say: Takes words for people: a graph that cannot be drawn is no reason to stop.
    """

    def __init__(self, board: Board, say: Any) -> None:
        super().__init__()
        self._board = board
        self._say = say

    def on_train_begin(self, logs: Any = None) -> None:
        """Write it."""
        try:
            config = self.model.to_json() if compat.knows_its_layers(self.model) else None
            operations = forward_graph(self.model)
        except Exception as error:
            self._say(f"warning: no graph for TensorBoard: {type(error).__name__}: {str(error).splitlines()[0]}")
            return
        if config is not None:
            self._board.add(EPOCHS, 0, lambda: [layers(config)])
        self._board.add(EPOCHS, 0, lambda: Event(graph_def=operations.SerializeToString()))


def forward_graph(model: keras.Model) -> Any:
    """Return the operations of a built model's forward pass, as a graph definition."""
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype, tensor.name) for tensor in model.inputs]
    signature = specs if len(specs) > 1 else specs[0]
    function = tf.function(lambda inputs: model(inputs, training=False), jit_compile=False)
    return function.get_concrete_function(signature).graph.as_graph_def()
