"""The workshop's ladder: seven models for MNIST as they were taught, and what was published of them.

Source: the slides and notebooks of the workshop, one seed each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MODELS = "hvdtrain.workshop.models"
DATA = "hvdtrain.workshop.data"
NUM_CLASSES = 10
FULL = 60_000  # examples
MOST_EPOCHS = 4  # times those of the recipe, where there are few examples
SHAPES = {"mnist": (28, 28, 1), "digits": (8, 8, 1)}

ADAM = {"name": "adam", "learning_rate": 0.001}
SGD = {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9}


@dataclass(frozen=True)
class Rung:
    """One model of the ladder, as it was taught.

    Args:
        name: In paths and on the command line.
        title: For people.
        function: In `hvdtrain.workshop.models`.
        parameters: On MNIST.
        published: Test accuracy on MNIST, per cent.
        optimizer: Block of a configuration.
        global_batch_size: Examples of an update.
        epochs: Passes over the training data.
        args: Of the function.
        note: What is to be known about the recipe.
    """

    name: str
    title: str
    function: str
    parameters: int
    published: float
    optimizer: Mapping[str, Any]
    global_batch_size: int
    epochs: int
    args: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


LOGS_SAY_15 = "the workshop's code says 10 epochs, its printed logs 15; these are 15"
RUNGS = (
    Rung("fc_64_64", "FC 64-64", "fully_connected", 55_050, 97.55, ADAM, 128, 40, {"units": [64, 64]}),
    Rung("fc_512_512", "FC 512-512", "fully_connected", 669_706, 98.21, ADAM, 128, 30, {"units": [512, 512]}),
    Rung(
        "fc_512_512_512", "FC 512-512-512", "fully_connected", 932_362, 98.00, ADAM, 128, 30,
        {"units": [512, 512, 512]},
    ),
    Rung("cnn_one", "CNN, 1 convolution", "cnn_one", 542_230, 98.74, SGD, 32, 10),
    Rung("cnn_two", "CNN, 2 convolutions", "cnn_two", 1_199_882, 99.03, SGD, 32, 15, note=LOGS_SAY_15),
    Rung("cnn_dropout", "CNN, dropout", "cnn_dropout", 1_199_882, 99.19, SGD, 32, 15, note=LOGS_SAY_15),
    Rung("cnn_batch_norm", "CNN, batch norm.", "cnn_batch_norm", 1_200_778, 98.91, SGD, 32, 15, note=LOGS_SAY_15),
)  # fmt: skip
BY_NAME = {rung.name: rung for rung in RUNGS}


@dataclass(frozen=True)
class Climb:
    """One training of a rung.

    Args:
        rung: Name of the model.
        seed: Of initial weights, order, dropout, and of which examples are drawn.
        examples_per_class: To train on; None: all.
    """

    rung: str
    seed: int
    examples_per_class: int | None = None

    @property
    def name(self) -> str:
        """As in paths."""
        few = "" if self.examples_per_class is None else f"_{self.examples_per_class}_per_class"
        return f"{self.rung}{few}_seed_{self.seed}"

    @property
    def title(self) -> str:
        """As in messages."""
        few = "" if self.examples_per_class is None else f", {self.examples_per_class:,} examples per class"
        return f"{BY_NAME[self.rung].title}{few}, seed {self.seed}"

    @property
    def repeats(self) -> int:
        """How many times the recipe's epochs: few examples are gone through up to four times as often."""
        if self.examples_per_class is None:
            return 1
        return max(1, min(MOST_EPOCHS, FULL // (NUM_CLASSES * self.examples_per_class)))

    @property
    def work(self) -> float:
        """Examples it trains on, repeated ones too, as a share of those of the recipe."""
        if self.examples_per_class is None:
            return 1.0
        return self.repeats * min(1.0, NUM_CLASSES * self.examples_per_class / FULL)


@dataclass(frozen=True)
class Question:
    """What is trained.

    Args:
        data: `mnist` or `digits`.
        num_ranks: Ranks of each training; the workshop's batch is divided among them.
        seeds: Model -> how many seeds, in the ladder's order.
        examples_per_class: Sizes of the learning curve; none: all examples only.
        curve_models: Models of the learning curve.
    """

    data: str
    num_ranks: int
    seeds: Mapping[str, int]
    examples_per_class: tuple[int, ...] = ()
    curve_models: tuple[str, ...] = ()

    def climbs(self) -> Iterator[Climb]:
        """Yield every training: one seed of each model after the other, then those with few examples."""
        most = max(self.seeds.values())
        for seed in range(most):
            yield from (Climb(name, seed) for name, count in self.seeds.items() if seed < count)
        for seed in range(most):
            for size in self.examples_per_class:
                yield from (Climb(name, seed, size) for name in self.curve_models if seed < self.seeds[name])


def seeds_of(wanted: str, models: Sequence[str]) -> dict[str, int]:
    """Return how many seeds each model gets.

    Args:
        wanted: `3`, or by the beginning of names, the first that fits: `fc:10,cnn:3`.
        models: Names, as on the command line.

    Raises:
        ValueError: If it is neither, or a model gets none.

    >>> seeds_of("fc:10,cnn:3", ["fc_64_64", "cnn_one"])
    {'fc_64_64': 10, 'cnn_one': 3}
    """
    rules = [part.rpartition(":")[::2] for part in wanted.split(",")]
    found = {}
    for rung in RUNGS:
        if rung.name in models:
            count = next((count for prefix, count in rules if rung.name.startswith(prefix.strip())), "0")
            if not count.strip().isdigit() or int(count) < 1:
                raise ValueError(f"--seeds gives no number of seeds for {rung.name}")
            found[rung.name] = int(count)
    return found


def config_of(climb: Climb, *, data: str, num_ranks: int) -> dict[str, Any]:
    """Return the configuration that trains a rung.

    Few examples come in batches of at most a quarter of them.

    Args:
        climb: What is to be trained.
        data: `mnist` or `digits`.
        num_ranks: Ranks; the global batch stays that of the workshop.
    """
    rung = BY_NAME[climb.rung]
    data_args: dict[str, Any] = {}
    batch = rung.global_batch_size
    if climb.examples_per_class is not None:
        data_args = {"examples_per_class": climb.examples_per_class, "subset_seed": climb.seed}
        few = NUM_CLASSES * climb.examples_per_class
        batch = max(num_ranks, min(batch, few // 4 // num_ranks * num_ranks))
    return {
        "name": climb.name,
        "model": {"source": f"{MODELS}:{rung.function}", "args": {**rung.args, "input_shape": list(SHAPES[data])}},
        "data": {"source": f"{DATA}:{data}", "args": data_args},
        "training": {"global_batch_size": batch, "seed": climb.seed, "epochs": climb.repeats * rung.epochs},
        "optimizer": dict(rung.optimizer),
        "checkpoint": {"keep": 1},
        "launch": {"num_ranks": num_ranks},
    }
