"""Options of tf.data: its autotuning is off, because whoever ends an iterator waits for its thread.

That thread looks at the pipeline in growing intervals, and is not woken: after an epoch of 5 s the next one began 5 s
late (TensorFlow 2.21, one or two threads).
"""

from __future__ import annotations

import tensorflow as tf


def quiet() -> tf.data.Options:
    """Return the options of hvdtrain's own pipelines: no autotuning, a thread of their own, always the same order."""
    options = _without_autotuning()
    options.threading.private_threadpool_size = 1
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    options.deterministic = True
    return options


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return a user's dataset without autotuning, unless its options say that it shall be on.

    `num_parallel_calls=tf.data.AUTOTUNE` then means one call for each thread of tf.data's pool.
    """
    if dataset.options().autotune.enabled:
        return dataset
    return dataset.with_options(_without_autotuning())


def for_one_batch() -> tf.data.Options:
    """Return the options of a pipeline that lives for one batch: rewriting its graph takes longer than running it."""
    options = _without_autotuning()
    options.experimental_optimization.apply_default_optimizations = False
    return options


def _without_autotuning() -> tf.data.Options:
    options = tf.data.Options()
    options.autotune.enabled = False
    return options
