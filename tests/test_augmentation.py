"""The workshop's augmentation: the same change for the same key anywhere, the right change, and within its bounds."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from hvdtrain.errors import UserCodeError
from hvdtrain.train.augment import changes, with_changes
from hvdtrain.train.data import EpochBatches
from hvdtrain.train.order import Order
from hvdtrain.workshop import augmentation as aug
from tests.conftest import PROJECT

NUM = 200
SIDE = 28
ALL = {
    "translation": 0.1, "rotation": 15.0, "scale": 0.1, "shear": 10.0, "elastic": 1.0, "cutout": 0.3, "noise": 0.1,
    "mirror": True,
}


def keys(seed=0, epoch=0, count=NUM):
    return aug.keys_of(seed, epoch, tf.range(count, dtype=tf.int64))


@pytest.fixture(scope="module")
def images():
    """Blobs somewhere near the middle, with nothing near the edges."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    centres = random.uniform(11, 16, size=(NUM, 2, 1, 1))
    blobs = np.exp(-((y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2) / 8)
    return tf.constant(blobs[..., None], tf.float32)


def centres(images):
    """Return the centres of mass (y, x) of each image, shape (images, 2)."""
    weights = images.numpy()[..., 0]
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.stack([(weights * axis).sum((1, 2)) / weights.sum((1, 2)) for axis in (y, x)], 1)


def test_keys_differ_in_seed_epoch_and_number_and_in_nothing_else():
    found = [keys(seed, epoch).numpy() for seed in range(3) for epoch in range(3)]
    assert len(set(np.concatenate(found).tolist())) == 9 * NUM
    assert np.array_equal(keys(1, 2), keys(1, 2))


def test_an_image_is_changed_alike_in_any_batch(images):
    whole = aug.augmented(images, keys(), **ALL).numpy()
    for part in (slice(0, 3), slice(50, 177), slice(199, 200)):
        assert np.array_equal(aug.augmented(images[part], keys()[part], **ALL), whole[part])


def test_numbers_are_even_normal_and_independent():
    many = keys(count=20_000)
    even, other = aug.uniform(many, 0, 3).numpy(), aug.uniform(many, 1, 3).numpy()
    assert even.min() >= 0
    assert even.max() < 1
    histogram = np.histogram(even, 20, (0, 1))[0]
    assert np.abs(histogram / histogram.mean() - 1).max() < 0.08
    together = np.corrcoef(np.concatenate([even, other], 1).T) - np.eye(6)
    assert np.abs(together).max() < 0.03
    neighbours = np.corrcoef(even[:-1, 0], even[1:, 0])[0, 1]
    assert abs(neighbours) < 0.03
    bell = aug.normal(many, 0, 4).numpy()
    assert np.isfinite(bell).all()
    assert (bell.mean(), bell.std()) == (pytest.approx(0, abs=0.02), pytest.approx(1, abs=0.02))
    assert (bell**4).mean() == pytest.approx(3, abs=0.2)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_floats_are_bent_as_float32_is(images, dtype):
    bent = aug.elastic_deformation(tf.cast(images, dtype), keys(), strength=1.0)
    assert bent.dtype == dtype
    assert np.allclose(bent, aug.elastic_deformation(images, keys(), strength=1.0), atol=5e-3)


def test_without_strength_nothing_changes(images):
    assert aug.augmented(images, keys()) is images
    assert np.allclose(aug.affine(images, keys()), images, atol=1e-6)
    assert np.allclose(aug.elastic_deformation(images, keys(), strength=0.0), images, atol=1e-6)
    assert np.array_equal(aug.cut_out(images, keys(), share=0.0), images)


def test_shifts_fill_their_range_and_keep_the_shape(images):
    moved = aug.affine(images, keys(), translation=0.1)
    shifts = centres(moved) - centres(images)
    assert np.abs(shifts).max() <= 0.1 * SIDE + 0.05
    assert np.abs(shifts).max(0).min() > 0.09 * SIDE
    assert np.abs(shifts.mean(0)).max() < 0.5
    assert np.allclose(moved.numpy().sum((1, 2, 3)), images.numpy().sum((1, 2, 3)), rtol=2e-3)


def test_a_turn_keeps_the_distance_from_the_middle(images):
    turned = aug.affine(images, keys(), rotation=30.0)
    middle = (SIDE - 1) / 2
    before, after = centres(images) - middle, centres(turned) - middle
    assert np.allclose(np.hypot(*before.T), np.hypot(*after.T), atol=0.05)
    far = np.hypot(*before.T) > 1
    angles = np.angle(np.exp(1j * (np.arctan2(*after.T) - np.arctan2(*before.T))), deg=True)[far]
    assert 25 < np.abs(angles).max() < 32


def test_scaling_changes_the_area_by_the_square(images):
    scaled = aug.affine(images, keys(), scale=0.2)
    ratio = (scaled.numpy().sum((1, 2, 3)) / images.numpy().sum((1, 2, 3))) ** 0.5
    assert 0.79 < ratio.min() < 0.83
    assert 1.17 < ratio.max() < 1.21


def test_shear_moves_rows_apart_and_not_columns():
    bar = np.zeros((NUM, SIDE, SIDE, 1), "float32")
    bar[:, 4:24, 13:15] = 1
    sheared = aug.affine(tf.constant(bar), keys(), shear=20.0).numpy()[..., 0]
    x = np.arange(SIDE)
    top, bottom = ((sheared[:, row] * x).sum(1) / sheared[:, row].sum(1) for row in (6, 21))
    slope = np.abs(bottom - top).max() / 15
    assert 0.3 < slope <= np.tan(np.radians(20)) + 0.02
    assert np.allclose(sheared.sum((1, 2)), bar.sum((1, 2, 3)), rtol=0.02)


def test_half_of_the_images_are_mirrored_and_the_others_left_alone(images):
    mirrored = aug.mirrored(images, keys()).numpy()
    is_turned = (mirrored == images.numpy()[:, :, ::-1]).all((1, 2, 3))
    assert (is_turned ^ (mirrored == images.numpy()).all((1, 2, 3))).all()
    assert 70 < is_turned.sum() < 130


def test_bending_is_smooth_and_of_the_strength_asked_for(images):
    bent = centres(aug.elastic_deformation(images, keys(), strength=1.0)) - centres(images)
    assert 0.4 < bent.std() < 1.2
    assert np.abs(bent).max() < 5


MOVES = {"translation": 0.1, "rotation": 30.0, "scale": 0.2, "shear": 10.0}


def test_moving_within_a_bend_is_moving(images):
    moved = aug.affine(images, keys(), **MOVES)
    assert np.allclose(aug.elastic_deformation(images, keys(), strength=0.0, **MOVES), moved, atol=1e-4)
    assert not np.allclose(aug.elastic_deformation(images, keys(), strength=1.0, **MOVES), moved, atol=0.1)


def test_bent_and_moved_images_are_resampled_once():
    """Bilinear resampling between points lowers the contrast of single points, and doing so twice lowers it more."""
    points = np.zeros((NUM, SIDE, SIDE, 1), "float32")
    points[:, 9:19:2, 9:19:2] = 1
    once = aug.augmented(tf.constant(points), keys(), elastic=0.5, **MOVES).numpy()
    twice = aug.affine(aug.elastic_deformation(tf.constant(points), keys(), strength=0.5), keys(), **MOVES).numpy()
    assert once.std() > 1.1 * twice.std()


def test_so_many_images_are_changed_as_asked_for_and_others_stay_as_they_are(images):
    whole = aug.augmented(images, keys(), **ALL).numpy()
    some = aug.augmented(images, keys(), probability=0.3, **ALL).numpy()
    stayed = (some == images.numpy()).all((1, 2, 3))
    assert 0.6 < stayed.mean() < 0.8
    assert np.array_equal(some[~stayed], whole[~stayed])
    later = (aug.augmented(images, keys(epoch=1), probability=0.3, **ALL).numpy() == images.numpy()).all((1, 2, 3))
    assert not np.array_equal(stayed, later), "drawn anew in each epoch"


def test_a_probability_alone_asks_for_nothing():
    assert changes({"rotation": 0.0, "probability": 0.5}, Order(40, 8, 5, 3, 0, 1, False)) is None


def test_sampling_between_points_is_bilinear_and_0_outside():
    image = tf.constant(np.arange(16, dtype="float32").reshape(1, 4, 4, 1))
    y, x = tf.constant([[[0.0, 1.5, 3.0, 9.0]]]), tf.constant([[[0.0, 2.25, 3.0, 1.0]]])
    assert aug.sampled(image, y, x).numpy().ravel().tolist() == [0.0, 8.25, 15.0, 0.0]


def test_a_cut_is_a_square_of_0_within_its_size(images):
    ones = tf.ones_like(images)
    holes = 1 - aug.cut_out(ones, keys(), share=0.4).numpy()[..., 0]
    rows, columns = holes.max(2).sum(1), holes.max(1).sum(1)
    assert max(rows.max(), columns.max()) <= 0.4 * SIDE + 1
    assert np.array_equal(holes.sum((1, 2)), rows * columns)
    assert rows.max() > 8


def test_noise_has_the_deviation_asked_for(images):
    found = (aug.gaussian_noise(images, keys(), stddev=0.3) - images).numpy()
    assert found.std() == pytest.approx(0.3, rel=0.02)
    assert abs(np.corrcoef(found[0].ravel(), found[1].ravel())[0, 1]) < 0.1


def test_mixing_takes_images_and_targets_alike(images):
    targets = tf.one_hot(tf.range(NUM) % 10, 10)
    mixed, soft = aug.mixup(images, targets, keys(), (images[::-1], targets[::-1]), most=0.4)
    part = (mixed - images).numpy()[:, 10, 10, 0] / (images[::-1] - images).numpy()[:, 10, 10, 0]
    assert np.nanmax(part) <= 0.4 + 1e-3
    assert soft.numpy().sum(1) == pytest.approx(np.ones(NUM))
    other = soft.numpy()[np.arange(NUM), (np.arange(NUM)[::-1]) % 10]
    assert other == pytest.approx(part, abs=1e-3)


def test_the_layer_changes_images_in_training_only_and_goes_through_its_configuration(images):
    layer = aug.Augment(rotation=20.0, noise=0.1, probability=0.5, seed=3)
    assert layer(images) is images
    first, second = layer(images, training=True), layer(images, training=True)
    assert not np.array_equal(first, second)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert np.array_equal(again(images, training=True), first), "the same seed begins anew"


def test_the_layer_trains_in_a_graph(images):
    model = keras.Sequential([keras.layers.Input((SIDE, SIDE, 1)), aug.Augment(**ALL), keras.layers.Flatten()])  # type: ignore[arg-type]
    model.add(keras.layers.Dense(1))
    model.compile("sgd", "mse")
    history = model.fit(images, np.zeros(NUM), epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


AUGMENTED = {"translation": 0.1, "rotation": 10.0, "noise": 0.05}


def seen_by(ranks, epoch, *, divide=False, size=40):
    """Return number -> image as the ranks of a world train on it in an epoch."""
    numbers = np.arange(size, dtype="float32")
    images = np.random.default_rng(0).random((size, 8, 8, 1), dtype="float32")
    found: dict = {}
    for rank in range(ranks):
        order = Order(size, 8, size // 8, 3, rank, ranks, divide)
        change = changes(AUGMENTED, order)
        batches = EpochBatches((images, numbers), order, change=change)
        batches.tell(epoch)
        for x, y in batches.dataset():
            found |= {(rank if divide else 0, int(number)): image for image, number in zip(x.numpy(), y, strict=True)}
    return found


@pytest.mark.parametrize("epoch", [0, 7])
def test_examples_are_changed_alike_on_any_number_of_ranks(epoch):
    alone = seen_by(1, epoch)
    assert len(alone) == 40
    for ranks in (2, 3):
        together = seen_by(ranks, epoch)
        assert together.keys() == alone.keys()
        assert all(np.allclose(image, alone[number], atol=1e-5) for number, image in together.items())


def test_every_epoch_and_with_divide_every_rank_has_its_own_draws():
    first, second = seen_by(1, 0), seen_by(1, 1)
    assert not any(np.array_equal(first[number], second[number]) for number in first)
    divided = seen_by(2, 0, divide=True)
    assert not any(np.array_equal(divided[0, number], divided[1, number]) for number in range(40))


@pytest.mark.parametrize("images", [np.zeros((4, 5)), np.zeros((4, 8, 8), "uint8"), {"a": np.zeros((4, 8, 8))}])
def test_what_is_no_image_is_refused(images):
    images = images if isinstance(images, dict) else tf.constant(images)
    with pytest.raises(UserCodeError, match=r"data\.augment needs images"):
        with_changes(images, keys(count=4), AUGMENTED)


def test_grey_images_without_channels_keep_their_shape():
    assert with_changes(tf.zeros((4, 8, 8)), keys(count=4), AUGMENTED).shape == (4, 8, 8)


def test_a_preview_is_a_picture_and_asks_for_an_augmentation(tmp_path):
    config = str(PROJECT / "configs" / "digits_cnn.yaml")
    command = [sys.executable, "-m", "hvdtrain", "augment", config, "--preview", "out.png"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "data.augment asks for nothing" in result.stderr
    assert not list(tmp_path.iterdir())
    nowhere = subprocess.run([*command[:-1], "no/out.png"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert nowhere.returncode == 2
    assert "no/out.png: there is no folder no" in nowhere.stderr
    command += ["--set", "data.augment.rotation=15"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
