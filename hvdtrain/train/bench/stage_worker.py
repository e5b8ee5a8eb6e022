"""One rank of `hvdtrain.bench.staging`: `python -m hvdtrain.train.bench.stage_worker FOLDER`, which holds task.json."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import tensorflow as tf

import hvdtrain.keras as hk
from hvdtrain.train.data import origin


def main() -> None:
    """Stage if asked, read all epochs, and write seconds and bytes."""
    folder = Path(sys.argv[1])
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    world = hk.init()
    os.environ["OWN_DISK"] = str(folder / f"node_{world.rank % task['num_nodes']}")
    files, staging_s, at_source = task["files"], 0.0, 0
    world.comm.gather_json("ready", name="ready")
    if task["is_staged"]:
        before, began = num_read(), time.monotonic()
        files = hk.stage(files, to="$OWN_DISK")
        staging_s, at_source = time.monotonic() - began, num_read() - before
    data = hk.shard(hk.tfrecords(files, parse), batch_size=task["batch_size"])
    before, epochs_s = num_read(), []
    for epoch in range(task["epochs"]):
        origin(data).tell(epoch)
        world.comm.gather_json("epoch", name="epoch")
        began = time.monotonic()
        for _ in data:
            pass
        epochs_s.append(time.monotonic() - began)
    read = num_read() - before
    found = {"staging_s": staging_s, "staging_bytes": at_source, "epochs_s": epochs_s, "epochs_bytes": read}
    (folder / f"result_{world.rank:04d}.json").write_text(json.dumps(found), encoding="utf-8")
    world.comm.shutdown()


def parse(records: tf.Tensor) -> Any:
    """Touch each record."""
    return tf.strings.length(records), tf.strings.length(records)


def num_read() -> int:
    """Return the bytes this process has read with system calls so far, cached or not."""
    return int(Path("/proc/self/io").read_text(encoding="ascii").split()[1])


if __name__ == "__main__":
    main()
