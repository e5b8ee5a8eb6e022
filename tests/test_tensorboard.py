"""TensorBoard on loopback alone, behind a path nobody guesses; and the tunnel that leads to it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from hvdtrain.interactive import Wish, allocation_command
from hvdtrain.sites import load_site
from tests.conftest import PROJECT, missing


def listeners(port: int) -> list[str]:
    """Return the addresses on which somebody listens at a port, in hexadecimal, from /proc."""
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            if state == "0A" and int(local.rsplit(":", 1)[1], 16) == port:
                found.append(local.rsplit(":", 1)[0])
    return found


@pytest.fixture
def run(tmp_path):
    """A run with two epochs of curves and some pictures."""
    command = [
        sys.executable, "-m", "hvdtrain", "run", str(PROJECT / "configs" / "digits_cnn.yaml"), "--ranks", "1",
        "--strategy", "single", "--runs", str(tmp_path), "--set", "training.epochs=2",
        "--set", "optimizer.warmup_epochs=0", "--set", "tensorboard.images=4",
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stderr
    return next(tmp_path.glob("*/*/plan.json")).parent


def asked(address: str, **body: Any) -> Any:
    """Return what a route of TensorBoard answers; a body is posted."""
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    return json.loads(urllib.request.urlopen(request, timeout=20).read())


def check_what_is_shown(data: str, runs: list[str]) -> None:
    """Ask for runs, pictures and hyperparameters as the pages do."""
    end = time.monotonic() + 60
    names = sorted(f"{run}/tensorboard/{part}" for run in runs for part in ("epochs", "steps"))
    while sorted(asked(f"{data}runs")) != names:  # it reads while it serves
        assert time.monotonic() < end, asked(f"{data}runs")
        time.sleep(0.3)
    pictures = asked(f"{data}plugin/images/tags")
    assert [sorted(tags) for tags in pictures.values()] == [["inputs", "mistakes"]] * 2
    scalars = asked(f"{data}plugin/scalars/tags")
    assert "learning_rate" in scalars[names[1]]
    experiment = asked(f"{data}plugin/hparams/experiment", experimentName="", includeMetrics=True)
    hyperparameters = {info["name"] for info in experiment["hparamInfos"]}
    assert {"training.epochs", "optimizer.learning_rate", "loss"} <= hyperparameters
    metrics = {info["name"]["tag"] for info in experiment["metricInfos"]}
    assert metrics == {f"epoch/{name}" for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
    everything = {"allowedStatuses": ["STATUS_SUCCESS"], "colParams": [], "startIndex": 0, "sliceSize": 10}
    found = asked(f"{data}plugin/hparams/session_groups", experimentName="", **everything)
    (group,) = found["sessionGroups"]
    assert group["hparams"]["training.epochs"] == 2
    assert len(group["sessions"]) == 2, "runs with equal settings share a row"


def test_curves_are_served_to_this_machine_alone(run):
    import importlib.util

    if importlib.util.find_spec("tensorboard") is None:
        missing("tensorboard", "TensorBoard is not installed")
    assert list((run / "tensorboard" / "epochs").glob("events.*"))
    shutil.copytree(run, run.with_name("20990101-000000-second"))
    process = subprocess.Popen(
        [sys.executable, "-m", "hvdtrain", "tensorboard", str(run.parent)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "USER": "me"},
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == f"2 runs in {run.parent}\n"
        lines = [process.stderr.readline() for _ in range(3)]
        address = re.search(r"http://127\.0\.0\.1:(\d+)(/\S+)", lines[0])
        assert address is not None, lines
        assert f"-L 6006:127.0.0.1:{address[1]} me@" in lines[1]
        assert f"http://127.0.0.1:6006{address[2]}" in lines[2]
        port, page = int(address[1]), None
        end = time.monotonic() + 60
        while page is None and time.monotonic() < end:
            try:
                page = urllib.request.urlopen(address[0], timeout=5).read()
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.3)
        assert page is not None
        assert b"TensorBoard" in page
        assert listeners(port) == ["0100007F"], "127.0.0.1 and nothing else"
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
        check_what_is_shown(f"{address[0]}data/", [run.name, "20990101-000000-second"])
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def test_a_run_without_curves_says_so(tmp_path):
    (tmp_path / "runs" / "x" / "20260101-000000-abcdef").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "20260101-000000-abcdef" / "plan.json").write_text("{}")
    command = [sys.executable, "-m", "hvdtrain", "tensorboard", "abcdef", "--runs", str(tmp_path / "runs")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 4
    assert "no curves yet" in result.stderr


def site(name: str):
    return load_site(str(PROJECT / "configs" / "sites" / f"{name}.yaml"), {})


def test_an_interactive_allocation_asks_for_what_is_wished():
    line = allocation_command(site("bridges2"), Wish(None, 1, 2, 5, 2, 30, "abc"), [])
    assert line[0] == "salloc"
    assert {"--partition=GPU", "--gpus-per-node=2", "--time=30", "--account=abc", "--cpus-per-task=5"} <= set(line)
    assert line[-2:] == ["bash", "-l"]


def test_what_a_node_does_not_have_is_refused_before_it_is_asked_for():
    from hvdtrain.errors import ConfigError

    with pytest.raises(ConfigError, match="nodes of main have none"):
        allocation_command(site("local-cluster"), Wish(None, 1, 1, 1, 1, 30, None), [])
    with pytest.raises(ConfigError, match="refuses jobs without one"):
        allocation_command(site("perlmutter"), Wish(None, 1, 1, 1, 1, 30, None), [])
