"""Cases about what must be caught or refused: replicas that differ, NaN, options that contradict."""

from pathlib import Path

import keras
import numpy as np

from hvdtrain.errors import OutOfSyncError
from hvdtrain.train import checkpoint
from hvdtrain.train.callbacks import Saver, Setup, SyncProof
from hvdtrain.train.comm import Comm
from hvdtrain.train.compat import to_array
from hvdtrain.train.optimizer import distribute
from tests.ranks.cases import compiled, data_of, message_of, model_of


def case_tampered_replica(comm: Comm, folder: Path) -> dict:
    """One bit of one weight on rank 1 changes after the third step."""
    model = compiled(model_of(seed=0, with_norm=False), distribute(keras.optimizers.SGD(0.0), comm))
    x, y = data_of(seed=1)

    def tamper(batch, logs):
        if comm.rank == 1 and batch == 2:
            weight = model.trainable_variables[0]
            flipped = to_array(weight).copy()
            flipped.view(np.uint32)[0, 0] ^= 1
            weight.assign(flipped)

    proof = SyncProof(comm, 1)
    caught = ""
    try:
        model.fit(
            x, y, batch_size=16, epochs=1, verbose=0,
            callbacks=[Setup(comm), keras.callbacks.LambdaCallback(on_train_batch_end=tamper), proof],
        )  # fmt: skip
    except OutOfSyncError as error:
        caught = str(error)
    return {"caught": caught, "checks": proof.num_checks, "exit_code": int(OutOfSyncError.exit_code)}


def case_nonfinite(comm: Comm, folder: Path) -> dict:
    model = compiled(model_of(seed=0, with_norm=False), distribute(keras.optimizers.SGD(0.1), comm))
    x, y = data_of(seed=1)
    if comm.rank == comm.size - 1:
        x[17] = np.nan
    callbacks = [Setup(comm), SyncProof(comm, 1), Saver(comm, folder / "ckpt")]
    caught = message_of(lambda: model.fit(x, y, batch_size=16, epochs=2, verbose=0, shuffle=False, callbacks=callbacks))
    return {"caught": caught, "saved": [path.name for path in checkpoint.checkpoints(folder / "ckpt")]}


def case_models_differ(comm: Comm, folder: Path) -> dict:
    """A rank that builds another model would hang the others."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Input((6,)), keras.layers.Dense(3 + comm.rank, activation="softmax")]
    model = compiled(keras.Sequential(layers), distribute(keras.optimizers.SGD(0.1), comm))
    x, y = data_of(seed=1)
    return {"caught": message_of(lambda: model.fit(x, y, verbose=0, callbacks=[Setup(comm)]))}


def case_refusals(comm: Comm, folder: Path) -> dict:
    x, y = data_of(seed=1)

    def fit(model):
        model.fit(x, y, verbose=0, callbacks=[Setup(comm)])

    plain = compiled(model_of(0), keras.optimizers.SGD(0.1))
    unbuilt = compiled(keras.Sequential([keras.layers.Dense(3)]), distribute(keras.optimizers.SGD(0.1), comm))
    jit = compiled(model_of(0), distribute(keras.optimizers.SGD(0.1), comm), jit_compile=True)
    once = distribute(keras.optimizers.SGD(0.1), comm)
    return {
        "plain": message_of(lambda: fit(plain)),
        "unbuilt": message_of(lambda: fit(unbuilt)),
        "jit": message_of(lambda: fit(jit)),
        "twice": message_of(lambda: distribute(once, comm)),
        "string": message_of(lambda: distribute("sgd", comm)),
    }


def case_serialises_as_the_original(comm: Comm, folder: Path) -> dict:
    original = keras.optimizers.AdamW(0.01, weight_decay=0.1, name="mine")
    expected = keras.optimizers.serialize(keras.optimizers.AdamW(0.01, weight_decay=0.1, name="mine"))
    original.exclude_from_weight_decay(var_names=["bias"])
    found = keras.optimizers.serialize(distribute(original, comm))
    kept = original._exclude_from_weight_decay_pattern is not None
    return {"found": found, "expected": expected, "name": type(original).__name__, "keeps": kept}
