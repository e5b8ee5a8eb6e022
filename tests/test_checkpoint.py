import doctest
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from hvdtrain.errors import CorruptError, NoSpaceError
from hvdtrain.train import checkpoint
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
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["arrays.npz"] = __import__("hashlib").sha256((path / "arrays.npz").read_bytes()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptError, match="pickle"):
        checkpoint.load(path)


def test_another_model_is_named():
    with pytest.raises(CorruptError, match=r"missing \['b'\].*unknown \['a'\]"):
        checkpoint.match_arrays({"a": np.ones(1)}, {"b": (1,)})
    with pytest.raises(CorruptError, match=r"a has shape \(1,\) in the checkpoint and \(2,\) in the model"):
        checkpoint.match_arrays({"a": np.ones(1)}, {"a": (2,)})
