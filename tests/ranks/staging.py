"""Cases about staging and files of a rank's own. Even and odd ranks play two nodes, each with its own disk."""

import contextlib
import filecmp
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import hvdtrain.keras as hk
from hvdtrain.train import stage_local, stage_stream
from hvdtrain.train.agree import agreed
from hvdtrain.train.comm import Comm
from hvdtrain.train.data import evaluation_part, origin
from hvdtrain.train.failure import exit_code
from hvdtrain.train.stage import stage

NUM_NODES = 2
BIG = 3_000_017  # bytes
NAMES = ["plain", "with space/a b", "line\nbreak", "umlaut/ü ж", os.fsdecode(b"no\xffutf8"), "empty", "[1]*?", "big"]


def make_source(comm: Comm, folder: Path) -> Path:
    """Write files with all kinds of names, and return their folder."""
    source = folder / "shared" / "data"
    if comm.rank == 0:
        (source / "empty folder").mkdir(parents=True)
        for number, name in enumerate(NAMES):
            size = BIG if name == "big" else 1000 * number
            content = np.random.default_rng(number).bytes(0 if name == "empty" else size)
            (source / name).parent.mkdir(exist_ok=True)
            (source / name).write_bytes(content)
    comm.gather_json("made", name="made")
    return source


@contextlib.contextmanager
def own_disk(comm: Comm, folder: Path) -> Iterator[Path]:
    """Give this rank the disk of its node, and make pieces so small that there are many rounds."""
    disk = folder / f"node {comm.rank % NUM_NODES}"
    disk.mkdir(exist_ok=True)
    before = stage_stream.PIECE_BYTES
    stage_stream.PIECE_BYTES = 2**19
    os.environ["OWN_DISK"] = str(disk)
    try:
        yield disk
    finally:
        stage_stream.PIECE_BYTES = before


def num_read() -> int:
    """Return the bytes that this process has read with system calls so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def is_same(left: Path, right: Path) -> bool:
    """Tell whether two folders hold the same."""
    found = filecmp.dircmp(left, right)
    files = filecmp.cmpfiles(left, right, found.common_files, shallow=False)
    return not (found.left_only or found.right_only or files[1] or files[2]) and all(
        is_same(left / name, right / name) for name in found.common_dirs
    )


def case_staging(comm: Comm, folder: Path) -> dict:
    source = make_source(comm, folder)
    said: list[str] = []
    with own_disk(comm, folder) as disk:
        before = num_read()
        copy = stage(source, comm, to="$OWN_DISK", say=said.append)
        read = num_read() - before
        same = is_same(source, copy)
        by_pattern = stage(str(source / "*i*"), comm, to="$OWN_DISK", say=said.append)
        one = stage(source / "big", comm, to="$OWN_DISK", say=said.append)
    return {
        "same": same,
        "read": read,
        "total": sum(file.stat().st_size for file in source.rglob("*") if file.is_file()),
        "is on own disk": copy.is_relative_to(disk),
        "by pattern": [place.relative_to(copy).name for place in by_pattern],
        "one": one == copy / "big" and one.stat().st_size == BIG,
        "said": said,
        "left": [place.name for place in disk.rglob("unfinished-*")],
    }


def case_staging_again(comm: Comm, folder: Path) -> dict:
    """Something has changed at the source, and one node has lost a file."""
    source = make_source(comm, folder)
    said: list[str] = []
    with own_disk(comm, folder):
        copy = stage(source, comm, to="$OWN_DISK", say=said.append)
        comm.gather_json("staged", name="staged")
        if comm.rank == 0:
            (source / "plain").write_bytes(b"other")
            (source / "line\nbreak").unlink()
            (source / "umlaut" / "new").write_bytes(b"new")
        if comm.rank == 1:
            (copy / "big").unlink()
        number = os.stat(copy / "with space/a b").st_ino
        comm.gather_json("changed", name="changed")
        again = stage(source, comm, to="$OWN_DISK", say=said.append)
        same = is_same(source, again)
        untouched = os.stat(again / "with space/a b").st_ino == number
    return {"same": same, "untouched": untouched, "place": again == copy, "said": said}


class Mischief(dict[str, str]):
    """An environment that does something on the way between finding files and reading them."""

    def __init__(self, do: Callable[[], Any]) -> None:
        super().__init__(os.environ)
        self._do = do

    def get(self, name: str, default: Any = None) -> Any:
        self._do()
        self._do = lambda: None
        return super().get(name, default)


def outcome(action: Callable[[], Any]) -> list:
    """Return the kind of error, its exit code and its text."""
    try:
        action()
    except Exception as error:
        return [type(error).__name__, exit_code(error), str(error)]
    return ["nothing was raised", 0, ""]


def case_staging_faults(comm: Comm, folder: Path) -> dict:
    """What goes wrong on one rank ends staging on all of them, and a second try works."""
    source = make_source(comm, folder)
    is_culprit = comm.rank == comm.size - 1

    def staged(do: Callable[[], Any] = lambda: None, path: Path = source) -> Any:
        environ = Mischief(do if is_culprit else lambda: None)
        return stage(path, comm, to="$OWN_DISK", environ=environ, say=lambda text: None)

    def limit_files(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def fail_before() -> Any:
        if is_culprit:
            raise ValueError("my data are bad")
        return staged()

    results: dict[str, Any] = {}
    with own_disk(comm, folder) as disk:
        results["missing"] = outcome(lambda: staged(path=source / "nowhere"))
        results["vanished"] = outcome(lambda: staged(lambda: (source / "big").rename(source.parent / "big")))
        comm.gather_json("back", name="back")
        if is_culprit:
            (source.parent / "big").rename(source / "big")
        comm.gather_json("there", name="there")
        results["changed"] = outcome(lambda: staged(lambda: (source / "big").write_bytes(bytes(BIG - 9))))
        results["full"] = outcome(lambda: staged(lambda: limit_files(100_000)))
        limit_files(resource.RLIM_INFINITY)
        results["other arguments"] = outcome(lambda: staged(path=source / ("big" if is_culprit else "plain")))
        results["failed before"] = outcome(lambda: agreed(comm, fail_before))
        results["not called"] = outcome(lambda: agreed(comm, lambda: None if is_culprit else staged()))
        results["no such disk"] = outcome(lambda: stage(source, comm, to="/dev/null/$OWN_DISK"))
        results["left"] = [place.name for place in disk.rglob("unfinished-*")]
        copy = staged()
        results["then"] = is_same(source, copy)
        stage(source, comm, to="$OWN_DISK", keep=False, say=lambda text: None)
        comm.gather_json("used", name="used")
        stage_local.leave()
        comm.gather_json("left", name="left")
        results["gone"] = not copy.exists()
    return results


def case_own_files(comm: Comm, folder: Path) -> dict:
    """Five files of records of very different length, one image of each number, and few images."""
    counts = (40, 3, 12, 7, 11)
    if comm.rank == 0:
        first = 0
        for number, count in enumerate(counts):
            with tf.io.TFRecordWriter(str(folder / f"{number}.tfrecord")) as writer:
                for value in range(first, first + count):
                    writer.write(str(value).encode())
            first += count
        for value in range(7):
            (folder / "images" / "ab"[value % 2]).mkdir(parents=True, exist_ok=True)
            image = tf.io.encode_png(np.full((2, 2, 1), value, np.uint8)).numpy()
            (folder / "images" / "ab"[value % 2] / f"{value}.png").write_bytes(image)
    comm.gather_json("written", name="written")

    def parse(records: Any) -> Any:
        values = tf.strings.to_number(records, tf.int64)
        return values, values

    data = hk.tfrecords(str(folder / "*.tfrecord"), parse, own_files=True)
    descriptors = [place for place in Path("/proc/self/fd").iterdir() if place.is_symlink()]
    opened = {os.path.basename(os.readlink(place)) for place in descriptors}
    batches = hk.shard(data, batch_size=4)
    epochs = []
    for epoch in (0, 1, 0):
        origin(batches).tell(epoch)
        epochs.append([x.numpy().tolist() for x, _ in batches])
    part = {"batch_size": 8, "rank": comm.rank, "size": comm.size}
    images = hk.image_folder(folder / "images", own_files=True)
    pixels = evaluation_part(images, **part).batches
    return {
        "opened": sorted(name for name in opened if name.endswith(".tfrecord")),
        "epochs": epochs,
        "evaluated": [int(value) for x, _ in evaluation_part(data, **part).batches for value in x],
        "images": [round(float(image[0, 0, 0]) * 255) for x, _ in pixels for image in x.numpy()],
        "labels": [int(label) for _, y in pixels for label in y],
        "few": outcome(lambda: hk.tfrecords(str(folder / "1.tfrecord"), parse, own_files=True)),
    }
