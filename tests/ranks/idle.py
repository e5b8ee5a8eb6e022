"""What Horovod's thread takes from a rank that asks nothing of it, and that it is there when it is asked.

python -m tests.ranks.idle FOLDER, on each rank; writes FOLDER/rank_RANK.json.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

IDLE_S = 2.0


def total(value: float, name: str) -> float:
    return float(hvd.allreduce(tf.constant(value), op=hvd.Sum, name=name))


def after(seconds: float, value: float) -> np.float32:
    time.sleep(float(seconds))
    return np.float32(value)


@tf.function
def in_an_order_of_ones_own(is_odd: tf.Tensor) -> list[tf.Tensor]:
    """Ask for two sums at a time, the second first on odd ranks."""
    values = [
        tf.ensure_shape(tf.numpy_function(after, [delay, value], tf.float32), [])
        for delay, value in ((0.3 * is_odd, 1.0), (0.3 * (1.0 - is_odd), 10.0))
    ]
    return [hvd.allreduce(value, op=hvd.Sum, name=f"order.{i}") for i, value in enumerate(values)]


def main() -> None:
    hvd.init()
    rank, size = hvd.rank(), hvd.size()
    total(1.0, "warm up")
    began = time.process_time()
    time.sleep(IDLE_S)
    idle_share = (time.process_time() - began) / IDLE_S
    results: dict[str, Any] = {"first": total(1.0, "first"), "cached": [total(1.0, "again") for _ in range(20)][-1]}
    time.sleep(1.5 * (rank == size - 1))  # longer than an idle thread waits
    results["late"] = total(1.0, "late")
    results["any order"] = [float(sum_) for sum_ in in_an_order_of_ones_own(tf.constant(float(rank % 2)))]
    if rank == 0:
        time.sleep(1.5)
    hvd.join()
    Path(sys.argv[1], f"rank_{rank}.json").write_text(json.dumps({"idle share": idle_share, **results}))


if __name__ == "__main__":
    main()
