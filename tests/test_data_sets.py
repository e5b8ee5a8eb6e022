"""The exercise data sets: read as Keras reads them, refused where they are something else, stood in for and marked."""

import gzip
import importlib
import io
import os
import pickle
import tarfile

import numpy as np
import pytest
from sklearn.datasets import load_digits

from hvdtrain.config_file import load_config
from hvdtrain.data_files import DATA_SETS
from hvdtrain.errors import UserCodeError
from hvdtrain.jobs import success_text
from hvdtrain.known_data import known_num_examples
from hvdtrain.rundir import RunDir
from hvdtrain.workshop import data, made_up
from hvdtrain.workshop.data import grey
from hvdtrain.workshop.stand_in import StandIn
from tests.conftest import PROJECT, missing

EXERCISES = sorted((PROJECT / "configs" / "exercises").glob("*.yaml"))
NAMES = [name for name in DATA_SETS if name != "mnist"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder of data sets, without a network."""
    monkeypatch.setenv("HVDTRAIN_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HVDTRAIN_DATA_MIRROR", "http://127.0.0.1:9")
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


# -- real files, as small as they may be --------------------------------------------------------


def write_npz(folder, name, **arrays):
    np.savez(folder / f"{name}.npz", **arrays)


def write_texts(folder):
    random = np.random.default_rng(1)

    def some(count):
        rows = np.empty(count, object)
        rows[:] = [random.integers(1, 300, size=random.integers(1, 30)).tolist() for _ in range(count)]
        return rows

    labels = random.integers(2, size=20)
    write_npz(folder, "imdb", x_train=some(20), y_train=labels, x_test=some(11), y_test=labels[:11])
    write_npz(folder, "reuters", x=some(31), y=random.integers(46, size=31))


def write_houses(folder):
    random = np.random.default_rng(2)
    write_npz(folder, "boston_housing", x=random.normal(3, 5, (31, 13)), y=random.uniform(5, 50, 31))
    x, y = random.normal(3, 5, (31, 8)), random.uniform(1e4, 5e5, 31)
    write_npz(folder, "california_housing", x=x.astype("float32"), y=y.astype("float32"))


def write_clothes(folder):
    random = np.random.default_rng(3)
    (folder / "fashion-mnist").mkdir()
    for part, count in (("train", 7), ("t10k", 5)):
        images = random.integers(256, size=(count, 28, 28), dtype=np.uint8)
        labels = random.integers(10, size=count, dtype=np.uint8)
        for name, array, header in (("images-idx3", images, 16), ("labels-idx1", labels, 8)):
            with gzip.open(folder / "fashion-mnist" / f"{part}-{name}-ubyte.gz", "wb") as file:
                file.write(bytes(header) + array.tobytes())


def cifar_part(count, seed, labels):
    random = np.random.default_rng(seed)
    pixels = random.integers(256, size=(count, 3072), dtype=np.uint8)
    drawn = {name.encode(): random.integers(most, size=count).tolist() for name, most in labels.items()}
    return pickle.dumps({b"data": pixels, **drawn})


def write_cifar(folder, name, parts):
    """Write an archive as Keras's cache names it, and what it unpacks to."""
    inner = "cifar-10-batches-py" if name == "cifar10" else "cifar-100-python"
    (folder / f"{inner}-target" / inner).mkdir(parents=True)
    with tarfile.open(folder / f"{inner}-target_archive", "w:gz") as archive:
        for part, content in parts.items():
            member = tarfile.TarInfo(f"{inner}/{part}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
            (folder / f"{inner}-target" / inner / part).write_bytes(content)


FINE_AND_COARSE = {"fine_labels": 100, "coarse_labels": 20}


def test_they_are_what_kerass_own_loaders_return(folder, monkeypatch):
    write_texts(folder)
    write_houses(folder)
    write_clothes(folder)
    parts = {"train": cifar_part(9, 4, FINE_AND_COARSE), "test": cifar_part(5, 5, FINE_AND_COARSE)}
    write_cifar(folder, "cifar100", parts)

    def cached(fname=None, origin=None, cache_subdir="datasets", **options):
        return str(folder / cache_subdir.removeprefix("datasets").strip("/") / fname)

    def of_keras(name, **arguments):
        module = importlib.import_module(f"keras.src.datasets.{name}")
        monkeypatch.setattr(module, "get_file", cached)
        return module.load_data(**arguments)

    def same(ours, theirs, tolerance=0.0):
        for (x, y), (their_x, their_y) in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(x, their_x, atol=tolerance)
            np.testing.assert_array_equal(y, np.reshape(their_y, -1))

    keras = importlib.import_module("keras")
    for name in ("imdb", "reuters"):
        (x, y), (x_test, y_test) = of_keras(name, num_words=200)
        theirs = (keras.utils.pad_sequences(x, 12), y), (keras.utils.pad_sequences(x_test, 12), y_test)
        same(getattr(data, name)(num_words=200, length=12), theirs)
    (x, y), (x_test, y_test) = of_keras("fashion_mnist")
    same(data.fashion_mnist(), ((x[..., None] / 255, y), (x_test[..., None] / 255, y_test)), 1e-7)
    for labels in ("fine", "coarse"):
        (x, y), (x_test, y_test) = of_keras("cifar100", label_mode=labels)
        same(data.cifar100(labels), ((x / 255, y), (x_test / 255, y_test)), 1e-7)
    for name, dollars in (("boston_housing", 1), ("california_housing", 1000)):
        (x, y), (x_test, y_test) = of_keras(name)
        scaled = [(one - x.mean(0)) / x.std(0) for one in (x, x_test)]
        (our_x, our_y), (our_x_test, our_y_test) = getattr(data, name)()
        np.testing.assert_allclose(our_x, scaled[0], atol=1e-5)
        np.testing.assert_allclose(our_x_test, scaled[1], atol=1e-5)
        np.testing.assert_allclose(our_y, y / dollars, rtol=1e-6)
        np.testing.assert_allclose(our_y_test, y_test / dollars, rtol=1e-6)
        assert abs(our_x_test.mean()) > 0.01, "a test set has no say in how it is scaled"
        np.testing.assert_allclose(getattr(data, f"{name}_inputs")(x_test), our_x_test, atol=1e-5)


def test_cifar10_is_put_together_from_its_parts(folder):
    names = [f"data_batch_{number}" for number in range(1, 6)]
    parts = {name: cifar_part(2, seed, {"labels": 10}) for seed, name in enumerate([*names, "test_batch"])}
    write_cifar(folder, "cifar10", parts)
    (x, y), (x_test, _) = from_archive = data.cifar10(stand_in="never")
    third = pickle.loads(parts["data_batch_3"])
    assert y[4:6].tolist() == third[b"labels"]
    np.testing.assert_allclose(x[4, 1, 2], third[b"data"][0].reshape(3, 32, 32)[:, 1, 2] / 255, rtol=1e-6)
    assert [x.shape, x_test.shape] == [(10, 32, 32, 3), (2, 32, 32, 3)]
    (folder / "cifar-10-batches-py-target_archive").unlink()
    np.testing.assert_array_equal(data.cifar10()[0][0], from_archive[0][0])


class Harmful:
    def __reduce__(self):
        return (os.mkdir, ("harm",))


def test_a_pickle_that_does_more_than_hold_arrays_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = np.empty(1, object)
    rows[0] = Harmful()
    write_npz(folder, "reuters", x=rows, y=np.zeros(1))
    with pytest.raises(UserCodeError, match=r"reuters\.npz is not reuters .*it wants to run posix\.mkdir"):
        data.reuters()
    assert not (tmp_path / "harm").exists()


def test_a_file_that_is_something_else_is_named(folder):
    (folder / "boston_housing.npz").write_bytes(b"<html>please log in</html>")
    with pytest.raises(UserCodeError, match=r"boston_housing\.npz is not boston_housing in Keras's layout"):
        data.boston_housing()


def test_the_real_boston_housing_has_its_published_numbers(monkeypatch):
    here = os.environ.get("HVDTRAIN_DATA", "")
    if not os.path.isfile(os.path.join(here, "boston_housing.npz")):
        missing("data", "boston_housing.npz is not in $HVDTRAIN_DATA")
    (x, y), (x_test, y_test) = data.boston_housing(stand_in="never")
    assert [x.shape, x_test.shape] == [(404, 13), (102, 13)]
    np.testing.assert_allclose(x.std(0), 1, atol=1e-5)
    assert (y.min(), y.max()) == (5, 50), "1000 dollars, cut off at 50"
    assert y_test[0] == pytest.approx(7.2)


# -- stand-ins ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_stand_in_has_the_form_of_the_real_data_and_is_marked(folder, name):
    split = getattr(data, name)()
    assert isinstance(split, StandIn)
    assert split.name == name
    assert "127.0.0.1:9" in split.why or "log in" in split.why
    (x, y), (x_test, y_test) = split
    assert len(x) == len(y) == known_num_examples(f"hvdtrain.workshop.data:{name}", {})
    assert len(x_test) == len(y_test)
    assert x.shape[1:] == x_test.shape[1:]
    if name in ("imdb", "reuters"):
        assert x.dtype == np.int32
        assert (x.min(), x.max()) == (0, (20_000 if name == "imdb" else 10_000) - 1)
    else:
        assert x.dtype == np.float32
    if not name.endswith("housing"):
        kinds = {"imdb": 2, "reuters": 46, "cifar100": 100}.get(name, 10)
        assert np.unique(y).tolist() == np.unique(y_test).tolist() == list(range(kinds))


def test_a_stand_in_is_the_same_on_every_rank():
    for one, other in zip(made_up.pictures(9, 2, (8, 8, 1), 3), made_up.pictures(9, 2, (8, 8, 1), 3), strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_stand_ins_can_be_learned():
    (x, y), (x_test, y_test) = made_up.pictures(2000, 500, (32, 32, 3), 10)
    means = np.stack([x[y == kind].mean(0) for kind in range(10)])
    nearest = ((x_test[:, None] - means) ** 2).sum((2, 3, 4)).argmin(1)
    assert (nearest == y_test).mean() > 0.8
    (x, y), (x_test, y_test) = made_up.texts(2000, 500, num_classes=4, num_words=500, length=60)
    counts = np.stack([np.bincount(x[y == kind].ravel(), minlength=500) for kind in range(4)]) + 1
    likely = np.log(counts / counts.sum(1, keepdims=True))[:, x_test].sum(2).argmax(0)
    assert (likely == y_test).mean() > 0.8
    (x, y), (x_test, y_test) = made_up.houses(2000, 500, 8, typical_price=200)
    weights = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
    off = np.abs(np.c_[x_test, np.ones(len(x_test))] @ weights - y_test).mean()
    assert off < 0.6 * np.abs(y_test - y.mean()).mean()


def test_a_stand_in_can_be_refused_and_asked_for(folder):
    with pytest.raises(UserCodeError, match=r"reuters is not at hand, and stand_in is never: .*data fetch"):
        data.reuters(stand_in="never")
    with pytest.raises(UserCodeError, match="must be one of allowed, never, always; got 'nevr'; did you mean 'never'"):
        data.imdb(stand_in="nevr")
    write_texts(folder)
    assert not isinstance(data.reuters(), StandIn)
    assert isinstance(data.reuters(stand_in="always"), StandIn)


def test_few_examples_of_a_stand_in_are_still_one(folder):
    split = data.fashion_mnist(examples_per_class=3)
    assert isinstance(split, StandIn)
    assert np.bincount(split[0][1]).tolist() == [3] * 10
    assert known_num_examples("hvdtrain.workshop.data:fashion_mnist", {"examples_per_class": 3}) == 30


def test_a_run_on_a_stand_in_ends_with_that_word(tmp_path):
    (tmp_path / "summary.json").write_text('{"metrics": {"val_accuracy": 0.99}, "epochs": 1, "stand_in_for": "imdb"}')
    assert "NOT REAL:    trained and tested on made-up data that stand in for imdb" in success_text(RunDir(tmp_path))
    (tmp_path / "summary.json").write_text('{"metrics": {"val_accuracy": 0.99}, "epochs": 1, "stand_in_for": null}')
    assert "NOT REAL" not in success_text(RunDir(tmp_path))


# -- configurations -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXERCISES, ids=lambda path: path.stem)
def test_every_exercise_says_what_to_expect_and_where_the_data_are(path):
    comment = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert "Expect" in comment or "Measured" in comment
    assert "stand_in=never" in comment
    config = load_config(path)
    assert config.name == path.stem
    assert config.data.source == f"hvdtrain.workshop.data:{path.stem}"
    assert known_num_examples(config.data.source, config.data.args)


def test_there_is_an_exercise_for_every_data_set():
    assert [path.stem for path in EXERCISES] == sorted(NAMES)


def test_the_digits_are_scikit_learns():
    x, y = grey.read_digits()
    found = load_digits()
    np.testing.assert_array_equal(x[..., 0], (found.images / 16.0).astype(np.float32))
    np.testing.assert_array_equal(y, found.target)


# -- Kaggle's file ------------------------------------------------------------------------------

HEADER = "label," + ",".join(f"pixel{number}" for number in range(784))
ROWS = [[kind, *(17 * (kind + place) % 256 for place in range(784))] for kind in range(6)]


def kaggle_file(path, *, header=HEADER, rows=ROWS, end="\n"):
    path.write_text(end.join([header, *(",".join(map(str, row)) for row in rows)]) + end, newline="")
    return str(path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"[:1]])
def test_kaggles_digits_are_read_and_some_are_held_out(tmp_path, end):
    (x, y), (x_test, y_test) = data.digit_recognizer(kaggle_file(tmp_path / "train.csv", end=end), held_out=2)
    assert (x.shape, x_test.shape) == ((4, 28, 28, 1), (2, 28, 28, 1))
    assert sorted([*y, *y_test]) == list(range(6))
    for image, kind in zip([*x, *x_test], [*y, *y_test], strict=True):
        np.testing.assert_allclose(255 * image.ravel(), ROWS[kind][1:], atol=1e-4)
    np.testing.assert_array_equal(data.digit_recognizer_inputs(np.array(ROWS)[y, 1:]), x)


def changed(row, column, value):
    return [[value if (r, c) == (row, column) else old for c, old in enumerate(line)] for r, line in enumerate(ROWS)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"header": HEADER.removeprefix("label,"), "rows": [row[1:] for row in ROWS]}, r":1: .*this is test\.csv"),
        ({"header": HEADER.replace("pixel7,", "pixl7,")}, r":1: the header must be .* column 9 is 'pixl7', not"),
        ({"rows": changed(2, 0, 10)}, r":4: the label must be 0 to 9"),
        ({"rows": changed(2, 0, 1.5)}, r":4: the label must be 0 to 9"),
        ({"rows": changed(3, 700, 256)}, r":5: pixels must be 0 to 255"),
        ({"rows": changed(5, 9, "x")}, r":7: value 10 must be a number; got 'x'"),
        ({"rows": changed(1, 9, "nan")}, r":3: holds NaN or infinity"),
        ({"rows": [*ROWS, ROWS[0][:-1]]}, r":8: has 784 values, the first line has 785"),
        ({"rows": [*ROWS, [], ROWS[0]]}, r":8: is an empty line between rows"),
        ({"rows": []}, r"has a header and no rows"),
        ({"header": ""}, r":2: the header must be label,pixel0,...,pixel783; there are 785 columns"),
        ({"rows": ROWS[:2]}, r"held_out must be 1 to 1, as .* has 2 rows; got 2"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_kaggles_file_is_said_with_its_line(tmp_path, change, said):
    with pytest.raises(UserCodeError, match=said):
        data.digit_recognizer(kaggle_file(tmp_path / "train.csv", **change), held_out=2)


def test_a_file_that_is_named_must_be_there(tmp_path):
    with pytest.raises(UserCodeError, match=r"absent\.csv: cannot be read"):
        data.digit_recognizer(str(tmp_path / "absent.csv"))
