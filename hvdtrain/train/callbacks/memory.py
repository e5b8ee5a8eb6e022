"""What Keras's own callbacks remember from epoch to epoch: part of a checkpoint, or patience would begin anew.

A callback of the user's own is not looked into: nobody knows which of its attributes are its memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from hvdtrain.train.checkpoint import Checkpoint

REMEMBERED: dict[type[keras.callbacks.Callback], tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: ("wait", "best", "best_epoch", "stopped_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: ("best", "_batches_seen_since_last_saving"),
}
ARRAYS = "callbacks/"


class Memory(keras.callbacks.Callback):
    """Keep the memory of the user's callbacks, and give it back. Place it after them: they forget when training begins.

    Args:
        user_callbacks: All of the user's, in the user's order, those of other ranks too.
        found: The checkpoint training starts from.
    """

    def __init__(self, user_callbacks: Sequence[keras.callbacks.Callback], found: Checkpoint | None = None) -> None:
        super().__init__()
        self._callbacks = {f"{place:05d}.{type(one).__name__}": one for place, one in enumerate(user_callbacks)}
        self._found = found

    def on_train_begin(self, logs: Any = None) -> None:
        """Give back what the checkpoint holds; a callback that was not there then begins anew."""
        found, self._found = self._found, None  # a second fit goes on from the first
        if found is None:
            return
        saved = found.state.get("callbacks", {})
        for name, callback, attributes in self._known():
            values = saved.get(name, {})
            for attribute in attributes:
                if attribute in values:
                    setattr(callback, attribute, values[attribute])
            prefix = f"{ARRAYS}{name}/"
            weights = [array for key, array in sorted(found.arrays.items()) if key.startswith(prefix)]
            if weights:
                callback.best_weights = weights

    def values(self) -> dict[str, dict[str, Any]]:
        """Return numbers by callback and attribute, as JSON can hold them."""
        return {
            name: {attribute: _plain(getattr(callback, attribute)) for attribute in attributes}
            for name, callback, attributes in self._known()
        }

    def weights(self) -> dict[str, np.ndarray]:
        """Return the best weights that callbacks hold."""
        return {
            f"{ARRAYS}{name}/{place:05d}": np.asarray(array)
            for name, callback, _ in self._known()
            for place, array in enumerate(getattr(callback, "best_weights", None) or ())
        }

    def _known(self) -> Iterator[tuple[str, keras.callbacks.Callback, tuple[str, ...]]]:
        for name, callback in self._callbacks.items():
            for cls, attributes in REMEMBERED.items():
                if isinstance(callback, cls):
                    yield name, callback, attributes


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float) else float(np.asarray(value))
