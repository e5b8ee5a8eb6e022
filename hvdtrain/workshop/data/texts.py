"""Texts as rows of word numbers, all of one length: 0 fills up, 1 begins a text, 2 is a rare word, 4 the commonest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hvdtrain.errors import UserCodeError
from hvdtrain.known_data import TEXTS
from hvdtrain.workshop import made_up
from hvdtrain.workshop.data.unpickle import read_npz
from hvdtrain.workshop.stand_in import ALLOWED, Split, real_or_stand_in

BEGIN, RARE, FIRST_WORD = 1, 2, 3
SHUFFLE_SEED = 113  # Keras's own, so that its split is ours


def imdb(num_words: int = 20_000, length: int = 400, stand_in: str = ALLOWED) -> Split:
    """Return IMDB's film reviews, 25,000 and 25,000, label 1 for those in favour.

    Args:
        num_words: Numbers of words that are told apart, the commonest; the others count as rare.
        length: Words of a review that are kept, its last ones; shorter ones are filled up in front.
        stand_in: Whether made-up reviews may take their place: `allowed` where they are not at hand, `never`, `always`.
    """
    _check(num_words, length)
    return real_or_stand_in(
        "imdb",
        lambda place: _read_imdb(place, num_words, length),
        lambda: made_up.texts(*TEXTS["imdb"], num_classes=2, num_words=num_words, length=length),
        stand_in,
    )


def reuters(num_words: int = 10_000, length: int = 200, stand_in: str = ALLOWED) -> Split:
    """Return Reuters' newswires, 8,982 and 2,246, on 46 topics.

    Args:
        num_words: Numbers of words that are told apart, the commonest; the others count as rare.
        length: Words of a wire that are kept, its last ones; shorter ones are filled up in front.
        stand_in: Whether made-up wires may take their place: `allowed` where they are not at hand, `never`, `always`.
    """
    _check(num_words, length)
    return real_or_stand_in(
        "reuters",
        lambda place: _read_reuters(place, num_words, length),
        lambda: made_up.texts(*TEXTS["reuters"], num_classes=46, num_words=num_words, length=length),
        stand_in,
    )


def _check(num_words: int, length: int) -> None:
    if num_words <= FIRST_WORD or length < 1:
        raise UserCodeError(
            f"num_words must be above {FIRST_WORD} and length at least 1; got num_words {num_words}, length {length}"
        )


def _read_imdb(place: Path, num_words: int, length: int) -> Split:
    arrays, random = read_npz(place), np.random.RandomState(SHUFFLE_SEED)
    train, test = _order(random, len(arrays["x_train"])), _order(random, len(arrays["x_test"]))
    return (
        (padded(arrays["x_train"][train], num_words, length), arrays["y_train"][train].astype(np.int64)),
        (padded(arrays["x_test"][test], num_words, length), arrays["y_test"][test].astype(np.int64)),
    )


def _read_reuters(place: Path, num_words: int, length: int) -> Split:
    arrays = read_npz(place)
    order = _order(np.random.RandomState(SHUFFLE_SEED), len(arrays["x"]))
    x, y = padded(arrays["x"][order], num_words, length), arrays["y"][order].astype(np.int64)
    num_train = int(len(x) * 0.8)
    return (x[:num_train], y[:num_train]), (x[num_train:], y[num_train:])


def _order(random: np.random.RandomState, count: int) -> np.ndarray:
    order = np.arange(count)
    random.shuffle(order)
    return order


def padded(texts: Sequence[Sequence[int]], num_words: int, length: int) -> np.ndarray:
    """Return texts as rows of one length: the last words of long ones, and short ones filled up in front.

    >>> padded([[1, 5, 900], [7]], num_words=100, length=3).tolist()
    [[4, 8, 2], [0, 1, 10]]
    """
    rows = np.zeros((len(texts), length), np.int32)
    for row, text in zip(rows, texts, strict=True):
        words = np.array([BEGIN, *(word + FIRST_WORD for word in text)][-length:], np.int32)
        row[length - len(words) :] = np.where(words < num_words, words, RARE)
    return rows
