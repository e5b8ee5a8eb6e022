"""Before the first step: refuse what cannot work, compare ranks, give all of them one state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from hvdtrain.errors import UserCodeError
from hvdtrain.train import compat
from hvdtrain.train.comm import Comm
from hvdtrain.train.nonfinite import Shadows
from hvdtrain.train.optimizer import DistributedMixin, is_distributed, refuse_inner, set_loss_weight
from hvdtrain.train.sync import broadcast_state, preflight
from hvdtrain.train.sync_batch_norm import tell_layers


class Setup(keras.callbacks.Callback):
    """Bring all ranks to the same start. Must be the first callback.

    Args:
        comm: The ranks.
        restore: Called with the model before its state is broadcast, on rank 0 only: puts a checkpoint into it.
        facts: Further values that must be equal on all ranks.
    """

    def __init__(
        self,
        comm: Comm,
        *,
        restore: Callable[[keras.Model], None] | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._comm = comm
        self._restore = restore
        self._facts = facts or {}

    def set_model(self, model: keras.Model) -> None:
        """Check the optimizer and switch XLA off, before Keras builds its train function."""
        super().set_model(model)
        if self._comm.size > 1:
            check_optimizer(model.optimizer)
            switch_off_xla(model)
        if isinstance(model.optimizer, DistributedMixin):
            reduction = model.optimizer.hvdtrain_reduction
            reduction.statistics = compat.moving_statistics(model)
            kept = [*reduction.statistics, *compat.loss_totals(model)] if reduction.skips else []
            if list(map(id, reduction.shadows.variables)) != list(map(id, kept)):  # a traced step holds on to its own
                reduction.shadows = Shadows(kept)
                model.train_function = None
            set_loss_weight(model, None)  # of an earlier fit, on other data
            tell_layers(model, reduction)

    def on_train_begin(self, logs: Any = None) -> None:
        """Compare ranks, restore on rank 0, broadcast."""
        if not compat.is_built(self.model):
            raise UserCodeError(
                "the model has no weights yet, so ranks cannot start from the same ones; give its first layer an Input "
                "shape, or call model.build(...) or the model itself on one batch before fit"
            )
        if self.model.optimizer is not None and not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        check_whole_updates(self.model.optimizer, self.params.get("steps"))
        preflight(self.model, self._comm, facts={**self._facts, "steps per epoch": self.params.get("steps")})
        restore, self._restore = self._restore, None  # a second fit goes on from the first
        if restore is not None and self._comm.rank == 0:
            restore(self.model)
        broadcast_state(self.model, self._comm)


def check_optimizer(optimizer: Any) -> None:
    """Raise where ranks would train apart without a word.

    Raises:
        UserCodeError: If the optimizer is not distributed, or the inner one of one that scales losses.
    """
    refuse_inner(optimizer)
    if not is_distributed(optimizer):
        raise UserCodeError(
            f"the model was compiled with a plain {type(optimizer).__name__}: every rank would train a model of its "
            "own. Write model.compile(optimizer=hk.DistributedOptimizer(...), ...)"
        )


def check_whole_updates(optimizer: Any, steps_per_epoch: int | None) -> None:
    """Raise if an epoch would end with gradients that are accumulated but not yet used.

    Raises:
        UserCodeError: They differ by rank, so the state could not be saved.
    """
    accumulated = compat.steps_per_update(optimizer)
    if steps_per_epoch is not None and steps_per_epoch % accumulated:
        raise UserCodeError(
            f"{steps_per_epoch} steps per epoch do not divide by gradient_accumulation_steps {accumulated}: an epoch "
            f"would end with gradients that are not yet used; use {steps_per_epoch - steps_per_epoch % accumulated} "
            "steps (dataset.take(...), or steps_per_epoch=...)"
        )


def switch_off_xla(model: keras.Model) -> bool:
    """Turn `jit_compile` off, which Keras turns on by itself where there is a GPU; return whether it was on.

    Raises:
        UserCodeError: If the user asked for it by name.
    """
    if not model.jit_compile:
        return False
    if not model._resolve_auto_jit_compile():
        raise UserCodeError(
            "compile(jit_compile=True) cannot work over several ranks: Horovod's operations cannot sit inside an XLA "
            "program here. Leave jit_compile out"
        )
    model.jit_compile = False
    model.train_function = None
    return True
