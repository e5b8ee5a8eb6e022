"""Data sets: one download however many processes ask, whole and right or not at all."""

import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hvdtrain import fetch
from hvdtrain.data_files import DATA_SETS, DataFile, DataSet
from hvdtrain.errors import CorruptError, EnvironmentNotFitError, NotFoundError

CONTENT = b"not really digits" * 4096
NAME = "mnist"


@pytest.fixture
def server(monkeypatch):
    """A server that is slow enough for others to come, and counts."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            time.sleep(0.5)
            self.send_response(200 if self.path.startswith("/mnist.npz") else 404)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *arguments):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}", asked
    httpd.shutdown()


CHILD = """
import os, sys
from hvdtrain import fetch
from hvdtrain.data_files import DATA_SETS, DataFile, DataSet
DATA_SETS["mnist"] = DataSet("test", (DataFile("mnist.npz", "http://127.0.0.1:9/mnist.npz", sys.argv[1]),))
try:
    print(fetch.fetch("mnist", os.environ))
except Exception as error:
    print(error)
    sys.exit(3)
"""


def child(address: str, folder: Path, sha256: str) -> subprocess.Popen:
    environ = {**os.environ, "HVDTRAIN_DATA": str(folder), "HVDTRAIN_DATA_MIRROR": address}
    return subprocess.Popen([sys.executable, "-c", CHILD, sha256], env=environ, stdout=subprocess.PIPE, text=True)


def test_eight_ranks_ask_and_one_downloads(server, tmp_path):
    address, asked = server
    children = [child(address, tmp_path, hashlib.sha256(CONTENT).hexdigest()) for _ in range(8)]
    for one in children:
        out, _ = one.communicate(timeout=60)
        assert one.returncode == 0
        assert out.strip() == str(tmp_path / "mnist.npz")
    assert asked == ["/mnist.npz"]
    assert (tmp_path / "mnist.npz").read_bytes() == CONTENT


def test_eight_ranks_ask_in_vain_and_one_finds_out(server, tmp_path):
    """Else a node without a network would try once for each rank, one minute after the other."""
    address, asked = server
    children = [child(f"{address}/nothing", tmp_path, "0" * 64) for _ in range(8)]
    words = set()
    for one in children:
        words.add(one.communicate(timeout=60)[0])
        assert one.returncode == 3
    assert len(words) == 1
    assert "cannot be reached" in words.pop()
    assert len(asked) < 8, "children that start late may ask for themselves"


def test_a_data_set_of_several_files_goes_where_keras_looks(server, tmp_path, monkeypatch):
    address, asked = server
    files = tuple(
        DataFile(f"clothes/mnist.npz{part}", f"http://127.0.0.1:9/mnist.npz{part}", hashlib.md5(CONTENT).hexdigest())
        for part in "ab"
    )
    monkeypatch.setitem(DATA_SETS, "mnist", DataSet("test", files))
    environ = {"HVDTRAIN_DATA": str(tmp_path), "HVDTRAIN_DATA_MIRROR": address}
    for _ in range(2):
        assert fetch.fetch(NAME, environ) == tmp_path / "clothes"
    assert asked == ["/mnist.npza", "/mnist.npzb"]
    assert (tmp_path / "clothes" / "mnist.npzb").read_bytes() == CONTENT


@pytest.mark.parametrize("copy", ["cifar-10-python.tar.gz", "cifar-10-batches-py/test_batch"])
def test_a_sites_own_copy_in_another_form_is_found(tmp_path, copy):
    (tmp_path / copy).parent.mkdir(exist_ok=True)
    (tmp_path / copy).write_bytes(b"")
    assert fetch.fetch("cifar10", {"HVDTRAIN_DATA": str(tmp_path)}) == tmp_path / copy.split("/")[0]


def test_what_needs_an_account_says_where(tmp_path):
    with pytest.raises(EnvironmentNotFitError, match=r"train\.csv is not there.*log in at https://www\.kaggle\.com"):
        fetch.fetch("digit_recognizer", {"HVDTRAIN_DATA": str(tmp_path)})


def test_a_wrong_file_is_not_kept(server, tmp_path):
    address, _ = server
    environ = {"HVDTRAIN_DATA": str(tmp_path), "HVDTRAIN_DATA_MIRROR": address}
    with pytest.raises(CorruptError, match="sha256 checksum"):
        fetch.fetch(NAME, environ)
    assert [path.name for path in tmp_path.iterdir()] == [".mnist.npz.lock"]


def test_one_that_dies_while_it_downloads_leaves_no_file_and_no_lock(server, tmp_path):
    address, _ = server
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    first = child(address, tmp_path, sha256)
    end = time.monotonic() + 30
    while not (tmp_path / ".mnist.npz.lock").exists() and time.monotonic() < end:
        time.sleep(0.01)
    first.kill()
    first.communicate()
    assert not (tmp_path / "mnist.npz").exists()
    second = child(address, tmp_path, sha256)
    second.communicate(timeout=60)
    assert second.returncode == 0


def test_without_a_network_it_says_what_to_do(tmp_path):
    environ = {"HVDTRAIN_DATA": str(tmp_path), "HVDTRAIN_DATA_MIRROR": "http://127.0.0.1:9"}
    with pytest.raises(EnvironmentNotFitError, match="login node"):
        fetch.fetch(NAME, environ)


def test_what_is_there_is_taken_as_it_is(tmp_path):
    (tmp_path / "mnist.npz").write_bytes(b"a site's own copy")
    assert fetch.fetch(NAME, {"HVDTRAIN_DATA": str(tmp_path)}) == tmp_path / "mnist.npz"


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(NotFoundError, match="did you mean 'mnist'"):
        fetch.fetch("mnits", {})


def test_checksums_are_kerass_own():
    import importlib.util

    spec = importlib.util.find_spec("keras")
    assert spec is not None
    assert spec.origin is not None
    for name, known in DATA_SETS.items():
        if known.log_in:
            continue
        source = (Path(spec.origin).parent / "src" / "datasets" / f"{name}.py").read_text()
        for file in known.files:
            assert Path(file.address).name in source
            assert file.checksum in source or name == "fashion_mnist", "Keras checks nothing of Fashion-MNIST"
            *folders, last = file.file.split("/")
            assert all(f'"{part}"' in source for part in folders)
            assert f'"{last.removesuffix("_archive")}"' in source
