"""The worst mistakes on the test set: all ranks look through their parts, rank 0 shows what they found."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdtrain.train import compat
from hvdtrain.train.board import EPOCHS, Board, words_of
from hvdtrain.train.comm import Comm
from hvdtrain.train.data import EvaluationPart
from hvdtrain.train.images import are_images, classes_of, table


@dataclass(frozen=True)
class Mistakes:
    """Images that were taken for something else, the most certain ones first; arrays of one length."""

    images: np.ndarray
    true: np.ndarray
    seen: np.ndarray
    certainty: np.ndarray

    def worst(self, number: int) -> Mistakes:
        """Return the first of them."""
        order = np.argsort(-self.certainty, kind="stable")[:number]
        return Mistakes(*(getattr(self, field.name)[order] for field in fields(self)))


def show_mistakes(model: keras.Model, test: EvaluationPart, comm: Comm, board: Board | None, number: int) -> str:
    """Give rank 0's board the worst mistakes of all ranks; return why there are none to show, or nothing. A collective.

    Args:
        model: Trained.
        test: This rank's part of the test data.
        comm: The ranks.
        board: Rank 0's; None elsewhere.
        number: How many, at most.
    """
    mine, why = look_for_mistakes(model, test, number)
    first_why = next(filter(None, comm.gather_json(why, name="mistakes")), "")
    if mine is None or first_why:
        return first_why
    arrays = [
        comm.gather_arrays(getattr(mine, field.name), name=f"mistakes.{field.name}", keep=board is not None)
        for field in fields(mine)
    ]
    if board is not None:
        worst = Mistakes(*map(np.concatenate, arrays)).worst(number)
        if len(worst.true):
            board.add(EPOCHS, compat.steps_taken(model), lambda: [mistakes_table(worst)])
    return ""


def look_for_mistakes(model: keras.Model, test: EvaluationPart, number: int) -> tuple[Mistakes | None, str]:
    """Return this rank's worst mistakes, or None and why there are none: pictures must not fail a finished training."""
    try:
        found = find_mistakes(model, test, number)
    except Exception as error:
        return None, words_of(error)
    needed = "the test data must be images with a class each, and the model say how likely each class is"
    return found, needed if found is None else ""


def find_mistakes(model: keras.Model, test: EvaluationPart, number: int) -> Mistakes | None:
    """Return the worst mistakes in this rank's part; None if the data are no images with classes."""
    if not isinstance(test.batches, tf.data.Dataset):
        return None
    found: Mistakes | None = None
    for batch in test.batches.as_numpy_iterator():
        of_batch = mistakes_in(model, batch)
        if of_batch is None:
            return None
        parts = [of_batch] if found is None else [found, of_batch]
        joined = (np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Mistakes))
        found = Mistakes(*joined).worst(number)
    return found.worst(number if test.counts else 0) if found is not None else None


def mistakes_in(model: keras.Model, batch: Any) -> Mistakes | None:
    """Return the mistakes among a batch's examples; None if they are no images with classes."""
    if not isinstance(batch, tuple) or len(batch) < 2 or not are_images(batch[0]):
        return None
    images, true = batch[0], classes_of(batch[1])
    shares = as_shares(model.predict_on_batch(images))
    if true is None or shares is None or not 0 <= true.min() <= true.max() < shares.shape[1]:
        return None
    seen = shares.argmax(1)
    wrong = seen != true
    certainty = shares.max(1)[wrong].astype(np.float32)
    return Mistakes(images[wrong].astype(np.float32), true[wrong].astype(np.int64), seen[wrong], certainty)


def as_shares(outputs: Any) -> np.ndarray | None:
    """Return how likely a model takes each class to be, (examples, classes); None if that is not what it says.

    Rows that do not add up to 1 are taken for logits, a single column for the share of the second of two classes.

    >>> as_shares(np.array([[0.25]])), as_shares(np.array([[7.5]])), as_shares(np.array([[0.0, 0.0]])).tolist()
    (array([[0.75, 0.25]]), None, [[0.5, 0.5]])
    """
    if not isinstance(outputs, np.ndarray) or outputs.ndim != 2:
        return None
    outputs = outputs.astype(np.float64)
    if outputs.shape[1] == 1:
        is_share = bool(np.all((outputs >= 0) & (outputs <= 1)))
        return np.concatenate([1 - outputs, outputs], axis=1) if is_share else None
    if np.all(outputs >= 0) and np.allclose(outputs.sum(1), 1, atol=1e-2):
        return outputs
    powers = np.exp(outputs - outputs.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def mistakes_table(worst: Mistakes) -> Any:
    """Return a picture of them."""
    words = [
        f"{true} taken for {seen} ({certainty:.0%})"
        for true, seen, certainty in zip(worst.true, worst.seen, worst.certainty, strict=True)
    ]
    return table("mistakes", worst.images, words, "the test set's mistakes the model is most certain of")
