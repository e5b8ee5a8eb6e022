import doctest
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hvdtrain.errors import CorruptError, NoSpaceError
from hvdtrain.train import checkpoint
from hvdtrain.train.bench import memory
from hvdtrain.train.checkpoint import Checkpoint


def make(step: int, value: float = 1.0) -> Checkpoint:
    arrays = {"model/00000/kernel": np.full((3, 2), value, "float32"), "seed/00000": np.array([7, 9], "uint32")}
    return Checkpoint(step=step, state={"epochs_done": step}, arrays=arrays)


def test_doctests():
    assert doctest.testmod(checkpoint).failed == 0


def test_what_is_saved_comes_back_bit_for_bit(tmp_path):
    path = checkpoint.save(tmp_path, make(12, np.float32(0.1)), keep=3)
    assert path.name == "step_00000012"
    found = checkpoint.load(path)
    assert found.step == 12
    assert found.state["epochs_done"] == 12
    assert {name: array.tobytes() for name, array in found.arrays.items()} == {
        name: array.tobytes() for name, array in make(12, np.float32(0.1)).arrays.items()
    }
    assert found.arrays["seed/00000"].dtype == np.uint32


def test_only_the_newest_stay(tmp_path):
    for step in (1, 2, 3, 4, 30):
        checkpoint.save(tmp_path, make(step), keep=2)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step_00000004", "step_00000030"]


def test_the_same_step_again_replaces_the_old_one(tmp_path):
    checkpoint.save(tmp_path, make(5, 1.0), keep=2)
    path = checkpoint.save(tmp_path, make(5, 2.0), keep=2)
    assert checkpoint.load(path).arrays["model/00000/kernel"][0, 0] == 2.0
    assert [entry.name for entry in tmp_path.iterdir()] == ["step_00000005"]


def test_what_is_saved_survives_every_type_and_shape_and_numpy_reads_it_too(tmp_path):
    arrays = {
        "a/scalar": np.array(3.5),
        "a/none": np.zeros((0, 4), "float16"),
        "a/fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "a/strided": np.arange(20)[::3],
        "a/flags": np.array([True, False]),
        "a/big": np.random.default_rng(0).random((600, 500)),
        "a/bytes": np.array([b"ab", b"c"]),
    }
    path = checkpoint.save(tmp_path, Checkpoint(1, {}, arrays), keep=1)
    found = checkpoint.load(path).arrays
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(found[name], array)
    with np.load(path / "arrays.npz", allow_pickle=False) as file:
        assert all(np.array_equal(file[name], array) for name, array in arrays.items())


def test_saving_needs_no_second_copy_and_loading_one(tmp_path):
    """100 MB; the control is the usual way, an .npz made in memory."""

    def extra_mb(work):
        memory.reset_peak()
        before = memory.peak_rss_mb()
        kept = work()
        del kept
        return memory.peak_rss_mb() - before

    arrays = {"w": np.random.default_rng(0).random(12_500_000)}
    big = Checkpoint(1, {}, arrays)
    assert extra_mb(lambda: checkpoint.save(tmp_path, big, keep=1)) < 15
    assert extra_mb(lambda: checkpoint.load(tmp_path / "step_00000001")) < 115
    assert extra_mb(lambda: np.savez(io.BytesIO(), big.arrays["w"])) > 90


def test_the_same_content_gives_the_same_bytes(tmp_path):
    one, two = (checkpoint.save(tmp_path / name, make(1), keep=1) for name in ("one", "two"))
    assert (one / "manifest.json").read_bytes() == (two / "manifest.json").read_bytes()


def test_objects_are_not_saved_and_leave_nothing(tmp_path):
    with pytest.raises(TypeError, match="w holds Python objects"):
        checkpoint.save(tmp_path, Checkpoint(1, {}, {"w": np.array([{}])}), keep=1)
    assert list(tmp_path.iterdir()) == []


def test_damaged_later_ones_do_not_push_out_the_new_one(tmp_path):
    """Training went on from step 5 because 10 and 11 were damaged; with keep 1 only the new one may stay."""
    checkpoint.save(tmp_path, make(5), keep=3)
    for step in (10, 11):
        (checkpoint.save(tmp_path, make(step), keep=3) / "state.json").write_text("{}")
    checkpoint.save(tmp_path, make(6), keep=1)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step_00000006"]


def test_valid_later_ones_are_never_pruned(tmp_path):
    checkpoint.save(tmp_path, make(10), keep=3)
    checkpoint.save(tmp_path, make(6), keep=1)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step_00000006", "step_00000010"]


def test_steps_of_nine_digits_come_after_those_of_eight(tmp_path):
    for step in (99_999_999, 100_000_000):
        checkpoint.save(tmp_path, make(step), keep=3)
    found, _ = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert found.step == 100_000_000


def test_one_that_was_set_aside_counts_until_its_successor_is_there(tmp_path):
    """A kill between the two renames of a replacement: the only checkpoint there is has the other name."""
    path = checkpoint.save(tmp_path, make(5), keep=1)
    aside = path.rename(tmp_path / f"{checkpoint.ASIDE}{path.name}")
    found, complaints = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert (found.step, complaints) == (5, [])
    checkpoint.clear_temporary(tmp_path)
    assert (path.is_dir(), aside.exists()) == (True, False)


def test_a_replacement_that_is_damaged_gives_way_to_what_it_replaced(tmp_path):
    path = checkpoint.save(tmp_path, make(5, 1.0), keep=1)
    shutil.copytree(path, tmp_path / f"{checkpoint.ASIDE}{path.name}")
    (path / "arrays.npz").write_bytes(b"")
    found, complaints = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert len(complaints) == 1


def test_other_files_beside_a_checkpoint_are_ignored(tmp_path):
    path = checkpoint.save(tmp_path, make(5), keep=1)
    (path / ".nfs0001").write_text("left by a file server")
    (tmp_path / "step_notes.txt").write_text("")
    assert checkpoint.load_newest(tmp_path)[0] is not None


@pytest.mark.parametrize("make_it", [Path.touch, Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_what_only_has_the_name_of_a_checkpoint_is_passed_over(tmp_path, make_it):
    checkpoint.save(tmp_path, make(5), keep=1)
    make_it(tmp_path / "step_00000006")
    found, complaints = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert len(complaints) == 1
    checkpoint.save(tmp_path, make(5), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000005"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("{", '{"arrays.npz": "0", ', 1),  # the same key twice: JSON takes the last
        lambda text: text + "\n",
        lambda text: text.replace('"state.json"', '"State.json"'),
        lambda text: "{}",
        lambda text: "[" * 100_000,
    ],
)
def test_a_manifest_is_right_to_the_byte_or_wrong(tmp_path, change):
    path = checkpoint.save(tmp_path, make(5), keep=1)
    manifest = path / "manifest.json"
    manifest.write_text(change(manifest.read_text()))
    with pytest.raises(CorruptError, match="step_00000005"):
        checkpoint.load(path)
    with pytest.raises(CorruptError, match="step_00000005"):
        checkpoint.verify(path)


def sign(path):
    """Make the manifest fit whatever the files are now."""
    files = {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in checkpoint.FILES}
    (path / "manifest.json").write_text(json.dumps(files, indent=1))


def bomb(path):
    with zipfile.ZipFile(path / "arrays.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", bytes(10_000_000))


def endless(path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    with zipfile.ZipFile(path / "arrays.npz", "w") as archive:
        archive.writestr("w.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)


def twice(path):
    with zipfile.ZipFile(path / "arrays.npz", "w") as archive:
        archive.writestr("w.npy", b"")
        archive.writestr("v.npy", b"")
        archive.infolist()[1].filename = "w.npy"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (bomb, "w.npy is compressed"),
        (endless, "w.npy has 0 bytes for shape"),
        (twice, "cannot be read"),
        (lambda path: (path / "state.json").write_text("[]"), "cannot be read"),
        (lambda path: (path / "state.json").write_text('{"format": 1}'), "KeyError: 'step'"),
        (lambda path: (path / "state.json").write_text('{"format": 9, "step": 1}'), "newer hvdtrain"),
        (lambda path: (path / "state.json").write_text("[" * 100_000), "cannot be read"),
    ],
)
def test_wrong_files_with_a_manifest_that_fits_are_explained(tmp_path, spoil, words):
    path = checkpoint.save(tmp_path, make(5), keep=1)
    spoil(path)
    sign(path)
    with pytest.raises(CorruptError, match=re.escape(words)) as error:
        checkpoint.load(path)
    assert str(path) in str(error.value)


def test_a_state_that_does_not_say_where_training_was_is_explained():
    assert Checkpoint(3, {"epochs_done": 2, "steps_done": 1}, {}).position == (2, 1)
    for state in ({}, {"epochs_done": None}, {"epochs_done": "x"}):
        with pytest.raises(CorruptError, match=r"step_00000003/state.json.*epochs_done"):
            _ = Checkpoint(3, state, {}).position


def test_what_does_not_read_back_never_becomes_a_checkpoint(tmp_path, monkeypatch):
    """A disk that loses a byte: os.fsync is where the test can reach in."""
    checkpoint.save(tmp_path, make(1), keep=3)
    real = os.fsync

    def losing(descriptor):
        real(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.name == "arrays.npz":
            os.truncate(path, path.stat().st_size - 1)

    monkeypatch.setattr(os, "fsync", losing)
    with pytest.raises(CorruptError, match=r"step 2 does not read back as it was written.*earlier"):
        checkpoint.save(tmp_path, make(2), keep=3)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]


def test_a_reader_beside_a_writer_always_finds_a_whole_one(tmp_path):
    """With keep 1 and steps saved twice: what the reader has listed is replaced and pruned under its hands."""
    checkpoint.save(tmp_path, make(0), keep=1)
    stop = threading.Event()

    def write():
        step = 0
        while not stop.is_set():
            checkpoint.save(tmp_path, make(step // 2, float(step)), keep=1)
            step += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        steps = [0]
        deadline = time.monotonic() + 60
        while steps[-1] < 40 and time.monotonic() < deadline:
            found, complaints = checkpoint.load_newest(tmp_path)
            assert found is not None
            assert complaints == []
            steps.append(found.step)
    finally:
        stop.set()
        writer.join()
    assert steps == sorted(steps)
    assert steps[-1] >= 40


@pytest.mark.parametrize("name", ["arrays.npz", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_damage_is_found_and_the_one_before_is_used(tmp_path, name, damage):
    checkpoint.save(tmp_path, make(1), keep=3)
    file = checkpoint.save(tmp_path, make(2), keep=3) / name
    data = bytearray(file.read_bytes())
    if damage == "delete":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(data[:-3])
    else:
        data[len(data) // 2] ^= 4
        file.write_bytes(data)
    found, complaints = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert found.step == 1
    assert len(complaints) == 1
    assert "step_00000002" in complaints[0]


def test_when_all_are_damaged_nothing_is_loaded(tmp_path):
    (checkpoint.save(tmp_path, make(1), keep=3) / "arrays.npz").write_bytes(b"")
    with pytest.raises(CorruptError, match="no valid checkpoint is left"):
        checkpoint.load_newest(tmp_path)


def test_no_checkpoint_at_all_is_not_an_error(tmp_path):
    assert checkpoint.load_newest(tmp_path / "none") == (None, [])


def test_a_half_written_one_is_never_seen_and_is_cleared(tmp_path):
    left = tmp_path / f"{checkpoint.TEMPORARY}step_00000009-1"
    left.mkdir(parents=True)
    (left / "arrays.npz").write_bytes(b"half")
    assert checkpoint.load_newest(tmp_path) == (None, [])
    checkpoint.save(tmp_path, make(1), keep=1)
    assert not left.exists()


def test_a_full_disk_leaves_the_old_one_and_says_so(tmp_path):
    """A real limit on file size; the process that hits it must explain itself and leave nothing behind."""
    checkpoint.save(tmp_path, make(1), keep=3)
    script = f"""
import resource, signal, errno, numpy as np
from pathlib import Path
from hvdtrain.train import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
big = checkpoint.Checkpoint(2, {{}}, {{"w": np.ones(10_000)}})
try:
    checkpoint.save(Path({str(tmp_path)!r}), big, keep=3)
except OSError as error:
    print(errno.errorcode[error.errno])
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "EFBIG"
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: mounting a small file system needs root")
def test_no_space_is_explained(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], check=False).returncode:
        pytest.skip("NOT TESTED: tmpfs cannot be mounted here")
    try:
        checkpoint.save(disk, make(1), keep=3)
        big = Checkpoint(2, {}, {"w": np.ones(100_000)})
        with pytest.raises(NoSpaceError, match=r"no space left for the checkpoint of step 2.*untouched"):
            checkpoint.save(disk, big, keep=3)
        assert [path.name for path in disk.iterdir()] == ["step_00000001"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_pickle_inside_is_not_loaded(tmp_path):
    path = checkpoint.save(tmp_path, make(1), keep=3)
    np.savez(path / "arrays.npz", w=np.array([{"evil": 1}], dtype=object))
    sign(path)
    with pytest.raises(CorruptError, match="pickle"):
        checkpoint.load(path)


def test_another_model_is_named():
    with pytest.raises(CorruptError, match=r"missing \['b'\].*unknown \['a'\]"):
        checkpoint.match_arrays({"a": np.ones(1)}, {"b": (1,)})
    with pytest.raises(CorruptError, match=r"a has shape \(1,\) in the checkpoint and \(2,\) in the model"):
        checkpoint.match_arrays({"a": np.ones(1)}, {"a": (2,)})
