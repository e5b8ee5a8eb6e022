"""One-shot learning: a network that was trained on eight digits tells the two it has never seen from one example each.

    hvdtrain run configs/one_shot.yaml                                        # trains without the digits 8 and 9
    hvdtrain run configs/one_shot.yaml --set "data.args.held_out=[0, 1]"      # without two others
    python -m hvdtrain.workshop.one_shot RUN RUN                              # the table; RUN as `hvdtrain list` has it

The trick: the last layer is thrown away. What the layer before it makes of an image, its *embedding*, is a direction in
space; training has taught it to give images of one class one direction. A new class needs no training then: an image
belongs to the example whose direction is nearest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import layers

from hvdtrain.bench.table import table
from hvdtrain.errors import HvdtrainError, UserCodeError
from hvdtrain.export import export_run
from hvdtrain.plan import Plan
from hvdtrain.rundir import RUNS, RunDir, find_run
from hvdtrain.workshop import data
from hvdtrain.workshop.stand_in import Examples, Split

HELD_OUT = (8, 9)
NUM_CLASSES = 10
DATASETS: dict[str, Callable[[], Split]] = {"digits": data.digits, "mnist": data.mnist}
HEAD = ("held out", "embedding: of the two", "of all ten", "pixels: of the two", "of all ten", "known classes")


# -- training: an ordinary classifier of eight classes ---------------------------------------------


def known_classes(dataset: str = "digits", held_out: Sequence[int] = HELD_OUT) -> Split:
    """Return the images of all digits but two, and their classes, numbered anew from 0 to 7.

    Args:
        dataset: `digits` (8 x 8, no network needed) or `mnist` (28 x 28).
        held_out: The two digits that are left out.
    """
    train, test = load(dataset)
    known = [digit for digit in range(NUM_CLASSES) if digit not in checked(held_out)]

    def of_known(examples: Examples) -> Examples:
        x, y = examples
        is_known = np.isin(y, known)
        return x[is_known], np.searchsorted(known, y[is_known])

    return of_known(train), of_known(test)


def embedding_network(input_shape: Sequence[int] = (8, 8, 1), num_classes: int = NUM_CLASSES - 2) -> keras.Model:
    """Return a network whose last layer sees directions only.

    The embedding is what convolutions find, and where. A fully connected layer behind them would know the eight classes
    better, and new ones worse: it keeps only what tells those eight apart.

    Args:
        input_shape: Of an image.
        num_classes: That it learns.
    """
    return keras.Sequential(
        [
            layers.Input(tuple(input_shape)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Dropout(0.25),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.UnitNormalization(name="embedding"),
            layers.Rescaling(20.0),  # values of length 1 lie too near to each other for a softmax
            layers.Dense(num_classes, activation="softmax"),
        ]
    )


# -- after training: classes it has never seen --------------------------------------------------


def embed(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return the direction of each image, shape (images, dimensions), of length 1."""
    embedding = keras.Model(model.inputs, model.get_layer("embedding").output)
    return np.asarray(embedding.predict(images, batch_size=512, verbose=0))


def pixels(images: np.ndarray) -> np.ndarray:
    """Return images as directions themselves: what can be done without any training."""
    flat = images.reshape(len(images), -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


@dataclass(frozen=True)
class Score:
    """Shares of right answers, one for each draw of examples.

    Args:
        of_two: Where the choice is between the two new digits: chance is a half.
        of_ten: Where it is between all ten, each known by one example: chance is a tenth.
    """

    of_two: np.ndarray
    of_ten: np.ndarray


def score(
    see: Callable[[np.ndarray], np.ndarray],
    examples: Examples,
    questions: Examples,
    held_out: Sequence[int],
    *,
    num_draws: int,
    seed: int = 0,
) -> Score:
    """Draw one example of each digit, again and again, and let each image be of the digit of the nearest one.

    Args:
        see: Makes directions of images.
        examples: Images to draw from, and their digits.
        questions: Images to be recognised, and their digits; those of the two held-out digits are asked.
        held_out: The two digits.
        num_draws: How often.
        seed: Of the draws.
    """
    random = np.random.default_rng(seed)
    is_asked = np.isin(questions[1], held_out)
    asked, truth = see(questions[0][is_asked]), questions[1][is_asked]
    drawn = np.stack(
        [random.choice(np.flatnonzero(examples[1] == digit), num_draws) for digit in range(NUM_CLASSES)], 1
    )
    different, places = np.unique(drawn, return_inverse=True)
    nearness = asked @ see(examples[0][different]).T  # cosines of each image asked with each example
    of_two, of_ten = [], []
    for columns in places.reshape(drawn.shape):
        near = nearness[:, columns]
        of_ten.append(np.mean(near.argmax(1) == truth))
        of_two.append(np.mean(np.asarray(held_out)[near[:, held_out].argmax(1)] == truth))
    return Score(np.array(of_two), np.array(of_ten))


# -- the table ----------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each run, and one for all of them."""
    parser = argparse.ArgumentParser(prog="python -m hvdtrain.workshop.one_shot", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories or short ids")
    parser.add_argument("--runs", dest="root", type=Path, default=Path(RUNS), help=f"where runs lie (default {RUNS})")
    parser.add_argument("--draws", type=int, default=500, help="of one example of each digit (default 500)")
    options = parser.parse_args(arguments)
    if options.draws < 2:
        parser.error("--draws: must be 2 at least, or there is no standard error")
    rows, means = [], []
    for name in options.runs:
        run = find_run(name, options.root)
        found = measured(run, num_draws=options.draws)
        rows.append([held_out_text(run), *map(with_error, found[:4]), f"{100 * found[4].item():.2f}"])
        means.append([values.mean() for values in found])
    if len(rows) > 1:
        columns = np.array(means).T
        rows.append(["mean", *map(with_error, columns[:4]), f"{100 * columns[4].mean():.2f}"])
    rows.append(["chance", "50.0", "10.0", "50.0", "10.0", "12.5"])
    print(table(HEAD, rows, markdown=True))
    print(f"\nRight answers in %, one example of each digit; +- standard error of the mean over {options.draws} draws")
    print("of the examples, and in the line `mean` over the choices of held-out digits.")


def measured(run: RunDir, *, num_draws: int) -> list[np.ndarray]:
    """Return the shares of right answers of one run, column by column.

    Raises:
        UserCodeError: If it did not train the embedding.
    """
    config = Plan.read(run.plan).config
    if config["data"]["source"] != f"{MODULE}:known_classes":
        raise UserCodeError(f"{run.path}: trained on {config['data']['source']}; start from configs/one_shot.yaml")
    held_out = held_out_of(run)
    train, test = load(config["data"]["args"].get("dataset", "digits"))
    model = trained_model(run)
    columns = []
    for see in (lambda images: embed(model, images), pixels):
        found = score(see, train, test, held_out, num_draws=num_draws)
        columns += [found.of_two, found.of_ten]
    x, y = known_classes(**config["data"]["args"])[1]
    right = model.predict(x, batch_size=512, verbose=0).argmax(1) == y
    return [*columns, np.array([right.mean()])]


def trained_model(run: RunDir) -> keras.Model:
    """Return the trained network, as `hvdtrain export` writes it."""
    place = run.path / "export" / "one_shot.keras"
    export_run(str(run.path), run.path.parent, kind="keras", output=place, force=True)
    return keras.saving.load_model(place)


def held_out_of(run: RunDir) -> list[int]:
    """Return the two digits that a run has not seen."""
    config = Plan.read(run.plan).config
    return checked(config["data"]["args"].get("held_out", HELD_OUT))


def held_out_text(run: RunDir) -> str:
    """Return them in words."""
    return " and ".join(map(str, held_out_of(run)))


def with_error(values: np.ndarray) -> str:
    """Return the mean and its standard error, in %.

    >>> with_error(np.array([0.9, 0.8]))
    '85.0 +- 5.0'
    """
    return f"{100 * values.mean():.1f} +- {100 * values.std(ddof=1) / np.sqrt(len(values)):.1f}"


def load(dataset: str) -> Split:
    """Return a data set of ten digits.

    Raises:
        UserCodeError: If there is none of this name.
    """
    if dataset not in DATASETS:
        raise UserCodeError(f"dataset must be one of {', '.join(DATASETS)}; got {dataset!r}")
    return DATASETS[dataset]()


def checked(held_out: Sequence[int]) -> list[int]:
    """Return two different digits, in rising order.

    Raises:
        UserCodeError: If it is something else.
    """
    found = sorted(set(held_out)) if isinstance(held_out, (list, tuple)) else []
    if len(found) != 2 or not all(isinstance(digit, int) and 0 <= digit < NUM_CLASSES for digit in found):
        raise UserCodeError(f"held_out must be two different digits, such as [8, 9]; got {held_out!r}")
    return found


MODULE = "hvdtrain.workshop.one_shot"

if __name__ == "__main__":
    try:
        main()
    except HvdtrainError as error:
        print(f"hvdtrain: {error}", file=sys.stderr)
        sys.exit(int(error.exit_code))
