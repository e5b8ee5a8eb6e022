"""The distributed optimizer: a Keras 3 optimizer whose gradients are averaged over all ranks before they are used.

Keras 3 calls `optimizer.apply(gradients, variables)`; Horovod 0.28.1 averages in methods that Keras 3 never calls,
so each rank trains a model of its own and nothing says so. Here `apply` is the place, before clipping, weight
decay and moving averages.
"""

from __future__ import annotations

from typing import Any, cast

import keras
import tensorflow as tf

from hvdtrain.errors import UserCodeError
from hvdtrain.train import compat, fused_adam
from hvdtrain.train.comm import Comm
from hvdtrain.train.exchange import Exchange
from hvdtrain.train.exposed import ExposedTime
from hvdtrain.train.nonfinite import Shadows, Watch, looked_at
from hvdtrain.train.order import Order

GRADIENT_OF = "the gradient of "


class LossWeight:
    """What a replica's mean loss counts for, where replicas do not have equally many examples in every step.

    Args:
        order: This replica's.
        steps_done: Steps of the epoch that are done when training begins.

    Attributes:
        changes: Whether the last step of an epoch has another number of examples than the others.
    """

    def __init__(self, order: Order, steps_done: int = 0) -> None:
        self._ordinary, self._last = order.loss_weights
        self.changes = not order.is_whole
        self._steps_per_epoch = order.steps_per_epoch
        self._step = tf.Variable(steps_done, dtype=tf.int64, trainable=False)

    def next(self) -> tf.Tensor:
        """Return the weight of the next step."""
        return self._of(self._step.assign_add(1, read_value=True))

    def coming(self) -> tf.Tensor:
        """Return the weight that `next` returns next."""
        return self._of(self._step + 1)

    def _of(self, step: tf.Tensor) -> tf.Tensor:
        last, ordinary = tf.constant(self._last, tf.float64), tf.constant(self._ordinary, tf.float64)
        return tf.where(step % self._steps_per_epoch == 0, last, ordinary)


class Wishes:
    """What any rank may ask of all, carried by the gradients of its next step: they know of it after the same one.

    One scalar for each kind: Keras's own tests allow an optimizer to assign no others by itself.

    Attributes:
        mine: This rank's wishes, 1 or 0.
        mean: Their means over the ranks after the last step.
    """

    KINDS = ("stop", "interrupt")

    def __init__(self) -> None:
        self.mine = {kind: tf.Variable(0.0, trainable=False) for kind in self.KINDS}
        self.mean = {kind: tf.Variable(0.0, trainable=False) for kind in self.KINDS}

    def tensors(self, dtype: tf.DType) -> list[tf.Tensor]:
        """Return this rank's, to be averaged."""
        return [tf.cast(variable, dtype) for variable in self.mine.values()]

    def hear(self, means: list[tf.Tensor]) -> None:
        """Take the means over the ranks."""
        for variable, mean in zip(self.mean.values(), means, strict=True):
            variable.assign(tf.cast(mean, tf.float32))

    def ask(self, kind: str) -> None:
        """Ask all ranks."""
        self.mine[kind].assign(1.0)

    def is_known(self, kind: str) -> bool:
        """Tell whether a rank has asked, as all ranks know it."""
        return bool(self.mean[kind].numpy() > 0)

    def forget(self, kind: str) -> None:
        """Take it back."""
        self.mine[kind].assign(0.0)
        self.mean[kind].assign(0.0)


class Reduction:
    """What a distributed optimizer does with its gradients, kept apart from the optimizer's own attributes.

    `wishes` ride along for whatever ranks must agree on within an epoch.

    Args:
        comm: The ranks.
        is_per_update: Average what was accumulated, once per update, rather than each step's gradients.
        skips: Leave out an update whose averaged gradients or statistics are not finite, instead of noting it only.
        scales_loss: Infinite gradients are ordinary and the optimizer's own business; statistics alone are watched.
        exchange: How dense gradients travel.

    Attributes:
        exposed: Where waits are added up, if somebody wants to know; set before the training step is traced.
    """

    def __init__(
        self,
        comm: Comm,
        *,
        is_per_update: bool = False,
        skips: bool = False,
        scales_loss: bool = False,
        exchange: Exchange | None = None,
    ) -> None:
        self.comm = comm
        self.exchange = exchange or Exchange()
        self.is_per_update = is_per_update
        self.skips = skips
        self.scales_loss = scales_loss
        self.statistics: list[keras.Variable] = []
        self.paths: list[str] = []
        self.weight: LossWeight | None = None
        self.watch = Watch(in_graph=is_per_update)  # what updates then is not in our hands
        self.shadows = Shadows([])
        self.wishes = Wishes()
        self.exposed: ExposedTime | None = None

    def average(self, gradients: list[Any]) -> list[Any]:
        """Return the gradients averaged over ranks, and average the moving statistics in the same collective.

        `None` (a variable the loss does not depend on) passes through, and rows of an embedding stay rows; the
        graph is the same on every rank.
        """
        return self.average_and_watch(gradients, step=0, state={})[0]

    def average_and_watch(
        self, gradients: list[Any], *, step: Any, state: dict[str, tf.Variable]
    ) -> tuple[list[Any], tf.Tensor]:
        """Return the averaged gradients, and whether anything is not finite, which the watch has noted then.

        Args:
            gradients: This rank's.
            step: The step this is, from 1, for messages.
            state: Weights and slots by name, for messages.
        """
        if self.weight is not None:
            weight = self.weight.next()
            gradients = [gradient if gradient is None else weighted(gradient, weight) for gradient in gradients]
        if self.exchange.is_adasum:
            gradients = [None if gradient is None else tf.convert_to_tensor(gradient) for gradient in gradients]
        rows = {i: gradient for i, gradient in enumerate(gradients) if isinstance(gradient, tf.IndexedSlices)}
        dense = {
            i: tf.convert_to_tensor(gradient)
            for i, gradient in enumerate(gradients)
            if gradient is not None and i not in rows
        }
        statistics = [tf.convert_to_tensor(compat.raw(variable)) for variable in self.statistics]
        wishes = self.wishes.tensors(next(iter(dense.values())).dtype if dense else tf.float32)
        sent = [*dense.values(), *(gradient.values for gradient in rows.values()), *statistics]
        began = self.exposed.begin(sent) if self.exposed else None
        with tf.control_dependencies([] if began is None else [began]):
            averaged = self.exchange(self.comm, list(dense.values()), [*statistics, *wishes])
        means = averaged.means[: -len(wishes)]
        self.wishes.hear(averaged.means[-len(wishes) :])
        for variable, value in zip(self.statistics, means[len(dense) :], strict=True):
            variable.assign(value)
        by_place = dict(zip(dense, means, strict=False))
        by_place |= {i: self.comm.average_rows(gradient, name=f"rows.{i}") for i, gradient in rows.items()}
        if self.exposed:
            self.exposed.end(began, [*means, *(by_place[i].values for i in rows)])
        nonfinite = averaged.nonfinite
        if rows:
            looked = looked_at([rows[i].values for i in rows], [by_place[i].values for i in rows])
            nonfinite = tf.concat([nonfinite, looked.nonfinite], axis=1)
        names = self._names([*dense], [*rows])
        if self.scales_loss:
            nonfinite = nonfinite & tf.constant([not name.startswith(GRADIENT_OF) for name in names])
        is_bad = self.watch.note(names, nonfinite, step=step, state=state)
        return [by_place.get(i) for i in range(len(gradients))], is_bad

    def _names(self, dense: list[int], rows: list[int]) -> list[str]:
        """Return the names of what was averaged, in its order."""
        paths = dict(enumerate(self.paths))
        statistics = [variable.path for variable in self.statistics]
        of_dense, of_rows = (
            [f"{GRADIENT_OF}{paths.get(i, f'variable {i}')}" for i in places] for places in (dense, rows)
        )
        return [*of_dense, *statistics, *(f"the wish to {kind}" for kind in Wishes.KINDS), *of_rows]


def set_loss_weight(model: keras.Model, weight: LossWeight | None) -> None:
    """Give the model's distributed optimizer what this replica's losses count for; the train function is built anew.

    Raises:
        UserCodeError: With gradient accumulation, which averages several steps with one weight.
    """
    if not is_distributed(model.optimizer):
        return
    reduction = model.optimizer.hvdtrain_reduction
    if weight is not None and weight.changes and reduction.is_per_update:
        raise UserCodeError(
            "remainder='pad' does not go with gradient_accumulation_steps: the smaller last batch would weigh as much "
            "as a whole one; use 'drop'"
        )
    if weight is not reduction.weight:
        reduction.weight = weight
        model.train_function = None


def weighted(gradient: Any, weight: tf.Tensor) -> Any:
    """Return a gradient, dense or in rows, times a number."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(weighted(gradient.values, weight), gradient.indices, gradient.dense_shape)
    gradient = tf.convert_to_tensor(gradient)
    return gradient * tf.cast(weight, gradient.dtype)


class DistributedMixin:
    """Placed in front of an optimizer's own class by `distribute`."""

    hvdtrain_comm: Comm
    hvdtrain_exchange: Exchange
    hvdtrain_on_nonfinite: str
    hvdtrain_reduction: Reduction

    def __init__(self, *args: Any, **options: Any) -> None:
        # Another optimizer of this class, as `type(optimizer).from_config(...)` makes it, is distributed as well.
        super().__init__(*args, **options)
        self._hvdtrain_begin()

    def __reduce__(self: Any) -> Any:
        # A pickle knows classes by their names, and this one has the original's: the optimizer comes back plain.
        unpickle, arguments = cast(tuple[Any, Any], super().__reduce__())
        return getattr(type(self).__mro__[2], unpickle.__name__), arguments

    def _hvdtrain_begin(self: Any) -> None:
        self.hvdtrain_reduction = Reduction(
            self.hvdtrain_comm,
            is_per_update=bool(self.gradient_accumulation_steps),
            skips=self.hvdtrain_on_nonfinite == "skip",
            scales_loss=isinstance(self, keras.optimizers.LossScaleOptimizer),
            exchange=self.hvdtrain_exchange,
        )

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        """Average the gradients over ranks, then update as the original optimizer does."""
        reduction = self.hvdtrain_reduction
        gradients = list(grads)
        trainable_variables = None if trainable_variables is None else list(trainable_variables)
        variables = compat.built_for(self, trainable_variables)
        if reduction.is_per_update:
            reduction.paths = [compat.path_of(v) for g, v in zip(gradients, variables, strict=False) if g is not None]
            return super().apply(gradients, trainable_variables)  # type: ignore[misc]
        reduction.paths = [compat.path_of(variable) for variable in variables]
        gradients, is_bad = reduction.average_and_watch(
            gradients, step=compat.next_step(self), state=compat.float_state(self, variables)
        )
        if not reduction.skips:
            with tf.control_dependencies([is_bad]):  # the watch has looked at the weights by then
                return super().apply(gradients, trainable_variables)  # type: ignore[misc]

        def update() -> None:
            super(DistributedMixin, self).apply(gradients, trainable_variables)  # type: ignore[misc]
            reduction.shadows.take()

        def leave_out() -> None:
            if reduction.scales_loss:  # it skips the update by itself, and must see why to lower its scale
                nan = tf.constant(float("nan"))  # the cause may be a statistic, and the gradients finite
                spoilt = [None if gradient is None else weighted(gradient, nan) for gradient in gradients]
                super(DistributedMixin, self).apply(spoilt, trainable_variables)  # type: ignore[misc]
            reduction.shadows.put_back()

        tf.cond(is_bad, leave_out, update)
        return None

    def _backend_update_step(self, grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
        """Update in one pass over memory where that gives the same bits."""
        original = type(self).__mro__[2]
        if not fused_adam.update(self, original, grads, trainable_variables, learning_rate):
            super()._backend_update_step(grads, trainable_variables, learning_rate)  # type: ignore[misc]

    def _clip_gradients(self, grads: Any) -> Any:
        """Average what was accumulated. Keras calls this once per update, in the branch that updates."""
        reduction = self.hvdtrain_reduction
        if reduction.is_per_update:
            grads, _ = reduction.average_and_watch(
                list(grads), step=compat.next_step(self), state=compat.float_state(self, compat.built_for(self, None))
            )
        return super()._clip_gradients(grads)  # type: ignore[misc]


def distribute(
    optimizer: keras.optimizers.Optimizer,
    comm: Comm,
    exchange: Exchange | None = None,
    *,
    on_nonfinite: str = "stop",
) -> keras.optimizers.Optimizer:
    """Turn a Keras optimizer into a distributed one, in place, and return it.

    Its class keeps its name, configuration and slots, so a checkpoint loads without hvdtrain. Under the policy
    mixed_float16 the returned one is a distributed LossScaleOptimizer around it, as Keras would wrap it: all ranks
    look at the same averaged gradients, so they skip the same steps and keep the same scale.

    Args:
        optimizer: The user's.
        comm: The ranks.
        exchange: How dense gradients travel between them.
        on_nonfinite: `stop`: a step whose averaged gradients are not finite is noted, and the `Finite` callback stops
            all ranks. `skip`: its update is left out on all of them.

    Raises:
        UserCodeError: If it already is distributed, is no Keras optimizer, or the inner one of a LossScaleOptimizer is;
            for `skip` with accumulated gradients; if Adasum cannot do what is asked.
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise UserCodeError(
            f"DistributedOptimizer needs a Keras optimizer object such as keras.optimizers.SGD(0.01); got {optimizer!r}"
        )
    if is_distributed(optimizer):
        raise UserCodeError(
            "this optimizer is distributed already; averaging twice would cost twice: wrap it only once"
        )
    refuse_inner(optimizer)
    scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    if keras.mixed_precision.dtype_policy().name == "mixed_float16" and not scales:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        scales = True
    exchange = exchange or Exchange()
    exchange.check(comm.size, scales_loss=scales)
    original = type(optimizer)
    own = {
        "__module__": original.__module__,
        "hvdtrain_comm": comm,
        "hvdtrain_exchange": exchange,
        "hvdtrain_on_nonfinite": on_nonfinite,
    }
    distributed = type(original.__name__, (DistributedMixin, original), own)
    compat.register_as(distributed, original)
    check_nonfinite(optimizer, on_nonfinite)
    optimizer.__class__ = distributed
    optimizer._hvdtrain_begin()
    return optimizer


def check_nonfinite(optimizer: keras.optimizers.Optimizer, on_nonfinite: str) -> None:
    """Raise for what `on_nonfinite` cannot be.

    Raises:
        UserCodeError: If it is unknown, or `skip` where gradients are accumulated.
    """
    if on_nonfinite not in ("stop", "skip"):
        raise UserCodeError(f"on_nonfinite must be 'stop' or 'skip'; got {on_nonfinite!r}")
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if on_nonfinite == "skip" and inner.gradient_accumulation_steps:
        raise UserCodeError(
            "on_nonfinite='skip' does not go with gradient_accumulation_steps: good steps are lost with the bad one "
            "they were added to, and moving statistics cannot be put back; use 'stop', or no accumulation"
        )


def is_distributed(optimizer: Any) -> bool:
    """Tell whether `distribute` made this optimizer."""
    return isinstance(optimizer, DistributedMixin)


def reduction_of(model: keras.Model) -> Reduction | None:
    """Return what the model's distributed optimizer does with its gradients; None for a plain one."""
    optimizer = model.optimizer
    return optimizer.hvdtrain_reduction if is_distributed(optimizer) else None


def refuse_inner(optimizer: Any) -> None:
    """Raise where ranks could disagree on whether a step is skipped.

    Raises:
        UserCodeError: For a loss-scaling optimizer around a distributed one: each rank would look for infinities in
            its own gradients, and those that skip a step would leave the others waiting.
    """
    if is_distributed(getattr(optimizer, "inner_optimizer", None)):
        raise UserCodeError(
            "a LossScaleOptimizer stands around the distributed optimizer, so ranks would skip different steps; write "
            "hk.DistributedOptimizer(keras.optimizers.LossScaleOptimizer(...)), or set the policy mixed_float16 before "
            "hk.DistributedOptimizer(...), which then does it by itself"
        )
