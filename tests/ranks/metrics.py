"""Cases about metrics: every one of Keras's has its global value on all ranks."""

import inspect
from typing import Any

import keras
import numpy as np

from hvdtrain.train.callbacks import GlobalMetrics, Setup
from hvdtrain.train.callbacks.global_metrics import is_summable
from hvdtrain.train.comm import Comm
from hvdtrain.train.compat import to_array
from hvdtrain.train.optimizer import distribute
from hvdtrain.train.sync import broadcast_state

CLASSES = 4
# How to construct a metric that needs more than a name, and which data it is for.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "MeanIoU": {"num_classes": CLASSES, "sparse_y_pred": False},
    "OneHotMeanIoU": {"num_classes": CLASSES},
    "IoU": {"num_classes": CLASSES, "target_class_ids": [0, 2], "sparse_y_pred": False},
    "OneHotIoU": {"num_classes": CLASSES, "target_class_ids": [0, 2]},
    "BinaryIoU": {},
    "PrecisionAtRecall": {"recall": 0.5},
    "RecallAtPrecision": {"precision": 0.5},
    "SensitivityAtSpecificity": {"specificity": 0.5},
    "SpecificityAtSensitivity": {"sensitivity": 0.5},
    "MeanMetricWrapper": {"fn": lambda y_true, y_pred: (y_true - y_pred) ** 2},
}
SPARSE = ("MeanIoU", "IoU")
BINARY = ("AUC", "Precision", "Recall", "TruePositives", "TrueNegatives", "FalsePositives", "FalseNegatives")
ABSTRACT = ("Metric",)


def metric_data(name: str, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(11)
    scores = random.random((num_rows, CLASSES)).astype("float32")
    probabilities = scores / scores.sum(1, keepdims=True)
    labels = random.integers(0, CLASSES, num_rows)
    if name in SPARSE or name.startswith("Sparse"):
        return labels, probabilities
    if name in BINARY or "At" in name or name.startswith("Binary"):
        return random.integers(0, 2, (num_rows, 1)).astype("float32"), scores[:, :1]
    if "Categorical" in name or "OneHot" in name or name in ("F1Score", "FBetaScore", "KLDivergence"):
        return np.eye(CLASSES, dtype="float32")[labels], probabilities
    return random.normal(size=(num_rows, CLASSES)).astype("float32"), scores


def update(metric: keras.metrics.Metric, y_true: Any, y_pred: Any, weights: Any) -> None:
    if "y_pred" not in inspect.signature(metric.update_state).parameters:  # Mean, Sum
        metric.update_state(y_pred, sample_weight=weights)
    else:
        metric.update_state(y_true, y_pred, sample_weight=weights)


def case_every_metric(comm: Comm, folder: Any) -> dict:
    """Unequal parts with sample weights, summed, against one process with all of it."""
    results = {}
    num_rows = 40 * comm.size
    bounds = [0, *(40 * (rank + 1) + 3 * (rank % 2) - 1 for rank in range(comm.size - 1)), num_rows]
    weights = np.random.default_rng(5).random(num_rows).astype("float32")
    for name, cls in inspect.getmembers(keras.metrics, inspect.isclass):
        if not issubclass(cls, keras.metrics.Metric) or name in ABSTRACT:
            continue
        whole: Any = cls(**ARGUMENTS.get(name, {}))
        part: Any = cls(**ARGUMENTS.get(name, {}))
        y_true, y_pred = metric_data(name, num_rows)
        rows = slice(bounds[comm.rank], bounds[comm.rank + 1])
        sample_weights = weights[:, None] if name == "Mean" or name == "Sum" else weights
        update(whole, y_true, y_pred, sample_weights)
        update(part, y_true[rows], y_pred[rows], sample_weights[rows])
        summable = is_summable(part)
        local = np.asarray(part.result())
        if summable:
            for variable, total in zip(
                part.variables, comm.sum_arrays([to_array(v) for v in part.variables], name="every_metric"), strict=True
            ):
                variable.assign(total.astype(variable.dtype))
        expected = np.asarray(whole.result())
        results[name] = {
            "summable": summable,
            "off": float(np.max(abs(np.asarray(part.result()) - expected)) / (np.max(abs(expected)) + 1e-12)),
            "local_off": float(np.max(abs(local - expected))),
        }
    return results


def case_own_metric_is_labelled(comm: Comm, folder: Any) -> list[str]:
    from hvdtrain.train.callbacks.global_metrics import local_only

    class Largest(keras.metrics.Metric):
        """The largest prediction: its state is no sum."""

        def __init__(self) -> None:
            super().__init__(name="largest")
            self.value = self.add_variable((), "zeros")

        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
            self.value.assign(keras.ops.maximum(self.value, keras.ops.max(y_pred)))

        def result(self) -> Any:
            return self.value

    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile(distribute(keras.optimizers.SGD(0.1), comm), loss="mse", metrics=[Largest(), "mae"])
    broadcast_state(model, comm)
    x = np.ones((4, 4), "float32")
    model.fit(x, x[:, :1], verbose=0, callbacks=[Setup(comm), GlobalMetrics(comm)])
    return local_only(model)
