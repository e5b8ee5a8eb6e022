"""Cases about the user's callbacks: each one in `keras.callbacks`, in real fits, through `hk.callbacks`."""

import contextlib
import http.server
import importlib.util
import inspect
import io
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import hvdtrain.keras as hk
from hvdtrain.errors import HvdtrainError
from hvdtrain.train.callbacks import on_this_rank
from hvdtrain.train.comm import Comm
from hvdtrain.train.compat import to_array
from hvdtrain.train.optimizer import distribute
from hvdtrain.train.sync import digest, shared_variables

EPOCHS = 3
Callbacks = Sequence[keras.callbacks.Callback]


def every_callback() -> dict[str, type[keras.callbacks.Callback]]:
    """Return Keras's callbacks by name, as `keras.callbacks` has them."""
    found = inspect.getmembers(keras.callbacks, inspect.isclass)
    return {name: cls for name, cls in found if issubclass(cls, keras.callbacks.Callback)}


class Stage:
    """A compiled model that is put back to its first state before each fit: tracing takes most of the time."""

    def __init__(self, comm: Comm, optimizer: keras.optimizers.Optimizer) -> None:
        keras.utils.set_random_seed(1)
        self.comm = comm
        layers = [keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(2, activation="softmax")]
        self.model = keras.Sequential([keras.layers.Input((4,)), *layers])
        self.model.compile(distribute(optimizer, comm), "sparse_categorical_crossentropy", metrics=["accuracy"])
        self.model.optimizer.build(self.model.trainable_variables)
        self._first = self.values()
        random = np.random.default_rng(4)
        x = random.normal(size=(16 * comm.size, 4)).astype("float32")
        self.train = hk.shard(tf.data.Dataset.from_tensor_slices((x, (x[:, 0] > 0).astype("int64"))).batch(4))
        self.validation = hk.evaluation_part((x[:5], (x[:5, 0] > 0).astype("int64")))

    def values(self) -> list[np.ndarray]:
        return [to_array(variable).copy() for _, variable in shared_variables(self.model)]

    def reset(self) -> None:
        for (_, variable), value in zip(shared_variables(self.model), self._first, strict=True):
            variable.assign(value)

    def fit(self, user_callbacks: Callbacks, *, epochs: int = EPOCHS, train: Any = None, **options: Any) -> dict:
        """Train, and return what every rank must agree on."""
        options = {"verbose": 0, "validation_data": self.validation} | options
        history = self.model.fit(train or self.train, epochs=epochs, callbacks=hk.callbacks(user_callbacks), **options)
        return {
            "epochs": history.epoch,
            "history": history.history,
            "bits": [digest(value) for value in self.values()],
            "learning_rate": float(to_array(self.model.optimizer.learning_rate)),
        }


# -- each of them -------------------------------------------------------------------------------

Trial = Callable[[Stage, Path], dict]


def ordinary(make: Callable[[Path], keras.callbacks.Callback]) -> Trial:
    """Return a trial of one callback that is given a path of this rank's own."""
    return lambda stage, mine: stage.fit([make(mine)])


def early_stopping(stage: Stage, mine: Path) -> dict:
    """The loss falls, and is to rise: the first epoch stays the best one, whose weights come back."""
    kept = []
    keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: kept.append(stage.model.get_weights()))
    options: dict[str, Any] = {"monitor": "val_loss", "mode": "max", "patience": 1, "restore_best_weights": True}
    result = stage.fit([keep, keras.callbacks.EarlyStopping(**options)], epochs=6)
    pairs = list(zip(kept[0], stage.model.get_weights(), strict=True))
    return result | {"is_best": all(np.array_equal(a, b) for a, b in pairs), "moved": not np.array_equal(*kept[:2])}


def plateau(stage: Stage, mine: Path) -> dict:
    return stage.fit([keras.callbacks.ReduceLROnPlateau(monitor="val_loss", mode="max", factor=0.5, patience=1)])


def model_checkpoint(stage: Stage, mine: Path) -> dict:
    """The best model by a global value, which a plain Keras loads; and all weights."""
    best = keras.callbacks.ModelCheckpoint(f"{mine}.keras", monitor="val_loss", mode="max", save_best_only=True)
    every = keras.callbacks.ModelCheckpoint(f"{mine}.{{epoch}}.weights.h5", save_weights_only=True)
    result = stage.fit([best, every])
    if stage.comm.rank == 0:
        loaded = keras.models.load_model(f"{mine}.keras")
        result["kind"] = type(loaded.optimizer).__module__
    return result


def backup_and_restore(stage: Stage, mine: Path) -> dict:
    """Interrupted in the second epoch on all ranks, then trained from other weights: as if nothing had happened."""

    def interrupt(epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            raise KeyError("interrupted")

    backup = keras.callbacks.BackupAndRestore(mine, delete_checkpoint=False)
    whole = stage.fit([])
    stage.reset()
    with contextlib.suppress(KeyError):
        stage.fit([backup, keras.callbacks.LambdaCallback(on_epoch_begin=interrupt)])
    for variable in stage.model.trainable_variables:
        variable.assign(np.full(variable.shape, float(stage.comm.rank)))
    result = stage.fit([keras.callbacks.BackupAndRestore(mine, delete_checkpoint=False)])
    stage.model._initial_epoch = None  # Keras leaves it for the next fit
    return result | {"as_if_uninterrupted": result["bits"] == whole["bits"]}


def terminate_on_nan(stage: Stage, mine: Path) -> dict:
    """The third batch of every rank holds NaN."""
    batches = [0]
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: batches.append(batch))
    bad = stage.train.enumerate().map(lambda i, pair: (pair[0] + (float("nan") if i == 2 else 0.0), pair[1]))
    error = ""
    try:
        stage.fit([keras.callbacks.TerminateOnNaN(), count], train=bad)
    except HvdtrainError as caught:
        error = type(caught).__name__
    return {"batches": batches, "error": error}


def swap_ema_weights(stage: Stage, mine: Path) -> dict:
    """Evaluation sees the average, training does not."""
    optimizer = keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.9)
    swapped = Stage(stage.comm, optimizer).fit([keras.callbacks.SwapEMAWeights()])
    plain = Stage(stage.comm, keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.9)).fit([])
    differ = swapped["history"]["val_loss"] != plain["history"]["val_loss"]
    return swapped | {"same_training": swapped["bits"] == plain["bits"], "evaluates_the_average": differ}


def callback_list(stage: Stage, mine: Path) -> dict:
    """A list in the list; the writer in it must be found."""
    return stage.fit([keras.callbacks.CallbackList([keras.callbacks.CSVLogger(f"{mine}.csv")])])


def progress_bar(stage: Stage, mine: Path) -> dict:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        result = stage.fit([keras.callbacks.ProgbarLogger()], verbose=2 if stage.comm.rank == 0 else 0)
    return result | {"printed": out.getvalue().count("Epoch ")}


def remote_monitor(stage: Stage, mine: Path) -> dict:
    """A server of this rank's own counts what this rank sends."""
    posts = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posts.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        result = stage.fit([keras.callbacks.RemoteMonitor(f"http://127.0.0.1:{server.server_address[1]}")])
        server.shutdown()
    return result | {"posts": len(posts)}


def needs(package: str, cls: type[keras.callbacks.Callback], **options: Any) -> Trial:
    """Return a trial of a callback with a package of its own; without it, only where the callback would run."""

    def trial(stage: Stage, mine: Path) -> dict:
        runs_here = bool(on_this_rank([cls.__new__(cls)], stage.comm))
        if importlib.util.find_spec(package) is None:
            return {"not_installed": package, "runs_here": runs_here}
        return stage.fit([cls(mine, **options)]) | {"runs_here": runs_here}

    return trial


TRIALS: dict[str, Trial] = {
    "BackupAndRestore": backup_and_restore,
    "CSVLogger": ordinary(lambda mine: keras.callbacks.CSVLogger(f"{mine}.csv")),
    "Callback": ordinary(lambda mine: keras.callbacks.Callback()),
    "CallbackList": callback_list,
    "EarlyStopping": early_stopping,
    "History": ordinary(lambda mine: keras.callbacks.History()),
    "LambdaCallback": ordinary(
        lambda mine: keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: mine.touch())
    ),
    "LearningRateScheduler": ordinary(
        lambda mine: keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5)
    ),
    "ModelCheckpoint": model_checkpoint,
    "OrbaxCheckpoint": needs("orbax", keras.callbacks.OrbaxCheckpoint),
    "ProgbarLogger": progress_bar,
    "ReduceLROnPlateau": plateau,
    "RemoteMonitor": remote_monitor,
    "SwapEMAWeights": swap_ema_weights,
    "TensorBoard": needs("tensorboard", keras.callbacks.TensorBoard, histogram_freq=1, update_freq="batch"),
    "TerminateOnNaN": terminate_on_nan,
}


def case_every_callback(comm: Comm, folder: Path) -> dict:
    """Each rank gives paths of its own, so that the files tell who wrote."""
    stage = Stage(comm, keras.optimizers.SGD(0.5, momentum=0.9))
    results = {}
    for name in every_callback():
        if name not in TRIALS:
            results[name] = {"undecided": True}
            continue
        stage.reset()
        stage.model.optimizer.learning_rate = 0.5
        shared = folder / name
        shared.mkdir(exist_ok=True)
        results[name] = TRIALS[name](stage, shared / f"by_{comm.rank}")
        comm.gather_json("written", name="written")
        results[name]["files"] = sorted(path.name for path in shared.iterdir())
    return results


# -- the user's own -----------------------------------------------------------------------------


def case_callback_that_decides_alone(comm: Comm, folder: Path) -> dict:
    """The control: a rate that depends on the rank is caught."""
    stage = Stage(comm, keras.optimizers.SGD(0.5))
    alone = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / (1 + comm.rank))
    try:
        stage.fit([alone])
    except HvdtrainError as error:
        return {"error": str(error)}
    return {"error": ""}


def case_callback_that_raises(comm: Comm, folder: Path) -> dict:
    """On all ranks, at each place; the ranks can go on together afterwards."""
    stage = Stage(comm, keras.optimizers.SGD(0.5))
    raised = []

    def fail(*args: Any, **options: Any) -> None:
        raise LookupError("a bad day")

    for place in ("on_train_begin", "on_epoch_begin", "on_train_batch_end", "on_epoch_end", "on_train_end"):
        try:
            stage.fit([keras.callbacks.LambdaCallback(**{place: fail})])
        except LookupError:
            raised.append(place)
    stage.reset()
    return stage.fit([]) | {"raised": raised}


def case_callback_refusals(comm: Comm, folder: Path) -> dict:
    def message(*arguments: Any, **options: Any) -> str:
        try:
            hk.callbacks(*arguments, **options)
        except HvdtrainError as error:
            return str(error)
        return ""

    backup = keras.callbacks.BackupAndRestore(folder / "backup")
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    return {
        "both_restore": message([backup], checkpoint_dir=folder, resume=True),
        "saves_average": message([keras.callbacks.CallbackList([swap])], checkpoint_dir=folder),
        "fine": message([backup, swap]),
    }
