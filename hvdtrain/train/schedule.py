"""The plan's learning rate as a Keras schedule: warm-up, then constant, step, cosine, one-cycle or polynomial.

`hvdtrain.scaling.schedule_rate` is the same in plain Python and serves as reference in tests.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="hvdtrain")
class ScaledSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Warm up from the one-replica rate to the scaled one, then follow a schedule.

    Args:
        kind: `constant`, `step`, `cosine`, `one_cycle` or `polynomial`.
        base_rate: The rate for one replica, used at step 0 of a warm-up.
        rate: The scaled rate.
        warmup_steps: Optimizer calls of warm-up; 0 for none.
        total_steps: Optimizer calls of the run.
        schedule_args: Parameters of the kind, boundaries in steps.
        steps_per_update: Optimizer calls whose gradients are accumulated; the rate is that of the first of them.
    """

    def __init__(
        self,
        kind: str,
        base_rate: float,
        rate: float,
        warmup_steps: int,
        total_steps: int,
        schedule_args: dict[str, Any],
        steps_per_update: int = 1,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.base_rate = base_rate
        self.rate = rate
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        self.schedule_args = dict(schedule_args)
        self.steps_per_update = steps_per_update

    def __call__(self, step: Any) -> tf.Tensor:
        """Return the learning rate of one step, counted from 0."""
        step = tf.cast(step, tf.int64)
        step = tf.cast(step - step % self.steps_per_update, tf.float32)
        rate = self._after_warmup(step)
        if not self.warmup_steps:
            return rate
        warming = self.base_rate + (self.rate - self.base_rate) * (step / self.warmup_steps)
        return tf.where(step < self.warmup_steps, warming, rate)

    def _after_warmup(self, step: tf.Tensor) -> tf.Tensor:
        args = self.schedule_args
        if self.kind == "constant":
            return tf.constant(self.rate, tf.float32)
        if self.kind == "step":
            passed = [tf.cast(step >= boundary, tf.float32) for boundary in args["boundaries_steps"]]
            return self.rate * args["factor"] ** tf.add_n(passed) if passed else tf.constant(self.rate, tf.float32)
        if self.kind == "one_cycle":
            return self._one_cycle(step)
        span = max(1, self.total_steps - self.warmup_steps)
        done = tf.clip_by_value((step - self.warmup_steps) / span, 0.0, 1.0)
        final = self.rate * args["final_factor"]
        if self.kind == "cosine":
            return final + (self.rate - final) * 0.5 * (1 + tf.cos(math.pi * done))
        return final + (self.rate - final) * (1 - done) ** args["power"]

    def _one_cycle(self, step: tf.Tensor) -> tf.Tensor:
        turn = max(1, round(self.total_steps * self.schedule_args["warmup_fraction"]))
        rising = step / turn
        falling = 1 - tf.clip_by_value((step - turn) / max(1, self.total_steps - turn), 0.0, 1.0)
        low = tf.where(step < turn, self.rate / 25, self.rate * self.schedule_args["final_factor"])
        done = tf.where(step < turn, rising, falling)
        return low + (self.rate - low) * 0.5 * (1 - tf.cos(math.pi * done))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "kind": self.kind,
            "base_rate": self.base_rate,
            "rate": self.rate,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
            "schedule_args": self.schedule_args,
            "steps_per_update": self.steps_per_update,
        }
