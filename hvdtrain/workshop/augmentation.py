"""What a picture may go through and stay the same thing: shifted, turned, scaled, noisy; and sheared, bent, cut, mixed.

Every function takes a batch of images and a key for each of them, and draws from nothing but the keys. Keys come from
the seed, the epoch and the example's number, so an example is changed in the same way on whichever rank it is, however
many ranks there are, and also after a resume:

```python
keys = keys_of(seed, epoch, numbers)
images = affine(images, keys, translation=0.1, rotation=15.0)
```

Images are float tensors (examples, height, width, channels); what comes from outside of them is 0.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

KNOTS = 4  # of an elastic field, along each side
GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio
STREAMS = {"affine": 0, "noise": 1, "elastic": 2, "cutout": 3, "mixup": 4, "mirror": 5, "change": 6}


# -- random numbers from keys -------------------------------------------------------------------


def keys_of(seed: Any, epoch: Any, numbers: Any) -> tf.Tensor:
    """Return a key for each example, uint64, shape of `numbers`: any change of seed, epoch or number gives another one.

    Args:
        seed: Of the run.
        epoch: From 0.
        numbers: Of the examples, int64.
    """
    key = mixed(tf.cast(seed, tf.uint64) + tf.constant(GOLDEN, tf.uint64))
    key = mixed(key + tf.cast(epoch, tf.uint64))
    return mixed(key + tf.cast(numbers, tf.uint64))


def uniform(keys: tf.Tensor, stream: int, *shape: int) -> tf.Tensor:
    """Return numbers from 0 to below 1 for each key, float32, (keys, *shape).

    Args:
        keys: From `keys_of`, shape (n,).
        stream: Another one gives independent numbers for the same keys.
        shape: Of one key's numbers.
    """
    golden = tf.constant(GOLDEN, tf.uint64)
    counters = tf.reshape(tf.range(math.prod(shape), dtype=tf.int64), (1, *shape))
    counters = tf.cast(counters, tf.uint64) * golden + tf.constant((stream + 1) << 32, tf.uint64)
    bits = mixed(mixed(tf.reshape(keys, (-1, *[1] * len(shape)))) + counters)
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(40, tf.uint64)), tf.float32) * 2.0**-24


def normal(keys: tf.Tensor, stream: int, *shape: int) -> tf.Tensor:
    """Return normally distributed numbers for each key, float32, (keys, *shape); Box and Muller 1958."""
    both = uniform(keys, stream, 2, *shape)
    radius = tf.sqrt(-2.0 * tf.math.log1p(-both[:, 0]))
    return radius * tf.cos(2 * math.pi * both[:, 1])


def mixed(bits: tf.Tensor) -> tf.Tensor:
    """Return 64 bits that depend on all 64 bits given; splitmix64 of Steele, Lea and Flood 2014."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        bits = tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, tf.constant(shift, tf.uint64)))
        bits *= tf.constant(factor, tf.uint64)
    return bits


# -- where a picture is -------------------------------------------------------------------------


def affine(
    images: tf.Tensor,
    keys: tf.Tensor,
    *,
    translation: float = 0.0,
    rotation: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
) -> tf.Tensor:
    """Return images that were scaled, sheared, turned and shifted, with one resampling (bilinear).

    Args:
        images: The batch.
        keys: One per image.
        translation: Largest shift either way, as a share of the side.
        rotation: Largest angle either way, degrees.
        scale: Largest change of size either way, as a share: 0.1 is 0.9 to 1.1 times.
        shear: Largest angle of the slant either way, degrees.
    """
    height, width = images.shape[1], images.shape[2]
    moves = _moves(height, width, keys, translation, rotation, scale, shear)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.pad(moves, ((0, 0), (0, 2))),
        output_shape=tf.constant((height, width)),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )


def _moves(
    height: int, width: int, keys: tf.Tensor, translation: float, rotation: float, scale: float, shear: float
) -> tf.Tensor:
    """Return for each key (a, b, e, c, d, f): what is at (x, y) comes from (ax + by + e, cx + dy + f)."""
    drawn = 2 * uniform(keys, STREAMS["affine"], 5) - 1
    angle, slant = drawn[:, 0] * math.radians(rotation), tf.tan(drawn[:, 1] * math.radians(shear))
    size = 1 + scale * drawn[:, 2]
    shift_x, shift_y = drawn[:, 3] * translation * width, drawn[:, 4] * translation * height
    # Around the middle.
    cosine, sine = tf.cos(angle) / size, tf.sin(angle) / size
    a, b = cosine, sine + slant * cosine
    c, d = -sine, cosine - slant * sine
    x, y = (width - 1) / 2 + shift_x, (height - 1) / 2 + shift_y
    return tf.stack([a, b, (width - 1) / 2 - a * x - b * y, c, d, (height - 1) / 2 - c * x - d * y], 1)


def mirrored(images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """Return images of which half, drawn by their keys, have left and right exchanged."""
    is_mirrored = uniform(keys, STREAMS["mirror"]) < 0.5
    return tf.where(is_mirrored[:, None, None, None], images[:, :, ::-1], images)


def elastic_deformation(
    images: tf.Tensor,
    keys: tf.Tensor,
    *,
    strength: float,
    translation: float = 0.0,
    rotation: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
) -> tf.Tensor:
    """Return images that were bent, as handwriting is (Simard et al. 2003, with a smooth field from few knots).

    Before that they may be moved as by `affine`: in the same resampling, since every one blurs.

    Args:
        images: The batch.
        keys: One per image.
        strength: Standard deviation of the knots' shift, in points; there are KNOTS along each side.
        translation: As `affine`.
        rotation: As `affine`.
        scale: As `affine`.
        shear: As `affine`.
    """
    height, width = images.shape[1], images.shape[2]
    field = strength * normal(keys, STREAMS["elastic"], KNOTS, KNOTS, 2)
    field = tf.image.resize(field, (height, width), method="bicubic")
    y, x = tf.meshgrid(tf.range(height, dtype=tf.float32), tf.range(width, dtype=tf.float32), indexing="ij")
    y, x = y + field[..., 0], x + field[..., 1]
    moves = _moves(height, width, keys, translation, rotation, scale, shear)[:, :, None, None]
    a, b, e, c, d, f = tf.unstack(moves, axis=1)
    return sampled(images, c * x + d * y + f, a * x + b * y + e)


def sampled(images: tf.Tensor, y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Return the images' values at points between theirs, bilinear; y and x have shape (examples, height, width)."""
    padded = tf.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = tf.clip_by_value(y + 1, 0.0, images.shape[1] + 1.0)
    x = tf.clip_by_value(x + 1, 0.0, images.shape[2] + 1.0)
    top, left = tf.minimum(tf.floor(y), float(images.shape[1])), tf.minimum(tf.floor(x), float(images.shape[2]))
    down, right = (tf.cast(part[..., None], images.dtype) for part in (y - top, x - left))
    row, column = tf.cast(top, tf.int32), tf.cast(left, tf.int32)

    def at(below: int, beside: int) -> tf.Tensor:
        return tf.gather_nd(padded, tf.stack([row + below, column + beside], -1), batch_dims=1)

    upper = at(0, 0) * (1 - right) + at(0, 1) * right
    lower = at(1, 0) * (1 - right) + at(1, 1) * right
    return upper * (1 - down) + lower * down


# -- what is in it ------------------------------------------------------------------------------


def gaussian_noise(images: tf.Tensor, keys: tf.Tensor, *, stddev: float) -> tf.Tensor:
    """Return images with normally distributed noise of this standard deviation in every value."""
    return images + tf.cast(stddev * normal(keys, STREAMS["noise"], *images.shape[1:]), images.dtype)


def cut_out(images: tf.Tensor, keys: tf.Tensor, *, share: float) -> tf.Tensor:
    """Return images with a square of 0 somewhere, up to this share of the side long (DeVries and Taylor 2017)."""
    height, width = images.shape[1], images.shape[2]
    drawn = uniform(keys, STREAMS["cutout"], 3)[:, :, None, None]
    half = drawn[:, 0] * share / 2
    y = (tf.range(height, dtype=tf.float32) + 0.5)[None, :, None] / height - drawn[:, 1]
    x = (tf.range(width, dtype=tf.float32) + 0.5)[None, None, :] / width - drawn[:, 2]
    is_cut = (tf.abs(y) < half) & (tf.abs(x) < half)
    return tf.where(is_cut[..., None], tf.zeros((), images.dtype), images)


def mixup(
    images: tf.Tensor, targets: tf.Tensor, keys: tf.Tensor, others: tuple[tf.Tensor, tf.Tensor], *, most: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return images and targets with a part of other ones mixed in (Zhang et al. 2018, with an even distribution).

    Args:
        images: The batch.
        targets: Probabilities of classes, (examples, classes).
        keys: One per image.
        others: Images and targets to mix in.
        most: Largest part of the other one, 0 to 0.5.
    """
    part = most * uniform(keys, STREAMS["mixup"])

    def mix(mine: tf.Tensor, theirs: tf.Tensor) -> tf.Tensor:
        weight = tf.cast(tf.reshape(part, (-1, *[1] * (len(mine.shape) - 1))), mine.dtype)
        return mine + weight * (theirs - mine)

    return mix(images, others[0]), mix(targets, others[1])


# -- as a layer ---------------------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="hvdtrain")
class Augment(keras.layers.Layer):
    """The same within a model, in training only. Its keys come from Keras's generator, other ones on each rank.

    Args:
        translation: As `affine`.
        rotation: As `affine`.
        scale: As `affine`.
        shear: As `affine`.
        elastic: `strength` of `elastic_deformation`.
        cutout: `share` of `cut_out`.
        noise: `stddev` of `gaussian_noise`.
        mirror: Whether `mirrored`.
        probability: That an image is changed at all.
        seed: Of the generator.
    """

    def __init__(
        self,
        *,
        translation: float = 0.0,
        rotation: float = 0.0,
        scale: float = 0.0,
        shear: float = 0.0,
        elastic: float = 0.0,
        cutout: float = 0.0,
        noise: float = 0.0,
        mirror: bool = False,
        probability: float = 1.0,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.where = {"translation": translation, "rotation": rotation, "scale": scale, "shear": shear}
        self.what = {"elastic": elastic, "cutout": cutout, "noise": noise, "mirror": mirror}
        self.probability = probability
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any, training: bool = False) -> Any:
        """Change the images, in training."""
        if not training:
            return images
        seed = tf.cast(keras.ops.convert_to_tensor(self.generator.next()), tf.int64)
        keys = keys_of(seed[0], seed[1], tf.range(tf.shape(images, tf.int64)[0]))
        return augmented(images, keys, **self.where, **self.what, probability=self.probability)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Leave the shape as it is."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        own = {"probability": self.probability, "seed": self.seed}
        return {**super().get_config(), **self.where, **self.what, **own}


def augmented(
    images: tf.Tensor,
    keys: tf.Tensor,
    *,
    elastic: float = 0.0,
    cutout: float = 0.0,
    noise: float = 0.0,
    mirror: float = False,
    probability: float = 1.0,
    **where: float,
) -> tf.Tensor:
    """Return images after everything that is asked for, in this order: mirrored, moved, bent, cut, noisy.

    Args:
        images: The batch.
        keys: One per image.
        elastic: `strength` of `elastic_deformation`.
        cutout: `share` of `cut_out`.
        noise: `stddev` of `gaussian_noise`.
        mirror: Whether `mirrored`.
        probability: That an image is changed at all. Resampled images are a little blurred: a network that sees no
            others may do worse on sharp ones.
        where: Of `affine`.
    """
    original = images
    if mirror:
        images = mirrored(images, keys)
    if elastic:
        images = elastic_deformation(images, keys, strength=elastic, **where)
    elif any(where.values()):
        images = affine(images, keys, **where)
    if cutout:
        images = cut_out(images, keys, share=cutout)
    if noise:
        images = gaussian_noise(images, keys, stddev=noise)
    if probability == 1:
        return images
    is_changed = uniform(keys, STREAMS["change"]) < probability
    return tf.where(is_changed[:, None, None, None], images, original)
