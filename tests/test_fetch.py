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
            self.send_response(200 if self.path == "/mnist.npz" else 404)
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
fetch.FILES["mnist"] = fetch.DataFile("mnist.npz", sys.argv[1], "test")
print(fetch.fetch("mnist", os.environ))
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


def test_a_wrong_file_is_not_kept(server, tmp_path):
    address, _ = server
    environ = {"HVDTRAIN_DATA": str(tmp_path), "HVDTRAIN_DATA_MIRROR": address}
    with pytest.raises(CorruptError, match="SHA-256"):
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
    for name, known in fetch.FILES.items():
        source = Path(spec.origin).parent / "src" / "datasets" / f"{name}.py"
        assert known.sha256 in source.read_text()
