"""The data sets that hvdtrain knows: what they are, their files as Keras's cache has them, their checksums. Pure."""

from __future__ import annotations

from dataclasses import dataclass

KERAS_DATA = "https://storage.googleapis.com/tensorflow/tf-keras-datasets"
CIFAR_DATA = "https://www.cs.toronto.edu/~kriz"


@dataclass(frozen=True)
class DataFile:
    """A file of a data set.

    Args:
        file: Its place below the folder of data sets, the same as in Keras's cache.
        address: Where it is downloaded from.
        checksum: SHA-256 of its content; or MD5, where its makers publish no other.
    """

    file: str
    address: str
    checksum: str

    @property
    def algorithm(self) -> str:
        """The checksum's name, as `hashlib` has it."""
        return "md5" if len(self.checksum) == 32 else "sha256"


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Args:
        text: What it is, for people.
        files: What it consists of.
        others: Where it is found too, below the folder of data sets: as its makers pack it, or unpacked.
        log_in: Page on which people get it by hand; it cannot be downloaded without an account.
    """

    text: str
    files: tuple[DataFile, ...]
    others: tuple[str, ...] = ()
    log_in: str = ""


def _of_keras(file: str, checksum: str, folder: str = "") -> DataFile:
    return DataFile(folder + file, f"{KERAS_DATA}/{file}", checksum)


def _of_cifar(file: str, packed: str, checksum: str) -> DataFile:
    return DataFile(file, f"{CIFAR_DATA}/{packed}", checksum)


# Names and checksums are those of keras.datasets. Keras checks nothing of Fashion-MNIST: these MD5 are its makers'
# (github.com/zalandoresearch/fashion-mnist).
DATA_SETS = {
    "mnist": DataSet(
        "70,000 handwritten digits, 28 x 28 (11 MB)",
        (_of_keras("mnist.npz", "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"),),
    ),
    "fashion_mnist": DataSet(
        "70,000 pieces of clothing, 28 x 28 (31 MB)",
        (
            _of_keras("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", "fashion-mnist/"),
            _of_keras("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe", "fashion-mnist/"),
            _of_keras("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79", "fashion-mnist/"),
            _of_keras("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310", "fashion-mnist/"),
        ),
    ),
    "cifar10": DataSet(
        "60,000 colour pictures of 10 kinds, 32 x 32 (170 MB)",
        (
            _of_cifar(
                "cifar-10-batches-py-target_archive",
                "cifar-10-python.tar.gz",
                "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            ),
        ),
        ("cifar-10-python.tar.gz", "cifar-10-batches-py-target/cifar-10-batches-py", "cifar-10-batches-py"),
    ),
    "cifar100": DataSet(
        "60,000 colour pictures of 100 kinds in 20 groups, 32 x 32 (169 MB)",
        (
            _of_cifar(
                "cifar-100-python-target_archive",
                "cifar-100-python.tar.gz",
                "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            ),
        ),
        ("cifar-100-python.tar.gz", "cifar-100-python-target/cifar-100-python", "cifar-100-python"),
    ),
    "boston_housing": DataSet(
        "506 house prices with 13 features (57 kB)",
        (_of_keras("boston_housing.npz", "f553886a1f8d56431e820c5b82552d9d95cfcb96d1e678153f8839538947dff5"),),
    ),
    "california_housing": DataSet(
        "20,640 house prices with 8 features (1 MB)",
        (_of_keras("california_housing.npz", "1a2e3a52e0398de6463aebe6f4a8da34fb21fbb6b934cf88c3425e766f2a1a6f"),),
    ),
    "imdb": DataSet(
        "50,000 film reviews, for or against (17 MB)",
        (_of_keras("imdb.npz", "69664113be75683a8fe16e3ed0ab59fda8886cb3cd7ada244f7d9544e4676b9f"),),
    ),
    "reuters": DataSet(
        "11,228 newswires on 46 topics (2 MB)",
        (_of_keras("reuters.npz", "d6586e694ee56d7a4e65172e12b3e987c03096cb01eab99753921ef915959916"),),
    ),
    "digit_recognizer": DataSet(
        "Kaggle's 42,000 handwritten digits as CSV (73 MB)",
        (DataFile("digit-recognizer/train.csv", "", ""),),
        log_in="https://www.kaggle.com/competitions/digit-recognizer/data",
    ),
}
