"""Losses for `loss:` of a configuration, beside Keras's own."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from hvdtrain.errors import UserCodeError


@keras.saving.register_keras_serializable(package="hvdtrain")
class SmoothedCrossentropy(keras.losses.Loss):
    """Crossentropy against class numbers, of which a part is spread over all classes (Szegedy et al. 2016).

    Keras has label smoothing for one-hot targets only.

    Args:
        smoothing: The part that is spread, 0 to below 1.
        from_logits: Whether predictions are logits, as a model without a last softmax gives them.
    """

    def __init__(
        self,
        smoothing: float = 0.1,
        from_logits: bool = False,
        reduction: str = "sum_over_batch_size",
        name: str = "smoothed_crossentropy",
    ) -> None:
        if not 0 <= smoothing < 1:
            raise UserCodeError(f"smoothing must be 0 to below 1; got {smoothing}")
        super().__init__(name=name, reduction=reduction)
        self.smoothing = smoothing
        self.from_logits = from_logits

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each example, in nats."""
        if self.from_logits:
            logs = ops.log_softmax(y_pred, axis=-1)
        else:
            logs = ops.log(ops.clip(y_pred, keras.config.epsilon(), 1.0))
        labels = ops.reshape(ops.cast(y_true, "int32"), ops.shape(y_pred)[:-1])
        own = ops.take_along_axis(logs, labels[..., None], axis=-1)[..., 0]
        return -(1 - self.smoothing) * own - self.smoothing * ops.mean(logs, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        kept = {key: value for key, value in super().get_config().items() if key in ("name", "reduction")}
        return {**kept, "smoothing": self.smoothing, "from_logits": self.from_logits}
