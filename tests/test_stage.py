"""Staging: what is read by whom, on two nodes that are folders, with 2 to 4 real ranks; and its parts alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from hvdtrain.config import Config
from hvdtrain.errors import ConfigError, CorruptError, ExitCode, NoSpaceError, UserCodeError
from hvdtrain.train import stage_local
from hvdtrain.train.stage_local import LocalCopy, digest, disk_folder, job_folder
from hvdtrain.train.stage_source import Listing, Reader, SourceFile, find
from hvdtrain.train.stage_stream import Segment, Stream, nodes_of, piece_bytes, receivers
from tests.ranks.staging import NUM_NODES
from tests.ranks.worlds import all_equal

# -- on real ranks ------------------------------------------------------------------------------


@pytest.mark.core
def test_every_node_gets_everything_and_each_byte_is_read_once(results):
    values = results.of("staging")
    total = values[0]["total"]
    for value in values:
        assert value["same"]
        assert value["is on own disk"]
        assert value["one"]
        assert value["by pattern"] == sorted(value["by pattern"])
        assert len(value["by pattern"]) == 3
        assert value["left"] == []
    # The source once, and what each node has written once more, to check it.
    assert 1 <= sum(value["read"] for value in values) / (total * (1 + NUM_NODES)) < 1.1
    assert values[0]["said"][0].count("8 files") == 1
    assert f"on {NUM_NODES} nodes" in values[0]["said"][0]
    assert "1 files were there already" in values[0]["said"][2]
    assert all(value["said"] == [] for value in values[1:])


@pytest.mark.core
def test_only_what_is_not_there_is_read_again(results):
    values = results.of("staging_again")
    assert all(value["same"] and value["untouched"] and value["place"] for value in values)
    assert "3 files" in values[0]["said"][1], "the changed one, the new one, and the one a node had lost"
    assert "5 files were there already" in values[0]["said"][1]


@pytest.mark.core
@pytest.mark.parametrize(
    ("fault", "kind", "code", "words"),
    [
        ("vanished", "UserCodeError", 2, "No such file"),
        ("changed", "HvdtrainError", 2, "changed while it was being staged"),
        ("full", "NoSpaceError", 73, "File too large"),
        ("failed before", "ValueError", 1, "my data are bad"),
    ],
)
def test_what_one_rank_meets_ends_staging_on_all(results, fault, kind, code, words):
    found = [value[fault] for value in results.of("staging_faults")]
    first = [one for one in found if one[0] == kind]
    assert first
    assert all(words in text for _, _, text in first)
    assert all(one in first or one[0] == "PeerFailedError" for one in found)
    assert {one[1] for one in first} == {code}
    assert {one[1] for one in found} <= {code, ExitCode.RANK_LOST if code == 1 else code}


@pytest.mark.core
def test_ranks_that_differ_are_told_on_all_ranks(results):
    values = results.of("staging_faults")
    for fault in ("other arguments", "not called"):
        assert all_equal([value[fault] for value in values])
        assert "every rank must make the same calls" in values[0][fault][2]
    assert values[0]["missing"][2].endswith("nowhere: cannot be staged: No such file or directory")
    assert "no folder that can be written to" in values[0]["no such disk"][2]
    assert all(value["left"] == [] and value["then"] and value["gone"] for value in values)


# -- in a configuration -------------------------------------------------------------------------

CODE = """
import keras
import numpy as np
import tensorflow as tf
import hvdtrain.keras as hk


def parse(records):
    values = tf.strings.to_number(records, tf.float32)
    return values[:, None], tf.cast(values > 30, tf.int64)


def load(folder, test):
    print("reads", folder, test)
    return hk.tfrecords(f"{folder}/*.tfrecord", parse, own_files=True), hk.tfrecords(test, parse, own_files=True)


def build():
    return keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(2, activation="softmax")])
"""


def test_a_run_reads_the_copies_of_the_paths_that_are_named(tmp_path: Path, require_horovod: None):
    shared = tmp_path / "shared"
    (shared / "train").mkdir(parents=True)
    values = np.arange(64)
    for name, part in {"train/a": values[:40], "train/b": values[40:60], "test": values, "test b": values}.items():
        with tf.io.TFRecordWriter(str(shared / f"{name}.tfrecord")) as writer:
            for value in part:
                writer.write(str(value).encode())
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "disk").mkdir()
    config = {
        "name": "staged",
        "model": {"source": "mine:build"},
        "data": {
            "source": "mine:load",
            "args": {"folder": str(shared / "train"), "test": str(shared / "test*")},
            "num_examples": 60,
            "stage": {"args": ["folder", "test"], "to": str(tmp_path / "disk"), "keep": False},
        },
        "training": {"epochs": 2, "batch_size_per_replica": 4},
        "launch": {"num_ranks": 2},
    }
    (tmp_path / "mine.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-m", "hvdtrain", "run", "mine.yaml"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    assert f"staged {shared}/train: 2 files" in said
    assert f"staged {shared}: 2 files" in said
    assert "own files: ranks have 20 to 40 examples and use 28 in each epoch; up to 8 are used twice" in said
    assert f"reads {tmp_path}/disk/hvdtrain-" in said
    assert list((tmp_path / "disk").iterdir()) == [], "the copies are not to stay"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"floder": "x"}, "data.args has no 'folder' to copy; did you mean 'floder'"),
        ({"folder": 3}, "data.args.folder must be a path, a pattern or a list of paths; got 3"),
    ],
)
def test_what_cannot_be_a_path_is_said_before_anything_starts(args: dict[str, object], words: str):
    with pytest.raises(ConfigError, match=words):
        Config.model_validate(
            {
                "name": "staged",
                "model": {"source": "mine:build"},
                "data": {"source": "mine:load", "args": args, "stage": {"args": ["folder"]}},
                "training": {"epochs": 1, "batch_size_per_replica": 1},
            }
        )


# -- who reads what -----------------------------------------------------------------------------


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.integers(1, 7), st.integers(1, 20))
def test_ranks_read_each_byte_once_in_even_shares(sizes: list[int], num_ranks: int, piece: int):
    stream = Stream(tuple(sizes), num_ranks, piece)
    seen = [np.zeros(size, int) for size in sizes]
    shares = []
    for rank in range(num_ranks):
        segments = [one for number in range(stream.num_rounds) for one in stream.piece(rank, number)]
        assert stream.piece(rank, stream.num_rounds) == []
        shares.append(sum(segment.length for segment in segments))
        for segment in segments:
            seen[segment.file][segment.begin : segment.begin + segment.length] += 1
    assert all((file == 1).all() for file in seen)
    assert max(shares) - min(shares) <= 1


def test_one_rank_of_each_node_receives_and_all_of_them_take_part():
    nodes = nodes_of([[0, 1], [0, 1], [2, 3, 4], [2, 3, 4], [2, 3, 4]])
    assert nodes == [[0, 1], [2, 3, 4]]
    assert [receivers(rank, nodes) for rank in range(5)] == [[0, 2], [1, 3], [0, 2], [1, 3], [0, 4]]
    assert nodes_of([[0], [1]]) == [[0], [1]]


def test_copies_for_many_nodes_fit_into_the_buffer():
    assert all(piece_bytes(nodes) * max(1, nodes - 1) <= 2**26 for nodes in (1, 2, 5, 64, 1000))


# -- its parts ----------------------------------------------------------------------------------


def test_what_was_named_is_found(tmp_path: Path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one.rec").write_bytes(b"1")
    (tmp_path / "a" / "b" / "two.rec").write_bytes(b"22")
    whole = find(tmp_path / "a")
    assert [(file.name, file.size) for file in whole.files] == [("one.rec", 1), ("b/two.rec", 2)]
    assert (whole.folders, whole.wanted, whole.is_folder) == ((".", "b"), (".",), True)
    listed = find([tmp_path / "a" / "one.rec", tmp_path / "a" / "b" / "two.rec"])
    assert (listed.root, listed.wanted, listed.is_one) == (str(tmp_path / "a"), ("one.rec", "b/two.rec"), False)
    assert find(str(tmp_path / "*" / "*.rec")).wanted == ("one.rec",)
    assert Listing.from_json(whole.to_json()) == whole
    assert whole.key != find(tmp_path / "a" / "b").key


def test_what_cannot_be_staged_is_refused(tmp_path: Path):
    (tmp_path / "loop").symlink_to(tmp_path)
    with pytest.raises(UserCodeError, match="a link leads back"):
        find(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserCodeError, match="pipe: expected a file"):
        find(tmp_path / "pipe")
    with pytest.raises(UserCodeError, match="no file has this name"):
        find(tmp_path / "none*")
    with pytest.raises(UserCodeError, match="the list is empty"):
        find([])


def copy_of(folder: Path, *files: SourceFile) -> LocalCopy:
    copy = LocalCopy(folder, Listing("/data", files, (".",), (".",), is_one=True), "token")
    copy.make_folders()
    return copy


def test_a_copy_that_does_not_fit_is_not_begun(tmp_path: Path):
    copy = copy_of(tmp_path, SourceFile("huge", 2**60, 0))
    with pytest.raises(NoSpaceError, match=r"staging /data needs 1\.074e\+09 GiB in .* are free"):
        copy.require_space([0])
    assert copy.missing() == [0]


def test_damage_on_the_disk_is_noticed(tmp_path: Path):
    copy = copy_of(tmp_path, SourceFile("x", 4, 0))
    data = np.frombuffer(b"abcd", np.uint8)
    places = [(0, Segment(0, 0, 4))]
    copy.write(places, data)
    copy.check(places, digest(data))
    (part,) = tmp_path.rglob("unfinished-token/*")
    part.write_bytes(b"abcx")
    with pytest.raises(CorruptError, match="'x' is not what was read"):
        copy.check(places, digest(data))
    part.write_bytes(b"abc")
    with pytest.raises(CorruptError, match="3 bytes arrived of 4"):
        copy.finish([0])


def test_a_file_that_shrinks_is_noticed(tmp_path: Path):
    place = tmp_path / "x"
    place.write_bytes(b"abcd")
    listing = find(place)
    place.write_bytes(b"ab")
    os.utime(place, ns=(0, listing.files[0].mtime_ns))
    with pytest.raises(Exception, match=r"changed while it was being staged \(it had 4 bytes, now 2\)"):
        Reader(listing.root, listing.files).read([Segment(0, 0, 4)])


def test_the_disk_is_the_first_that_there_is(tmp_path: Path):
    environ = {"SLURM_TMPDIR": "/nowhere", "TMPDIR": str(tmp_path), "SLURM_JOB_ID": "17"}
    assert disk_folder("auto", environ) == tmp_path
    assert disk_folder("auto", {}) == Path("/tmp")
    folder = job_folder(tmp_path, environ)
    assert folder.name == f"hvdtrain-{os.getuid()}-17"
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(UserCodeError, match="somebody else made this"):
        job_folder(tmp_path, environ)


def test_a_copy_in_use_stays_until_its_last_process_leaves(tmp_path: Path):
    copy = copy_of(tmp_path / "job")
    stage_local.hold(copy.place, keep=False)
    code = f"from pathlib import Path; from hvdtrain.train import stage_local as s; p = Path({str(copy.place)!r}); "
    code += "s.hold(p, keep=False); print('held', flush=True); input(); s.leave()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    stage_local.leave()
    assert copy.root.exists()
    other.communicate("\n")
    assert not (tmp_path / "job").exists()
