"""A process without hvdtrain's launch: import, build, trace, one step, then the time of day in a file.

Start it with `python -m hvdtrain.train.bench.bare_start FILE NUM_EXAMPLES BATCH_SIZE`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path


def main() -> None:
    """Run one training step of the CNN on the batch the product starts with."""
    import keras
    import tensorflow as tf  # noqa: F401  a script of one's own imports both

    from hvdtrain.workshop.data import synthetic
    from hvdtrain.workshop.models import cnn_two

    place, num_examples, batch_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    (x, y), _ = synthetic(num_examples)
    model = cnn_two()
    model.compile(
        keras.optimizers.Adam(1e-3), loss="sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False
    )
    model.train_on_batch(x[:batch_size], y[:batch_size])
    Path(place).write_text(repr(time.time()), encoding="utf-8")


if __name__ == "__main__":
    main()
